//! A real model: the same seed gives the same text whatever the threads, the chunks and the cache.

use std::ops::ControlFlow;

use rz_engine::{Event, PerplexityOptions, Request, Session, perplexity};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::sampler::{Chain, Settings};
use rz_model::{CpuModel, LoadOptions};
use rz_testkit::{committed, fixture};
use rz_tokenizer::{EncodeOptions, Tokenizer};

struct Setup {
    gguf: Gguf,
    tokenizer: Tokenizer,
}

impl Setup {
    fn new() -> Self {
        let gguf = Gguf::open(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
        let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
        Self { gguf, tokenizer }
    }

    fn session(&self, threads: usize) -> Session<CpuModel> {
        let runtime = Runtime::new(Some(threads)).unwrap();
        let options = LoadOptions { context: 1024, max_batch: 256, ..LoadOptions::default() };
        Session::new(CpuModel::load(&self.gguf, &runtime, options, &mut |_, _| {}).unwrap())
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true })
    }

    fn continue_text(&self, session: &mut Session<CpuModel>, prompt: &[u32], tokens: usize) -> String {
        let mut request = Request::new(prompt, Chain::new(&Settings::new()).unwrap());
        (request.seed, request.max_tokens) = (42, Some(tokens));
        let events = session.generate(&self.tokenizer, request).unwrap();
        events
            .filter_map(|event| match event.unwrap() {
                Event::Token { text, .. } | Event::Text(text) => Some(text),
                Event::Finished { .. } => None,
            })
            .collect()
    }
}

fn opening() -> String {
    std::fs::read_to_string(committed("references/ppl.txt")).unwrap().chars().take(2000).collect()
}

#[test]
fn a_seed_gives_the_same_text_whatever_the_threads_and_chunks() {
    let setup = Setup::new();
    let prompt = &setup.encode(&opening())[..150];
    let expected = setup.continue_text(&mut setup.session(2), prompt, 24);
    assert!(expected.split_whitespace().count() > 5, "{expected}");
    let one_thread = setup.continue_text(&mut setup.session(1), prompt, 24);
    assert_eq!(one_thread, expected);
    for chunk in [1, 7, 64] {
        let mut session = setup.session(2).with_chunk(chunk);
        assert_eq!(setup.continue_text(&mut session, prompt, 24), expected, "chunk {chunk}");
        // Another text that begins alike, then the same again: a part comes from the cache.
        setup.continue_text(&mut session, &[&prompt[..77], &[5, 6, 7]].concat(), 3);
        assert_eq!(setup.continue_text(&mut session, prompt, 24), expected, "again, chunk {chunk}");
    }
}

#[test]
fn perplexity_does_not_depend_on_the_chunk() {
    let setup = Setup::new();
    let text = &setup.encode(&opening())[..256];
    let measure = |chunk| {
        let mut session = setup.session(2).with_chunk(chunk);
        perplexity(&mut session, text, &PerplexityOptions::new(128), |_| ControlFlow::Continue(())).unwrap()
    };
    let whole = measure(256);
    assert_eq!((whole.scored, whole.windows), (126, 2));
    assert!((5.0..60.0).contains(&whole.value), "{whole:?}");
    assert_eq!(measure(50), whole);
}
