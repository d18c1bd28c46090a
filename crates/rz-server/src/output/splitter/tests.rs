//! Answers of every family, cut anywhere.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::output::Functions;

const TOOLS: Format = Format {
    reasoning: true,
    thinking: false,
    tools: Some(ToolFormat::GENERIC),
    functions: None,
    calling: false,
    one_call: false,
};

/// The parts of an answer that comes in pieces of `size` characters, neighbours of a kind joined.
fn split(format: Format, answer: &str, size: usize) -> Vec<Part> {
    let chars: Vec<char> = answer.chars().collect();
    split_as(format, chars.chunks(size).map(|piece| piece.iter().collect()))
}

fn split_as(format: Format, pieces: impl IntoIterator<Item = String>) -> Vec<Part> {
    let mut splitter = Splitter::new(format);
    let mut out = Vec::new();
    for piece in pieces {
        let mut parts = Vec::new();
        splitter.push(&piece, &mut parts);
        out.extend(parts);
    }
    let mut parts = Vec::new();
    splitter.finish(&mut parts);
    out.extend(parts);
    let mut joined: Vec<Part> = Vec::new();
    for part in out {
        match (joined.last_mut(), part) {
            (Some(Part::Text(text)), Part::Text(more))
            | (Some(Part::Reasoning(text)), Part::Reasoning(more))
            | (Some(Part::CallArguments(text)), Part::CallArguments(more)) => *text += &more,
            (_, part) => joined.push(part),
        }
    }
    joined
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> [Part; 2] {
    [Part::CallStart(name.to_owned()), Part::CallArguments(arguments.to_owned())]
}

/// The parts are the same however the answer is cut.
fn check(format: Format, answer: &str, expected: &[Part]) {
    for size in 1..=answer.chars().count().max(1) {
        assert_eq!(split(format.clone(), answer, size), expected, "{answer:?} in pieces of {size}");
    }
}

#[test]
fn text_stays_text() {
    check(TOOLS, "Hello, <b>world</b> {\"a\": 1}", &[text("Hello, <b>world</b> {\"a\": 1}")]);
    check(TOOLS, "a < b <thin", &[text("a < b <thin")]);
    check(Format::default(), " <think>x</think> <tool_call>", &[text(" <think>x</think> <tool_call>")]);
}

#[test]
fn thoughts_come_first() {
    let thoughts = |thoughts: &str| Part::Reasoning(thoughts.to_owned());
    check(TOOLS, "<think>\nSo it\nis.\n</think>\n\nYes.", &[thoughts("So it\nis."), text("Yes.")]);
    check(TOOLS, "No <think>x</think>", &[text("No <think>x</think>")]);
    check(TOOLS, "<think>\n\n</think>\n\nYes.", &[text("Yes.")]);
    let untold = Format { tools: None, ..TOOLS };
    check(untold.clone(), "<think>\nSo.\n</think>\n\nYes.\n", &[thoughts("So."), text("Yes.\n")]);
    check(untold, "<think>\nSo.\n</think>\n\n", &[thoughts("So.")]);
    let begun = Format { thinking: true, ..TOOLS };
    check(begun.clone(), "So.\n</think>Yes </think>", &[thoughts("So."), text("Yes </think>")]);
    check(begun, "never ends </thin", &[thoughts("never ends </thin")]);
}

#[test]
fn calls_are_found() {
    let one =
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"}\\\"{\", \"y\": [1, {}]}}\n</tool_call>";
    let first = call("f", "{\"x\": \"}\\\"{\", \"y\": [1, {}]}");
    check(TOOLS, one, &first);
    check(TOOLS, &format!("Let me look.\n\n{one}\n"), &[&[text("Let me look.")], &first[..]].concat());
    let two = format!("{one}\n<tool_call>{{\"arguments\":{{}},\"name\":\"g\"}}</tool_call>");
    check(TOOLS, &two, &[first.clone(), call("g", "{}")].concat());
    // Without arguments, with them in a string, in an object of their own, and behind thoughts.
    check(TOOLS, "<tool_call>{\"name\":\"g\"}</tool_call>", &call("g", "{}"));
    check(
        TOOLS,
        "<tool_call>{\"name\":\"g\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
        &call("g", "{\"a\":1}"),
    );
    let nested = "<tool_call>{\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":{\"a\":1}}}</tool_call>";
    check(TOOLS, nested, &call("g", "{\"a\":1}"));
    let thought = format!("<think>hm</think>\n{one}");
    check(TOOLS, &thought, &[&[Part::Reasoning("hm".into())], &first[..]].concat());
}

#[test]
fn only_one_call_is_told_where_only_one_is_wanted() {
    let one = Format { one_call: true, ..TOOLS };
    let two = "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n\
               <tool_call>{\"name\":\"g\",\"arguments\":{\"a\":1}}</tool_call>";
    check(one, two, &call("f", "{}"));
}

#[test]
fn families_write_calls_differently() {
    let format = |source| Format { tools: Some(ToolFormat::of_template(source)), ..Format::default() };
    let mistral =
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]";
    check(format("[TOOL_CALLS]"), mistral, &[call("f", "{\"a\": 1}"), call("g", "{}")].concat());
    let llama = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}";
    check(format("<|python_tag|>"), llama, &[call("f", "{\"a\": 1}"), call("g", "{}")].concat());
    check(
        format("<|python_tag|>"),
        &format!("<|python_tag|>{llama}"),
        &[call("f", "{\"a\": 1}"), call("g", "{}")].concat(),
    );
    let phi = "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}]<|/tool_call|>";
    check(format("<|tool_call|>"), phi, &call("f", "{}"));
}

#[test]
fn what_is_no_call_is_text() {
    for answer in [
        "<tool_call>",
        "a  <tool_call> \n",
        "<tool_call>[[, {\"a\"",
        "<tool_call>\nnothing</tool_call>",
        "<tool_call>{\"nam\": 1}</tool_call>",
        "<tool_call>{\"name\": 1}</tool_call>",
        "<tool_call>{name: 1}",
        "<tool_call>{\"name\": \"f\"",
    ] {
        let parts = split(TOOLS, answer, 1);
        let told: String = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                other => panic!("{answer}: {other:?}"),
            })
            .collect();
        assert_eq!(told, answer);
    }
    let bare = Format { tools: Some(ToolFormat::of_template("<|python_tag|>")), ..Format::default() };
    check(bare, "{\"city\": \"Paris\"} is it", &[text("{\"city\": \"Paris\"} is it")]);
}

#[test]
fn a_call_that_is_cut_off_is_told_as_far_as_it_came() {
    let cut = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"lo";
    check(TOOLS, cut, &call("f", "{\"a\": \"lo"));
    assert!(split(TOOLS, cut, 4).len() == 2);
}

#[test]
fn a_call_that_the_prompt_began_is_read() {
    let begun = Format { calling: true, ..TOOLS };
    check(begun.clone(), "{\"name\": \"f\", \"arguments\": {}}", &call("f", "{}"));
    check(begun, "\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", &call("f", "{}"));
}

fn functions() -> Arc<Functions> {
    let parameters = json!({ "properties": {
        "text": { "type": "string" }, "count": { "type": "integer" }, "any": {}, "unit": { "enum": ["C", "F"] },
    } });
    Arc::new(Functions::new(["f", "g"].map(|name| (name.to_owned(), parameters.clone()))))
}

fn with(format: ToolFormat) -> Format {
    Format { tools: Some(format), functions: Some(functions()), ..Format::default() }
}

#[test]
fn calls_in_the_way_of_qwen3_coder() {
    let format = with(ToolFormat::of_template("<tool_call>\n<function=example>"));
    let one = "<tool_call>\n<function=f>\n<parameter=text>\nif a < b:\n  \"</p>\"\n\n</parameter>\n\
               <parameter=count>\n12\n</parameter>\n<parameter=any>\n{\"x\": [1]}\n</parameter>\n\
               <parameter=unit>\nC\n</parameter>\n</function>\n</tool_call>";
    let first = call(
        "f",
        "{\"text\": \"if a < b:\\n  \\\"</p>\\\"\\n\", \"count\": 12, \"any\": {\"x\": [1]}, \"unit\": \"C\"}",
    );
    check(format.clone(), one, &first);
    let two = format!("Let me see.\n{one}\n<tool_call>\n<function=g>\n</function>\n</tool_call>");
    check(format.clone(), &two, &[&[text("Let me see.")], &first[..], &call("g", "{}")].concat());
    // Without markers; texts that look like something else; something else that is none.
    let bare =
        "<function=g>\n<parameter=text>12</parameter>\n<parameter=count>many\nof them</parameter></function>";
    check(format.clone(), bare, &call("g", "{\"text\": \"12\", \"count\": \"many\\nof them\"}"));
    // JSON between the markers is a call, too.
    check(format.clone(), "<tool_call>{\"name\": \"h\"}</tool_call>", &call("h", "{}"));
    for none in [
        "<function=h></function>",
        "<function=",
        "<function=f",
        "<function=<f>",
        "<function>",
        "<tool_call>\n<function=>",
    ] {
        check(format.clone(), none, &[text(none)]);
    }
    check(format.clone(), "<function=f> and so on", &[&call("f", "{}")[..], &[text(" and so on")]].concat());
    check(format.clone(), "<function=f><parameter=text>lo\n</para", &call("f", "{\"text\": \"lo\\n</para"));
    check(format, "<function=f><parameter=count>1", &call("f", "{\"count\": \"1"));
}

#[test]
fn names_before_arguments_as_newer_models_of_mistral_write_them() {
    let format = with(ToolFormat::of_template("[TOOL_CALLS]"));
    let two = "Sure. [TOOL_CALLS]f[ARGS]{\"a\": {\"b\": \"}\"}}[TOOL_CALLS]g[CALL_ID]a1b2[ARGS] {}";
    let calls = [call("f", "{\"a\": {\"b\": \"}\"}}"), call("g", "{}")].concat();
    check(format.clone(), two, &[&[text("Sure.")], &calls[..]].concat());
    for none in [
        "[TOOL_CALLS]",
        "[TOOL_CALLS]f",
        "[TOOL_CALLS] f[ARGS]x",
        "[TOOL_CALLS]the rest [ARGS]{}",
        "[TOOL_CALLS][",
    ] {
        check(format.clone(), none, &[text(none)]);
    }
    check(format, "[TOOL_CALLS]f[ARGS]{\"a\": 1", &call("f", "{\"a\": 1"));
}

#[test]
fn blocks_of_code_that_call_what_is_known() {
    let format = with(ToolFormat::of_template("{{ messages }}"));
    let fenced = "I look.\n```json\n{\"name\": \"f\", \"parameters\": {\"a\": 1}}\n```\nSo.";
    let expected = [&[text("I look.")], &call("f", "{\"a\": 1}")[..], &[text("\nSo.")]].concat();
    check(format.clone(), fenced, &expected);
    let list = "```tool_code\n[{\"name\": \"f\"}, {\"name\": \"g\"}]\n```";
    check(format.clone(), list, &[call("f", "{}"), call("g", "{}")].concat());
    for none in [
        "So:\n```json\n{\"name\": \"Ann\", \"parameters\": {}}\n```\n",
        "```json\n[1, 2]\n``` and ```json\n{\"a\": 1}```",
        "```js\nf()\n```",
        "```json",
    ] {
        check(format.clone(), none, &[text(none)]);
    }
}

#[test]
fn an_object_that_calls_nothing_known_is_an_answer() {
    let format = with(ToolFormat::of_template("<|python_tag|>"));
    let answer = "{\"name\": \"Ann\", \"parameters\": {\"a\": 1}}";
    check(format.clone(), answer, &[text(answer)]);
    let marked = format!("<|python_tag|>{answer}");
    check(format, &marked, &call("Ann", "{\"a\": 1}"));
}

#[test]
fn what_breaks_within_a_call_is_told() {
    let told = |answer: &str, parts: &[Part]| check(with(ToolFormat::GENERIC), answer, parts);
    let f = "<tool_call>{\"name\": \"f\", \"arguments\": ";
    told(&format!("{f}\"{{\\\"a\\\": 1"), &call("f", "\"{\\\"a\\\": 1"));
    told(&format!("{f}nonsense}}</tool_call>"), &call("f", "nonsense"));
    told(&format!("{f}{{}} and text"), &[&call("f", "{}")[..], &[text(" and text")]].concat());
    told(
        &format!("{f}{{}}, \"arguments\": {{\"b\": 2}}}}"),
        &[&call("f", "{}")[..], &[text(", \"arguments\": {\"b\": 2}}")]].concat(),
    );
    // After one that was none, another is read.
    let after = format!("<tool_call>oh</tool_call>\n{f}{{}}}}</tool_call>");
    told(&after, &[&[text("<tool_call>oh</tool_call>")], &call("f", "{}")[..]].concat());
}

const TEMPLATES: &[&str] =
    &["<function=", "<tool_call>", "[TOOL_CALLS]", "<|tool_call|>", "<|python_tag|>", "\"parameters\"", ""];

/// Pieces of answers: what calls are made of, in any order, and words that must never be lost.
const PIECES: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|python_tag|>",
    "<|eom_id|>",
    "```json",
    "```tool_code",
    "```",
    "<function=f>",
    "<function=",
    "</function>",
    "<parameter=text>",
    "<parameter=count>",
    "</parameter>",
    "f[ARGS]",
    "[ARGS]",
    "{\"name\": \"f\", \"arguments\": {\"a\": \"",
    "{\"name\": \"g\", \"parameters\": {}}",
    "{\"name\": \"f\"",
    ", \"arguments\": ",
    "\"}}",
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ";",
    " ",
    "\n",
    "<think>",
    "</think>",
    "WORD1",
    "WORD2",
    "é",
    "\\",
    "<",
];

proptest::proptest! {
    #[test]
    fn any_cut_of_any_answer_gives_the_same_and_loses_nothing(
        template in 0..TEMPLATES.len(),
        pieces in proptest::collection::vec(0..PIECES.len(), 0..24),
        cuts in proptest::collection::vec(1..9usize, 1..40),
        reasoning: bool,
    ) {
        let format = Format { reasoning, ..with(ToolFormat::of_template(TEMPLATES[template])) };
        let answer: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
        let whole = split_as(format.clone(), [answer.clone()]);
        let mut chars = answer.chars().peekable();
        let mut sizes = cuts.iter().cycle();
        let mut cut = Vec::new();
        while chars.peek().is_some() {
            let size = *sizes.next().unwrap();
            cut.push(chars.by_ref().take(size).collect::<String>());
        }
        proptest::prop_assert_eq!(&split_as(format, cut), &whole, "{:?}", answer);
        let told: String = whole.iter().map(|part| match part {
            Part::Text(text) | Part::Reasoning(text) | Part::CallArguments(text) => text.as_str(),
            Part::CallStart(_) => "",
        }).collect();
        for word in ["WORD1", "WORD2", "é"] {
            proptest::prop_assert_eq!(told.matches(word).count(), answer.matches(word).count(), "{:?} {:?}", answer, whole);
        }
        let is_text = whole.iter().all(|part| matches!(part, Part::Text(_)));
        if is_text && !reasoning {
            proptest::prop_assert_eq!(told.trim(), answer.trim());
        }
    }
}
