//! Regular expressions and choices, against another library's automaton.

use proptest::prelude::*;
use regex_automata::meta::Regex;
use rz_constrain::ConstraintSpec;

use crate::walk::{Dice, accepts, compile, walk};

fn check(pattern: &str, seeds: std::ops::Range<u64>) {
    let oracle = Regex::new(&format!("^(?:{pattern})$")).unwrap();
    let constraint = compile(&ConstraintSpec::Regex(pattern.to_owned()))
        .unwrap_or_else(|error| panic!("{pattern}: {error}"));
    for seed in seeds {
        let (bytes, complete) = walk(&*constraint, &mut Dice(seed), 200);
        if complete {
            let text = String::from_utf8(bytes).unwrap();
            assert!(oracle.is_match(&text), "{pattern}: {text:?}");
        }
    }
    for text in
        ["", "a", "ab", "abc", "aab", "b", "ba", "cab", "1", "12", "é", "aé", " ", "a b", "/", "\\", "$"]
    {
        assert_eq!(accepts(&*constraint, text), oracle.is_match(text), "{pattern}: {text:?}");
    }
}

#[test]
fn texts_match_the_expression_as_a_whole() {
    for pattern in [
        r"[a-z]{3}",
        r"^a+b?$",
        r"(yes|no|maybe)( sir)?",
        r"\d{4}-\d{2}-\d{2}",
        r"é|ü+|[α-ω]{2,5}",
        r"a/b\\c\$",
        r"(?i)hello",
        r"[^a-z]{1,4}",
        r".*",
        r"(a|aa|aaa)b*",
        r"",
        r"\/?[\w.]+@[\w.]+",
    ] {
        check(pattern, 0..20);
    }
}

#[test]
fn one_of_several_is_chosen() {
    let choices = ["yes", "yes, sir", "n.o*", "/\\", "é\n", "\"q\""].map(str::to_owned);
    let constraint = compile(&ConstraintSpec::Choice(choices.to_vec())).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let (bytes, complete) = walk(&*constraint, &mut Dice(seed), 50);
        let text = String::from_utf8(bytes).unwrap();
        assert!(complete && choices.contains(&text), "{text:?}");
        seen.insert(text);
    }
    assert!(seen.len() > 3, "{seen:?}");
    assert!(choices.iter().all(|choice| accepts(&*constraint, choice)));
    assert!(!accepts(&*constraint, "nXoo"));
}

/// Random expressions over a few letters.
fn pattern() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec!["a", "b", "c", "[ab]", "[^a]", ".", "é", "ab", r"\d", r"\/"]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|parts| format!("({})", parts.join("|"))),
            (inner, prop::sample::select(vec!["*", "+", "?", "{2}", "{1,3}"]))
                .prop_map(|(inner, count)| format!("({inner}){count}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_match_random_expressions(pattern in pattern()) {
        check(&pattern, 0..3);
    }
}
