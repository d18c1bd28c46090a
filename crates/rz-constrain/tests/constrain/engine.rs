//! Constraints on an engine and on a session: a tiny model of random weights, whose taste is no help.

use std::collections::BTreeMap;
use std::time::Instant;

use rz_constrain::ConstraintSpec;
use rz_engine::serve::{Engine, EngineOptions, EventKind, FinishReason, Request, RequestId};
use rz_engine::{Event, Finish, Session};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::sampler::{Chain, Settings};
use rz_model::{CpuModel, KvRoom, LoadOptions};
use rz_testkit::gguf::TinyLlama;
use serde_json::{Value, json};

use crate::walk::{TOKENIZER, compile};

/// Tokens that the room for keys and values holds.
const ROOM: usize = 512;

fn model(room: usize) -> CpuModel {
    let folder = tempfile::tempdir().unwrap();
    let tiny = TinyLlama { vocab: 640, context: 512, ..TinyLlama::default() };
    let gguf = Gguf::open(tiny.write(folder.path())).unwrap();
    let options =
        LoadOptions { context: 512, max_batch: 64, kv_room: KvRoom::Sequences(1), ..LoadOptions::default() };
    let options = LoadOptions { context: room.min(512), ..options };
    CpuModel::load(&gguf, &Runtime::new(Some(1)).unwrap(), options, &mut |_, _| {}).unwrap()
}

fn engine(room: usize) -> Engine {
    Engine::new(model(room), TOKENIZER.clone(), EngineOptions::default())
}

fn settings(temperature: f64) -> Settings {
    let mut settings = Settings::new();
    settings.set("temperature", temperature).unwrap();
    settings
}

fn person() -> ConstraintSpec {
    ConstraintSpec::JsonSchema(json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "known": { "type": "boolean" },
        },
        "required": ["name", "age", "known"],
        "additionalProperties": false,
    }))
}

fn is_person(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| {
        let object = value.as_object().unwrap();
        object.len() == 3
            && object["name"].as_str().is_some_and(|name| name.chars().count() <= 8)
            && object["age"].as_i64().is_some_and(|age| (0..=150).contains(&age))
            && object["known"].is_boolean()
    })
}

fn prompt(salt: u32) -> Vec<u32> {
    (0..40).map(|at| 259 + (at * 31 + salt * 7) % 300).collect()
}

fn request(spec: Option<&ConstraintSpec>, salt: u32, seed: u64) -> Request {
    let mut request = Request::new(prompt(salt));
    (request.sampling, request.seed, request.max_tokens) = (settings(1.5), seed, Some(300));
    request.constraint = spec.map(|spec| compile(spec).unwrap());
    request
}

type Answers = BTreeMap<(RequestId, usize), (String, Vec<u32>, Option<FinishReason>)>;

fn run(engine: &mut Engine) -> Answers {
    let mut answers = Answers::new();
    while !engine.is_idle() {
        for event in engine.step(Instant::now()) {
            let answer = answers.entry((event.request, event.choice)).or_default();
            match event.kind {
                EventKind::Token { id, text, .. } => {
                    answer.1.push(id);
                    answer.0 += &text;
                }
                EventKind::Text(text) => answer.0 += &text,
                EventKind::Finished { reason, .. } => answer.2 = Some(reason),
                _ => {}
            }
        }
    }
    answers
}

/// Many at once, each under its own constraint or none, with too little room, so that they make room for each other
/// and are computed anew: each is what it is alone, and what it must be.
#[test]
fn answers_hold_side_by_side_and_after_making_room() {
    let specs = [
        Some(person()),
        None,
        Some(ConstraintSpec::Regex("[a-z]{5,9}( [0-9]+){1,3}!".into())),
        Some(ConstraintSpec::Choice(vec!["yes".into(), "no".into(), "perhaps".into()])),
        Some(ConstraintSpec::Lark("start: \"(\" start \")\" | /[a-z]+/ \";\"".into())),
        Some(ConstraintSpec::Gbnf("root ::= \"[\" [a-f]* (\",\" root)? \"]\"".into())),
    ];
    let asked = || (0..18).map(|index| request(specs[index % 6].as_ref(), index as u32 % 5, index as u64));
    let mut together = engine(ROOM);
    let ids: Vec<_> = asked().map(|request| together.submit(request).unwrap()).collect();
    let answers = run(&mut together);
    assert!(together.stats().preemptions > 0, "there was room for all of them");
    let mut ended = 0;
    for (index, (id, request)) in ids.into_iter().zip(asked()).enumerate() {
        let (text, tokens, reason) = &answers[&(id, 0)];
        let mut alone = engine(ROOM);
        alone.submit(request).unwrap();
        let (alone_text, alone_tokens, alone_reason) = run(&mut alone).into_values().next().unwrap();
        assert_eq!((text, tokens, reason), (&alone_text, &alone_tokens, &alone_reason));
        if matches!(reason, Some(FinishReason::Length { .. })) || specs[index % 6].is_none() {
            continue;
        }
        assert!(matches!(reason, Some(FinishReason::ConstraintEnd | FinishReason::Stop(_))), "{reason:?}");
        ended += 1;
        match index % 6 {
            0 => assert!(is_person(text), "{text}"),
            2 => {
                let mut words = text.strip_suffix('!').unwrap().split(' ');
                assert!((5..=9).contains(&words.next().unwrap().len()));
                assert!(words.all(|word| word.bytes().all(|byte| byte.is_ascii_digit())), "{text}");
            }
            3 => assert!(["yes", "no", "perhaps"].contains(&&text[..])),
            4 => assert_eq!(text.matches('(').count(), text.matches(')').count(), "{text}"),
            _ => assert_eq!(text.matches('[').count(), text.matches(']').count(), "{text}"),
        }
    }
    assert!(ended >= 6, "{ended}");
}

#[test]
fn each_answer_to_a_prompt_has_a_state_of_its_own() {
    let mut engine = engine(ROOM);
    let mut request = request(Some(&person()), 1, 7);
    request.n = 6;
    engine.submit(request).unwrap();
    let answers = run(&mut engine);
    let texts: Vec<&String> = answers.values().map(|(text, ..)| text).collect();
    assert_eq!(texts.len(), 6);
    assert!(texts.iter().all(|text| is_person(text)), "{texts:?}");
    assert!(texts.windows(2).any(|pair| pair[0] != pair[1]));
}

/// Greedy, hot, cut by numbers of tokens or stop strings, with biases against what must come.
#[test]
fn samplers_biases_and_limits_leave_it_what_it_must_be() {
    for seed in 0..12 {
        let mut engine = engine(ROOM);
        let ask = |engine: &mut Engine, change: &dyn Fn(&mut Request)| {
            let mut request = request(Some(&person()), seed as u32, seed);
            if seed % 3 == 0 {
                request.sampling = settings(0.0);
            }
            change(&mut request);
            engine.submit(request).unwrap();
            run(engine).into_values().next().unwrap()
        };
        let (whole, tokens, _) = ask(&mut engine, &|_| {});
        assert!(is_person(&whole), "{whole}");
        for most in [1, 3, tokens.len() / 2] {
            let (cut, _, reason) = ask(&mut engine, &|request| request.max_tokens = Some(most));
            assert!(whole.starts_with(&cut), "{cut:?} {whole:?}");
            assert_eq!(reason, Some(FinishReason::Length { context_full: false }));
        }
        let (cut, ..) = ask(&mut engine, &|request| request.stop = vec!["age".into()]);
        assert!(whole.starts_with(&cut) && !cut.contains("age"));
        // Neither excluding it nor asking for more can make another text of it.
        let banned: Vec<(u32, f32)> = (3..259).map(|byte| (byte, f32::NEG_INFINITY)).collect();
        let (text, ..) = ask(&mut engine, &|request| request.logit_bias = banned.clone());
        assert!(is_person(&text), "{text}");
        let (text, ..) = ask(&mut engine, &|request| (request.min_tokens, request.ignore_eos) = (100, true));
        assert!(is_person(&text), "{text}");
        // What is preferred comes where it may.
        let (text, ..) = ask(&mut engine, &|request| request.logit_bias = vec![(3 + u32::from(b'7'), 100.0)]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["age"].as_i64(), value["name"].as_str()), (Some(77), Some("77777777")), "{text}");
    }
}

/// Characters of several bytes are whole, also where the answer is cut in the middle of one.
#[test]
fn what_is_cut_has_whole_characters() {
    let spec = ConstraintSpec::Regex("[α-ω]{40}".into());
    for most in [1, 2, 3, 10, 11] {
        let mut engine = engine(ROOM);
        let mut request = request(Some(&spec), 0, most as u64);
        request.max_tokens = Some(most);
        engine.submit(request).unwrap();
        let (text, tokens, _) = run(&mut engine).into_values().next().unwrap();
        assert_eq!((tokens.len(), text.chars().count()), (most, most / 2));
        assert!(text.chars().all(|c| ('α'..='ω').contains(&c)), "{text}");
    }
}

#[test]
fn a_session_gives_what_the_engine_gives() {
    let mut session = Session::new(model(ROOM));
    for seed in 0..8 {
        let mut engine = engine(ROOM);
        engine.submit(request(Some(&person()), 3, seed)).unwrap();
        let (expected, tokens, reason) = run(&mut engine).into_values().next().unwrap();
        let prompt = prompt(3);
        let mut request = rz_engine::Request::new(&prompt, Chain::new(&settings(1.5)).unwrap());
        (request.seed, request.max_tokens) = (seed, Some(300));
        request.constraint = Some(compile(&person()).unwrap());
        let (mut text, mut ids, mut end) = (String::new(), Vec::new(), None);
        for event in session.generate(&TOKENIZER, request).unwrap() {
            match event.unwrap() {
                Event::Token { id, text: more } => {
                    ids.push(id);
                    text += &more;
                }
                Event::Text(more) => text += &more,
                Event::Finished { reason, .. } => end = Some(reason),
            }
        }
        assert_eq!((&text, &ids), (&expected, &tokens));
        assert_eq!(end == Some(Finish::ConstraintEnd), reason == Some(FinishReason::ConstraintEnd));
        assert!(is_person(&text), "{text}");
    }
}
