//! A real model: many requests at once give what each gives alone, and a prefix that was found changes no bit.

use std::sync::Arc;
use std::time::Instant;

use rz_engine::serve::{Engine, EngineOptions, EventKind, Request, RequestId, TokenScore};
use rz_engine::{Event, Session};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::sampler::{Chain, Settings};
use rz_model::{CpuModel, KvRoom, LoadOptions};
use rz_testkit::{committed, fixture};
use rz_tokenizer::{EncodeOptions, Tokenizer};

fn gguf() -> Gguf {
    Gguf::open(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap()
}

fn model(gguf: &Gguf, sequences: usize) -> CpuModel {
    let options = LoadOptions {
        context: 512,
        max_batch: 256,
        kv_room: KvRoom::Sequences(sequences),
        ..LoadOptions::default()
    };
    CpuModel::load(gguf, &Runtime::new(Some(2)).unwrap(), options, &mut |_, _| {}).unwrap()
}

fn settings(which: usize) -> Settings {
    let mut settings = Settings::new();
    settings.set("greedy", which.is_multiple_of(2)).unwrap();
    settings
}

fn request(prompt: &[u32], which: usize) -> Request {
    let mut request = Request::new(prompt.to_vec());
    request.sampling = settings(which);
    (request.seed, request.max_tokens, request.logprobs) = (which as u64, Some(12), Some(4));
    request
}

/// Tokens and their scores, of one request after the other.
fn run(engine: &mut Engine, requests: Vec<Request>) -> Vec<Vec<(u32, TokenScore)>> {
    let ids: Vec<RequestId> = requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut answers = vec![vec![]; ids.len()];
    while !engine.is_idle() {
        for event in engine.step(Instant::now()) {
            if let EventKind::Token { id, score, .. } = event.kind {
                let which = ids.iter().position(|id| *id == event.request).unwrap();
                answers[which].push((id, score.unwrap()));
            }
        }
    }
    answers
}

#[test]
fn thirty_two_at_once_give_what_each_gives_alone() {
    let gguf = gguf();
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata()).unwrap());
    let text = std::fs::read_to_string(committed("references/ppl.txt")).unwrap();
    let ids = tokenizer.encode(&text.chars().take(3000).collect::<String>(), EncodeOptions::default());
    // Some share their beginnings.
    let prompts: Vec<&[u32]> = (0..32).map(|i| &ids[i % 5 * 20..][..10 + i * 3 % 70]).collect();

    let mut session = Session::new(model(&gguf, 1));
    let alone: Vec<Vec<u32>> = (0..32)
        .map(|which| {
            session.truncate(0);
            let mut request = rz_engine::Request::new(prompts[which], Chain::new(&settings(which)).unwrap());
            (request.seed, request.max_tokens) = (which as u64, Some(12));
            let events = session.generate(&tokenizer, request).unwrap();
            events
                .filter_map(|e| if let Event::Token { id, .. } = e.unwrap() { Some(id) } else { None })
                .collect()
        })
        .collect();
    assert!(alone.iter().any(|answer| answer.len() == 12));

    // With room for all, and with room for a few, so that some have to wait and some to make room.
    for sequences in [32, 1] {
        let mut engine = Engine::new(model(&gguf, sequences), tokenizer.clone(), EngineOptions::default());
        let requests = (0..32).map(|which| request(prompts[which], which)).collect();
        let together = run(&mut engine, requests);
        for (which, answer) in together.iter().enumerate() {
            let tokens: Vec<u32> = answer.iter().map(|(id, _)| *id).collect();
            assert_eq!(tokens, alone[which], "request {which}");
        }
        assert!(engine.stats().groups.iter().all(|group| group.used == 0));
    }
}

#[test]
fn a_prefix_that_was_found_changes_no_bit() {
    let gguf = gguf();
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata()).unwrap());
    let text = std::fs::read_to_string(committed("references/ppl.txt")).unwrap();
    let ids = tokenizer.encode(&text.chars().take(3000).collect::<String>(), EncodeOptions::default());
    let prompt = &ids[..300];
    let engine = |model| Engine::new(model, tokenizer.clone(), EngineOptions::default());

    let mut fresh = engine(model(&gguf, 2));
    let expected = run(&mut fresh, vec![request(prompt, 1)]);
    assert_eq!(fresh.stats().prefix_hits, 0);

    let mut used = engine(model(&gguf, 2));
    let other = [&ids[..250], &ids[400..420]].concat();
    run(&mut used, vec![request(&other, 0)]);
    // Others compute beside it.
    let found = run(&mut used, vec![request(prompt, 1), request(&ids[500..540], 2)]);
    assert_eq!(found[0], expected[0]);
    assert_eq!(used.stats().prefix_hits, 250);
    assert_eq!(run(&mut used, vec![request(prompt, 1)])[0], expected[0]);
    assert_eq!(used.stats().prefix_hits, 250 + 288);

    // The same from a file.
    let folder = std::env::temp_dir().join(format!("rz-many-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let options = || EngineOptions { identity: "SmolLM2 f16".into(), ..EngineOptions::default() };
    let mut saving = Engine::new(model(&gguf, 2), tokenizer.clone(), options());
    run(&mut saving, vec![request(prompt, 1)]);
    assert_eq!(saving.save(prompt, &folder.join("slot")).unwrap(), 288);
    let mut restored = Engine::new(model(&gguf, 2), tokenizer.clone(), options());
    assert_eq!(restored.restore(&folder.join("slot")).unwrap(), prompt[..288]);
    assert_eq!(run(&mut restored, vec![request(prompt, 1)]), expected);
    assert_eq!(restored.stats().prefix_hits, 288);
    std::fs::remove_dir_all(&folder).unwrap();
}
