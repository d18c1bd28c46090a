//! What is not taken, and why, before anything is queued.

use rz_engine::serve::{ContextShift, EngineOptions, Pooling, Refusal, Request, Want};
use rz_model::sampler::Settings;

use crate::fake::{Fake, VOCABULARY, group};
use crate::{Answers, engine_with, request, text};

#[test]
fn what_cannot_be_is_refused_with_what_it_is() {
    let options = EngineOptions { context: Some(100), ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 16)], 64), options);
    let mut refused = |change: &dyn Fn(&mut Request)| {
        let mut request = request(text(20, 0, 1), 5);
        change(&mut request);
        let refusal = engine.submit(request).expect_err("a refusal");
        assert!(engine.is_idle() && !refusal.to_string().contains('\n'));
        refusal
    };
    assert!(matches!(refused(&|r| r.prompt.clear()), Refusal::EmptyPrompt));
    assert!(matches!(
        refused(&|r| r.prompt = text(101, 0, 1)),
        Refusal::PromptTooLong { tokens: 101, context: 100 }
    ));
    let beyond = VOCABULARY as u32;
    for change in [
        (&|r: &mut Request| r.prompt[3] = VOCABULARY as u32) as &dyn Fn(&mut Request),
        &|r| r.logit_bias = vec![(VOCABULARY as u32, 1.0)],
        &|r| r.stop_tokens = vec![VOCABULARY as u32],
    ] {
        let refusal = refused(change);
        // The model has more tokens than the tokenizer.
        assert!(matches!(refusal, Refusal::Token { token, vocabulary: 266, .. } if token == beyond));
    }
    let parameter = |refusal| match refusal {
        Refusal::Parameter { name, .. } => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(parameter(refused(&|r| r.n = 0)), "n");
    assert_eq!(parameter(refused(&|r| r.n = 1_000_000)), "n");
    assert_eq!(parameter(refused(&|r| r.logprobs = Some(1000))), "logprobs");
    assert_eq!(parameter(refused(&|r| r.prompt_logprobs = Some(1000))), "prompt_logprobs");
    for bias in [f32::NAN, f32::INFINITY] {
        assert_eq!(parameter(refused(&|r| r.logit_bias = vec![(1, bias)])), "logit_bias");
    }
    assert_eq!(parameter(refused(&|r| r.stop = vec!["a".into(), String::new()])), "stop");
    assert_eq!(parameter(refused(&|r| r.min_tokens = 6)), "min_tokens");
    let keep = |keep| move |r: &mut Request| r.context_shift = Some(ContextShift { keep });
    assert_eq!(parameter(refused(&keep(99))), "keep");
    assert_eq!(parameter(refused(&keep(usize::MAX))), "keep");
    let vectors = |r: &mut Request| (r.want, r.n) = (Want::Embed(Pooling::Mean), 2);
    assert_eq!(parameter(refused(&vectors)), "n");
    let unused = |r: &mut Request| {
        let mut settings = Settings::new();
        settings.set_order(["top_k"]).unwrap();
        settings.set("min_p", 0.5).unwrap();
        r.sampling = settings;
    };
    assert!(matches!(refused(&unused), Refusal::Sampling(_)));
}

#[test]
fn the_queue_is_bounded() {
    let options = EngineOptions { max_queue: 3, max_running: 2, ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 16)], 64), options);
    for salt in 0..3 {
        engine.submit(request(text(20, 0, salt), 5)).unwrap();
    }
    let full = |engine: &mut rz_engine::serve::Engine| engine.submit(request(text(20, 0, 9), 5));
    assert!(matches!(full(&mut engine), Err(Refusal::QueueFull { waiting: 3 })));
    // Two begin, so that two more may wait.
    let mut answers = Answers::default();
    answers.take(engine.step(std::time::Instant::now()));
    assert_eq!((engine.stats().queued, engine.stats().running), (1, 2));
    assert!(full(&mut engine).is_ok() && full(&mut engine).is_ok());
    assert!(matches!(full(&mut engine), Err(Refusal::QueueFull { waiting: 3 })));
    answers.run(&mut engine);
    assert_eq!(answers.0.len(), 5);
    assert_eq!(engine.stats().queued, 0);
}
