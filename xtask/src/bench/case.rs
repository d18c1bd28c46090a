//! What is measured: a kind of work, described by numbers of tokens.

use std::fmt;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Case {
    /// Tokens of the prompt; 0: prefill is not measured.
    pub(super) prompt: usize,
    /// Tokens generated for each sequence; 0: decoding is not measured.
    pub(super) generate: usize,
    /// Tokens of each sequence that are in the cache before.
    pub(super) depth: usize,
    /// Sequences that are computed together.
    pub(super) sequences: usize,
    /// The whole process, from its start to the end of its first token.
    pub(super) process: bool,
}

const NONE: Case = Case { prompt: 0, generate: 0, depth: 0, sequences: 1, process: false };

/// The cases by name.
const CASES: &[(&str, &[Case])] = &[
    ("short", &[Case { prompt: 3, ..NONE }]),
    ("standard", &[Case { prompt: 512, generate: 64, ..NONE }]),
    ("long", &[Case { prompt: 2048, ..NONE }]),
    ("deep", &[Case { generate: 32, depth: 4096, ..NONE }]),
    ("batch", &[batch(1), batch(2), batch(4), batch(8), batch(16), batch(32)]),
    ("start", &[Case { prompt: 16, process: true, ..NONE }]),
];

/// The name of the benchmarks of single operators, which need no model.
const OPERATORS: &str = "operators";

const fn batch(sequences: usize) -> Case {
    Case { generate: 32, depth: 128, sequences, ..NONE }
}

/// What was asked for.
pub(super) struct Wanted {
    pub(super) cases: Vec<Case>,
    pub(super) operators: bool,
}

/// The cases of these names: all when there are none, of which `quick` keeps the standard.
pub(super) fn named(names: &[String], quick: bool) -> Result<Wanted> {
    let known = || CASES.iter().map(|case| case.0).chain([OPERATORS]);
    if let Some(name) = names.iter().find(|name| !known().any(|known| known == **name)) {
        bail!("there is no case '{name}'; there are: {}", known().collect::<Vec<_>>().join(", "));
    }
    let wanted = |name: &str| match names {
        [] => !quick || name == "standard",
        names => names.iter().any(|wanted| wanted == name),
    };
    let cases = CASES.iter().filter(|case| wanted(case.0)).flat_map(|case| case.1).copied().collect();
    Ok(Wanted { cases, operators: wanted(OPERATORS) })
}

impl Case {
    /// Positions that one sequence takes.
    pub(super) fn positions(&self) -> usize {
        self.depth + self.prompt.max(self.generate)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.process {
            parts.push(format!("start with a prompt of {}", self.prompt));
        } else if self.prompt > 0 {
            parts.push(format!("prefill {}", self.prompt));
        }
        if self.generate > 0 {
            parts.push(format!("decode {}", self.generate));
        }
        if self.sequences > 1 {
            parts.push(format!("of {} sequences", self.sequences));
        }
        if self.depth > 0 {
            parts.push(format!("after {}", self.depth));
        }
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_name() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = named(&[], false).unwrap();
        assert!(all.operators && all.cases.len() == 11);
        let quick = named(&[], true).unwrap();
        assert!(!quick.operators && quick.cases == [Case { prompt: 512, generate: 64, ..NONE }]);
        assert_eq!(named(&names(&["batch", "short"]), true).unwrap().cases.len(), 7);
        assert!(named(&names(&["operators"]), false).unwrap().cases.is_empty());
        assert!(named(&names(&["x"]), false).err().unwrap().to_string().contains("standard"));
    }

    #[test]
    fn a_case_says_what_it_is() {
        assert_eq!(CASES[1].1[0].to_string(), "prefill 512 decode 64");
        assert_eq!(batch(8).to_string(), "decode 32 of 8 sequences after 128");
    }
}
