//! Grammars in llama.cpp's notation, against a recognizer that works from the definition.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rz_constrain::ConstraintSpec;

use crate::walk::{Dice, accepts, allowed, compile, walk};

fn gbnf(text: &str) -> ConstraintSpec {
    ConstraintSpec::Gbnf(text.to_owned())
}

const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# optional space, at most a line end and some
ws ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn a_grammar_of_json_gives_json() {
    let constraint = compile(&gbnf(JSON)).unwrap();
    for text in ["{}", "{\"a\":[1, 2.5e3 , {}], \"b\":\"\\u00e9\\\"é\"}", "{ \"t\": true,\n\t\"n\":null }"] {
        assert!(accepts(&*constraint, text), "{text}");
    }
    for text in ["[]", "{\"a\"}", "{\"a\":01}", "{\"a\":1,}", "{a:1}", "{}x"] {
        assert!(!accepts(&*constraint, text), "{text}");
    }
    let mut complete = 0;
    for seed in 0..60 {
        let (bytes, ended) = walk(&*constraint, &mut Dice(seed), 300);
        if ended {
            let text = String::from_utf8(bytes).unwrap();
            let value: serde_json::Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(value.is_object());
            complete += 1;
        }
    }
    assert!(complete > 10, "{complete}");
}

#[test]
fn words_that_could_go_on_are_taken_apart() {
    // Each refers to itself, so that it is more than one word.
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (
            "root ::= [a-z]* \"x\" (\"(\" root \")\")?",
            &["x", "xx", "abx", "ax(x)", "x(x(ax))"],
            &["", "a", "x()"],
        ),
        ("root ::= a root? b\na ::= \"a\"+\nb ::= \"ab\"", &["aab", "aaab", "aaabab"], &["ab", "a", "aabb"]),
        ("root ::= \"a\" root \"b\" | \"\"", &["", "ab", "aabb"], &["a", "aab", "ba"]),
        ("root ::= root \"+\" root | \"1\"", &["1", "1+1", "1+1+1"], &["", "+", "1+"]),
        ("root ::= ws (\"b\" root)? ws\nws ::= \" \"*", &["", " ", "b", "  b b  "], &["a", "x b"]),
        ("root ::= (\"if\" | [a-z]+) (\" \" root)?", &["if", "iff", "if if", "i f"], &["", " ", "if "]),
    ];
    for (grammar, right, wrong) in cases {
        let constraint = compile(&gbnf(grammar)).unwrap_or_else(|error| panic!("{grammar}: {error}"));
        for text in right {
            assert!(accepts(&*constraint, text), "{grammar}: {text:?}");
        }
        for text in wrong {
            assert!(!accepts(&*constraint, text), "{grammar}: {text:?}");
        }
    }
}

#[test]
fn what_cannot_be_translated_is_refused_by_name() {
    for (grammar, named) in [
        ("", "'root'"),
        ("start ::= \"a\"", "'root'"),
        ("root ::= b", "'b'"),
        ("root = \"a\"", "line 1"),
        ("root ::= \"a", "\" is missing"),
        ("root ::= [a", "] is missing"),
        ("root ::= []", "no characters"),
        ("root ::= [z-a]", "wrong way"),
        ("root ::= (\"a\"", "not closed"),
        ("root ::= \"a\")", "end of the line"),
        ("root ::= \"a\"{3,2}", "fewer"),
        ("root ::= \"a\"{99999}", "times"),
        ("root ::= \"\\q\"", "'\\q'"),
        ("root ::= \"\\ud800\"", "d800"),
        ("root ::= <think> \"a\"", "tokens"),
        ("root ::= * \"a\"", "'*'"),
        ("root ::= \"a\"\nroot ::= \"b\"", "two rules"),
        ("root ::= \"a\" | b\nb ::= \"x\" b", "'b' describes no text"),
    ] {
        let error = compile(&gbnf(grammar)).err().unwrap_or_else(|| panic!("{grammar}")).to_string();
        assert!(
            error.contains(named) && error.starts_with("the grammar cannot be used"),
            "{grammar}: {error}"
        );
    }
}

/// What a rule of a random grammar is made of.
#[derive(Clone, Debug)]
enum Part {
    Text(&'static str),
    Class(&'static str),
    Rule(usize),
    Sequence(Vec<Part>),
    Choice(Vec<Part>),
    Repeat(Box<Part>, usize, Option<usize>),
}

const RULES: usize = 3;

fn part() -> impl Strategy<Value = Part> {
    let leaf = prop_oneof![
        3 => prop::sample::select(vec!["a", "b", "ab", "ba", "aab"]).prop_map(Part::Text),
        2 => prop::sample::select(vec!["a", "ab", "abc"]).prop_map(Part::Class),
        3 => (0..RULES).prop_map(Part::Rule),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        let count = prop::sample::select(vec![(0, None), (1, None), (0, Some(1)), (2, Some(3))]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Part::Sequence),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Part::Choice),
            (inner, count).prop_map(|(inner, (least, most))| Part::Repeat(Box::new(inner), least, most)),
        ]
    })
}

impl Part {
    fn write(&self) -> String {
        match self {
            Part::Text(text) => format!("{text:?}"),
            Part::Class(class) => format!("[{class}]"),
            Part::Rule(0) => "root".to_owned(),
            Part::Rule(rule) => format!("r{rule}"),
            Part::Sequence(parts) => {
                format!("({})", parts.iter().map(Part::write).collect::<Vec<_>>().join(" "))
            }
            Part::Choice(parts) => {
                format!("({})", parts.iter().map(Part::write).collect::<Vec<_>>().join(" | "))
            }
            Part::Repeat(part, least, most) => {
                let most = most.map_or(String::new(), |most| most.to_string());
                format!("({}){{{least},{most}}}", part.write())
            }
        }
    }

    /// Where a match that begins at `from` may end, as far as is known of the rules.
    fn ends(&self, text: &[u8], from: usize, rules: &[Vec<BTreeSet<usize>>]) -> BTreeSet<usize> {
        match self {
            Part::Text(word) => {
                text[from..].starts_with(word.as_bytes()).then_some(from + word.len()).into_iter().collect()
            }
            Part::Class(class) => {
                let fits = text.get(from).is_some_and(|byte| class.as_bytes().contains(byte));
                fits.then_some(from + 1).into_iter().collect()
            }
            Part::Rule(rule) => rules[*rule][from].clone(),
            Part::Sequence(parts) => {
                let mut at = BTreeSet::from([from]);
                for part in parts {
                    at = at.into_iter().flat_map(|from| part.ends(text, from, rules)).collect();
                }
                at
            }
            Part::Choice(parts) => parts.iter().flat_map(|part| part.ends(text, from, rules)).collect(),
            Part::Repeat(part, least, most) => {
                let mut at = BTreeSet::from([from]);
                let mut all = BTreeSet::new();
                // More copies than this add nothing but empty ones.
                for copy in 0..=most.unwrap_or(least + text.len() + 1) {
                    if copy >= *least {
                        all.extend(&at);
                    }
                    at = at.into_iter().flat_map(|from| part.ends(text, from, rules)).collect();
                }
                all
            }
        }
    }
}

/// Whether a part describes a text that takes no more than so many levels of rules. Of three rules, none that describes
/// a text needs more than three.
fn can_end(grammar: &[Part], part: &Part, levels: usize) -> bool {
    match part {
        Part::Text(_) | Part::Class(_) => true,
        Part::Rule(rule) => levels > 0 && can_end(grammar, &grammar[*rule], levels - 1),
        Part::Sequence(parts) => parts.iter().all(|part| can_end(grammar, part, levels)),
        Part::Choice(parts) => parts.iter().any(|part| can_end(grammar, part, levels)),
        Part::Repeat(part, least, _) => *least == 0 || can_end(grammar, part, levels),
    }
}

/// Whether the first rule describes a text.
fn describes(grammar: &[Part], text: &str) -> bool {
    let text = text.as_bytes();
    let mut ends = vec![vec![BTreeSet::new(); text.len() + 1]; grammar.len()];
    loop {
        let before = ends.clone();
        for (rule, part) in grammar.iter().enumerate() {
            for from in 0..=text.len() {
                let more = part.ends(text, from, &ends);
                ends[rule][from].extend(more);
            }
        }
        if ends == before {
            return ends[0][0].contains(&text.len());
        }
    }
}

/// All texts of up to so many letters that a constraint lets through.
fn texts(
    constraint: &dyn rz_engine::Constraint,
    text: &mut String,
    most: usize,
    found: &mut BTreeSet<String>,
) {
    let mut fork = constraint.fork();
    let next = if fork.is_complete() { Vec::new() } else { allowed(&mut *fork) };
    if fork.is_complete() || next.contains(&2) {
        found.insert(text.clone());
    }
    if text.len() == most {
        return;
    }
    for letter in "abc".bytes().filter(|letter| next.contains(&(3 + u32::from(*letter)))) {
        let mut fork = constraint.fork();
        fork.accept(3 + u32::from(letter)).unwrap();
        text.push(letter.into());
        texts(&*fork, text, most, found);
        text.pop();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_grammars_describe_the_same_texts(grammar in prop::collection::vec(part(), RULES)) {
        const LONGEST: usize = 5;
        let mut all = vec![String::new()];
        for length in 0..LONGEST {
            let longer = all.iter().filter(|text| text.len() == length);
            let longer: Vec<_> =
                longer.flat_map(|text| ["a", "b", "c"].map(|letter| format!("{text}{letter}"))).collect();
            all.extend(longer);
        }
        let expected: BTreeSet<String> = all.into_iter().filter(|text| describes(&grammar, text)).collect();
        let lines = grammar.iter().enumerate().map(|(rule, part)| format!("{} ::= {}\n", Part::Rule(rule).write(), part.write()));
        let text: String = lines.collect();
        match compile(&gbnf(&text)) {
            Ok(constraint) => {
                let mut found = BTreeSet::new();
                texts(&*constraint, &mut String::new(), LONGEST, &mut found);
                prop_assert_eq!(found, expected, "{}", text);
            }
            // Who begins with a rule that describes no text could not end.
            Err(error) => {
                prop_assert!(error.to_string().contains("describes no text"), "{}: {}", text, error);
                prop_assert!((0..RULES).any(|rule| !can_end(&grammar, &Part::Rule(rule), RULES)), "{}: {}", text, error);
            }
        }
    }
}
