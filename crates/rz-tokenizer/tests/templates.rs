//! Real chat templates against what Jinja2 makes of them (`fixtures/templates/make.py`).

use std::fs;

use rz_formats::Gguf;
use rz_testkit::{committed, fixture};
use rz_tokenizer::{ChatTemplate, LocalTime, Message, TemplateInputs, Tokenizer, TokenizerError};
use serde_json::Value;

/// Jinja2 escapes what is added to a text marked as safe, for HTML.
const DIFFERENT: &[(&str, &str)] = &[("meetkai-functionary-medium-v3.1.jinja", "tools")];

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(committed("templates/golden.json")).unwrap()).unwrap()
}

fn smollm2() -> Gguf {
    Gguf::open(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let source = if name == "SmolLM2" {
        smollm2().metadata().require_str("tokenizer.chat_template").unwrap().to_owned()
    } else {
        fs::read_to_string(fixture(&format!("templates/{name}"))).unwrap()
    };
    ChatTemplate::new(name, &source, Some("<s>"), Some("</s>")).unwrap()
}

#[test]
fn real_templates_are_rendered_as_jinja2_does() {
    let golden = golden();
    let mut equal = 0;
    for (name, cases) in golden["rendered"].as_object().unwrap() {
        let template = template(name);
        for (case, expected) in cases.as_object().unwrap() {
            let given = &golden["cases"][case];
            let rendered = template.render_with(&TemplateInputs {
                messages: given["messages"].clone(),
                add_generation_prompt: given["add_generation_prompt"].as_bool().unwrap(),
                tools: given.get("tools").cloned().unwrap_or_default(),
                now: Some(LocalTime::from_unix(1767323045, 0)),
                ..TemplateInputs::default()
            });
            let Some(expected) = expected.as_str() else {
                // Python refuses more than we do, such as a loop over nothing.
                if let Err(error) = rendered {
                    assert_eq!(error.to_string().lines().count(), 1, "{error}");
                }
                continue;
            };
            let rendered = rendered.unwrap_or_else(|error| panic!("{name}, {case}: {error}"));
            if !DIFFERENT.contains(&(name, case)) {
                assert_eq!(rendered, expected, "{name}, {case}");
                equal += 1;
            }
        }
    }
    assert!(equal > 325, "only {equal}");
}

#[test]
fn long_conversations_stay_within_the_limits() {
    let turns = (0..400).flat_map(|_| {
        [
            Message::new("user", "Why is the sky blue? ".repeat(20)),
            Message::new("assistant", "It is not. ".repeat(50)),
        ]
    });
    let messages: Vec<Message> = turns.chain([Message::new("user", "Oh.")]).collect();
    for (name, cases) in golden()["rendered"].as_object().unwrap() {
        let rendered = template(name).at(LocalTime::from_unix(0, 0)).render(&messages, true);
        if cases["question"].is_string() {
            let rendered = rendered.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(rendered.matches("Why is the sky blue? Why").count() >= 1, "{name}");
        }
    }
}

#[test]
fn a_template_may_refuse() {
    let template = template("google-gemma-2-2b-it.jinja");
    let error = template.render(&[Message::new("system", "Be brief.")], true).unwrap_err();
    assert!(
        matches!(&error, TokenizerError::TemplateRefused { message, .. } if message == "System role not supported")
    );
}

#[test]
fn the_file_gives_template_and_tokens() {
    let model = smollm2();
    let tokenizer = Tokenizer::from_gguf(model.metadata()).unwrap();
    let template = ChatTemplate::from_gguf(model.metadata(), &tokenizer).unwrap().unwrap();
    let text = template.render(&[Message::new("user", "Hi")], true).unwrap();
    assert!(text.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{text}");
    assert_eq!(ChatTemplate::names(model.metadata()).count(), 0);
    assert!(ChatTemplate::named(model.metadata(), &tokenizer, "tool_use").unwrap().is_none());

    let model = Gguf::open(fixture("ggml-vocab-command-r.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(model.metadata()).unwrap();
    let names: Vec<_> = ChatTemplate::names(model.metadata()).collect();
    assert_eq!(names, ["tool_use", "rag"]);
    let template = ChatTemplate::from_gguf(model.metadata(), &tokenizer).unwrap().unwrap();
    let text = template.render(&[Message::new("user", "Hi")], false).unwrap();
    assert_eq!(text, "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>");
    assert!(ChatTemplate::named(model.metadata(), &tokenizer, "rag").unwrap().is_some());
}

#[test]
fn templates_get_the_date_and_their_own_variables() {
    let source = "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'never' }} {{ mood }} {{ tools is none }}";
    let template = ChatTemplate::new("test", source, None, None).unwrap();
    assert_eq!(template.render(&[], false).unwrap(), "never  True");
    let inputs = TemplateInputs {
        now: Some(LocalTime::from_unix(0, 0)),
        extra: [("mood".to_owned(), "fine".into())].into_iter().collect(),
        ..TemplateInputs::default()
    };
    assert_eq!(template.render_with(&inputs).unwrap(), "01 Jan 1970 fine True");
}
