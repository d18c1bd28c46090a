//! How often memory is taken while tokens are generated.
//!
//! The one test of this program, because it counts what the whole program allocates.

#[path = "common/tokenizer.rs"]
mod tokens;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rz_engine::serve::{Engine, EngineOptions, Request};
use rz_model::{Batch, Forward, KvGroup, ModelError, Output, Want};
use rz_testkit::memory::{self, Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

/// A back end that allocates nothing and stores nothing.
struct Still {
    groups: [KvGroup; 2],
}

impl Forward for Still {
    fn vocabulary(&self) -> usize {
        270
    }

    fn layers(&self) -> usize {
        1
    }

    fn kv_groups(&self) -> &[KvGroup] {
        &self.groups
    }

    fn max_batch(&self) -> usize {
        64
    }

    fn copy_block(&mut self, _group: usize, _from: u32, _to: u32) {}

    fn read_block(&self, _group: usize, _block: u32, _bytes: &mut Vec<u8>) {}

    fn write_block(&mut self, _group: usize, _block: u32, _bytes: &[u8]) -> Result<(), ModelError> {
        Ok(())
    }

    fn forward(&mut self, batch: &Batch<'_>, _: Range<usize>, out: &mut Output) -> Result<(), ModelError> {
        out.logits.clear();
        for _ in batch.outputs.iter().filter(|want| **want == Want::Logits) {
            out.logits.extend((0..270).map(|token| (token % 89) as f32 / 20.0));
        }
        Ok(())
    }
}

#[test]
fn a_token_costs_a_few_small_allocations() {
    let group = |window| KvGroup { window, blocks: 400, block_bytes: 1 };
    let model = Still { groups: [group(None), group(Some(64))] };
    let mut engine = Engine::new(model, Arc::new(tokens::tokenizer()), EngineOptions::default());
    const SEQUENCES: usize = 16;
    for seed in 0..SEQUENCES {
        let mut request = Request::new(vec![5; 20]);
        (request.seed, request.max_tokens, request.ignore_eos) = (seed as u64, Some(200), true);
        engine.submit(request).unwrap();
    }
    let now = Instant::now();
    (0..40).for_each(|_| drop(engine.step(now)));
    assert_eq!(engine.stats().running, SEQUENCES);
    const STEPS: usize = 100;
    let ((), calls) = memory::calls(|| (0..STEPS).for_each(|_| drop(engine.step(now))));
    let calls = calls as f64 / STEPS as f64;
    assert_eq!(engine.stats().running, SEQUENCES);
    // The texts of the tokens, the list of events as it grows, the tables of the batch.
    assert!(calls <= (3 * SEQUENCES + 16) as f64, "{calls} allocations a step");
}
