//! The most likely continuation of some token ids: `generate_ids FILE.gguf 504,2365 [COUNT]`.
//! No text: for that, see the crates above.

use std::error::Error;

use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::sampler::{Candidates, Chain, StepContext};
use rz_model::{Batch, CpuModel, Forward, KV_BLOCK, KvGroup, LoadOptions, Output, Want};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, ids, count) = match &arguments[..] {
        [file, ids] => (file, ids, 16),
        [file, ids, count] => (file, ids, count.parse()?),
        _ => return Err("usage: generate_ids FILE.gguf ID,ID,... [COUNT]".into()),
    };
    let mut history: Vec<u32> = ids.split(',').map(|id| id.trim().parse()).collect::<Result<_, _>>()?;
    let prompt = history.len();

    let options = LoadOptions { context: prompt + count, max_batch: prompt, ..LoadOptions::default() };
    let mut model = CpuModel::load(&Gguf::open(file)?, &Runtime::new(None)?, options, &mut |_, _| {})?;

    // One sequence, in the first blocks of the cache. Where layers have a window, blocks take
    // turns: there are enough of them for what a batch sees.
    let blocks = 0..(prompt + count).div_ceil(KV_BLOCK);
    let table = |group: &KvGroup| blocks.clone().map(|i| (i % group.blocks) as u32).collect();
    let tables: Vec<Vec<u32>> = model.kv_groups().iter().map(table).collect();
    let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
    let (mut chain, mut candidates) = (Chain::greedy(), Candidates::new());
    let (mut fed, mut out) = (0, Output::default());
    for _ in 0..count {
        // The whole prompt first, then a token at a time.
        let tokens = &history[fed..];
        let positions: Vec<u32> = (fed as u32..history.len() as u32).collect();
        let mut outputs = vec![Want::Nothing; tokens.len()];
        outputs[tokens.len() - 1] = Want::Logits;
        let sequences = vec![0; tokens.len()];
        let batch = Batch {
            tokens,
            positions: &positions,
            sequences: &sequences,
            tables: &tables,
            outputs: &outputs,
        };
        let layers = 0..model.layers();
        model.forward(&batch, layers, &mut out)?;
        fed = history.len();

        candidates.load(&out.logits)?;
        let next = chain.choose(&mut candidates, &mut StepContext::new(0, &history, prompt))?;
        history.push(next);
    }
    let generated: Vec<String> = history[prompt..].iter().map(u32::to_string).collect();
    println!("{}", generated.join(","));
    Ok(())
}
