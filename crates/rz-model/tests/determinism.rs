//! What a token gets, bit for bit, whatever the threads, the chunks of its prompt, the
//! tokens that travel with it, the blocks it lies in and what they held before.

mod common;

use common::tables::Tables;
use common::{every_runtime, tiny_file};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::arch::{ARCHS, describe};
use rz_model::{ActivationType, Batch, CpuModel, Forward, KvRoom, KvType, LoadOptions, Output, Want};
use rz_quant::DType;
use rz_testkit::gguf::{Random, TinyLlama};
use rz_testkit::{committed, fixture};

/// The tokens of a sequence.
type Sequence = Vec<u32>;

/// Batches, each a list of sequences of which it takes the next token.
type Plan = Vec<Vec<usize>>;

/// What each token of each sequence gave: logits, a hidden state, or nothing.
type Results = Vec<Vec<Vec<f32>>>;

fn want(sequence: usize, position: usize) -> Want {
    match (sequence + position) % 7 {
        2 => Want::Hidden,
        5 => Want::Nothing,
        _ => Want::Logits,
    }
}

/// Feeds the sequences as planned, each batch through the layers before `cut` first and
/// then through the rest. Each time they lie in other blocks, which hold what those before
/// have left.
fn feed(
    model: &mut CpuModel,
    sequences: &[Sequence],
    plan: &Plan,
    cut: Option<usize>,
    random: &mut Random,
) -> Results {
    let mut tables = Tables::new(model.kv_groups(), sequences.len(), random.bits());
    let mut results: Results = vec![Vec::new(); sequences.len()];
    let mut fed = vec![0; sequences.len()];
    let mut out = Output::default();
    for steps in plan {
        let (mut tokens, mut positions, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let before = fed.clone();
        for &sequence in steps {
            tokens.push(sequences[sequence][fed[sequence]]);
            positions.push(fed[sequence] as u32);
            outputs.push(want(sequence, fed[sequence]));
            fed[sequence] += 1;
        }
        for (sequence, (&before, &after)) in before.iter().zip(&fed).enumerate() {
            if before < after {
                tables.make_room(sequence, before..after);
            }
        }
        let numbers: Vec<u32> = steps.iter().map(|&sequence| sequence as u32).collect();
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            sequences: &numbers,
            tables: &tables.named(),
            outputs: &outputs,
        };
        let layers = model.layers();
        if let Some(cut) = cut {
            model.forward(&batch, 0..cut, &mut out).expect("a valid batch");
        }
        model.forward(&batch, cut.unwrap_or(0)..layers, &mut out).expect("a valid batch");
        let mut logits = out.logits.chunks_exact(model.spec().vocabulary);
        let mut hidden = out.hidden.chunks_exact(model.spec().width);
        for (&sequence, want) in steps.iter().zip(&outputs) {
            results[sequence].push(match want {
                Want::Nothing => Vec::new(),
                Want::Logits => logits.next().expect("a row for each that is wanted").to_vec(),
                Want::Hidden => hidden.next().expect("a row for each that is wanted").to_vec(),
            });
        }
        assert!(logits.next().is_none() && hidden.next().is_none(), "rows that nobody wanted");
    }
    results
}

/// One sequence after the other, each in chunks.
fn in_chunks(sequences: &[Sequence], chunk: usize) -> Plan {
    let chunks = sequences.iter().enumerate().flat_map(|(i, sequence)| {
        let lengths = sequence.chunks(chunk).map(<[u32]>::len);
        lengths.map(move |length| vec![i; length])
    });
    chunks.collect()
}

/// All sequences at once: batches of any length in which any sequence's token may come next.
fn interleaved(sequences: &[Sequence], longest: usize, random: &mut Random) -> Plan {
    let mut left: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
    let mut plan = Plan::new();
    while left.iter().any(|&left| left > 0) {
        let length = 1 + random.below(longest as u64) as usize;
        let mut batch = Vec::new();
        while batch.len() < length && left.iter().any(|&left| left > 0) {
            let sequence = random.below(left.len() as u64) as usize;
            // Runs of a sequence as well as single tokens.
            let run = (1 + random.below(9) as usize).min(left[sequence]).min(length - batch.len());
            batch.extend(vec![sequence; run]);
            left[sequence] -= run;
        }
        plan.push(batch);
    }
    plan
}

/// Sequences of these lengths.
fn sequences(lengths: &[usize], vocabulary: usize) -> Vec<Sequence> {
    let random = &mut Random::new(3);
    let mut tokens = |&length: &usize| (0..length).map(|_| random.below(vocabulary as u64) as u32).collect();
    lengths.iter().map(&mut tokens).collect()
}

fn assert_same(got: &Results, expected: &Results, what: &str) {
    for (sequence, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len());
        for (position, (got, expected)) in got.iter().zip(expected).enumerate() {
            let same = got.len() == expected.len()
                && got.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}: sequence {sequence}, position {position}");
        }
    }
}

/// Every way of feeding the sequences gives what feeding them token by token on one thread
/// gives to a model that would take the longest in one batch.
fn check(
    gguf: &Gguf,
    runtimes: &[Runtime],
    lengths: &[usize],
    max_batch: usize,
    options: LoadOptions,
    what: &str,
) {
    let longest = lengths.iter().max().copied().unwrap_or(1);
    let load = |runtime: &Runtime, max_batch: usize| {
        let kv_room = KvRoom::Sequences(lengths.len());
        let options = LoadOptions { context: longest, kv_room, max_batch, ..options };
        CpuModel::load(gguf, runtime, options, &mut |_, _| ()).expect("a supported model")
    };
    let random = &mut Random::new(7);
    let mut alone = load(&runtimes[0], longest);
    let sequences = sequences(lengths, alone.vocabulary());
    let expected = feed(&mut alone, &sequences, &in_chunks(&sequences, 1), None, random);
    assert!(expected.iter().flatten().flatten().all(|x| x.is_finite()), "{what}");
    for runtime in runtimes {
        let mut model = load(runtime, max_batch);
        for chunk in [1, 7, 64, max_batch].into_iter().filter(|&chunk| chunk <= max_batch) {
            let what = format!("{what}, {runtime:?}, chunks of {chunk}");
            let got = feed(&mut model, &sequences, &in_chunks(&sequences, chunk), None, random);
            assert_same(&got, &expected, &what);
        }
        for most in [5, max_batch] {
            let what = format!("{what}, {runtime:?}, interleaved, up to {most} at once");
            let plan = interleaved(&sequences, most, random);
            assert_same(&feed(&mut model, &sequences, &plan, None, random), &expected, &what);
            for cut in 1..model.layers() {
                let got = feed(&mut model, &sequences, &plan, Some(cut), random);
                assert_same(&got, &expected, &format!("{what}, cut before layer {cut}"));
            }
        }
    }
}

/// Those that a model can be loaded with: not every type takes every size of heads.
fn options(gguf: &Gguf) -> impl Iterator<Item = LoadOptions> {
    let spec = describe(gguf).expect("a supported model").spec;
    let sizes = spec.layers.iter().flat_map(|layer| [layer.attention.key_size, layer.attention.value_size]);
    let whole = sizes.into_iter().all(|size| size.is_multiple_of(32));
    OPTIONS.into_iter().filter(move |options| whole || options.kv_type != KvType::Q8_0)
}

/// On each instruction set of this machine, with 1, 2 and 3 threads.
fn check_tiny(tiny: &TinyLlama, lengths: &[usize]) {
    let gguf = tiny_file(tiny);
    let by_threads: Vec<Vec<Runtime>> = (1..=3).map(|threads| every_runtime(threads).collect()).collect();
    for isa in 0..by_threads[0].len() {
        let runtimes: Vec<Runtime> = by_threads.iter().map(|runtimes| runtimes[isa].clone()).collect();
        for options in options(&gguf) {
            let longest = lengths.iter().max().copied().unwrap_or(1);
            check(&gguf, &runtimes, lengths, longest, options, &format!("{}, {options:?}", tiny.dtype));
        }
    }
}

const LENGTHS: [usize; 4] = [70, 33, 1, 32];

/// The cache and activations in every type, and everything in single precision. Sizes are each test's own.
const OPTIONS: [LoadOptions; 5] = {
    let default = LoadOptions {
        context: 0,
        kv_room: KvRoom::Sequences(0),
        max_batch: 0,
        kv_type: KvType::F16,
        activations: None,
        exact: false,
    };
    [
        default,
        LoadOptions { activations: Some(ActivationType::I8), ..default },
        LoadOptions { kv_type: KvType::F32, ..default },
        LoadOptions { exact: true, ..default },
        LoadOptions { kv_type: KvType::Q8_0, ..default },
    ]
};

#[test]
fn heads_of_6_in_f32() {
    let tiny = TinyLlama { dim: 38, heads: 6, kv_heads: 2, head_size: 6, feed_forward: 50, ..small() };
    check_tiny(&tiny, &LENGTHS);
}

#[test]
fn heads_of_34_in_q8_0() {
    let tiny = TinyLlama { heads: 6, kv_heads: 2, head_size: 34, dtype: DType::Q8_0, tied: false, ..small() };
    check_tiny(&tiny, &LENGTHS);
}

#[test]
fn heads_of_80_in_q4_1() {
    let tiny =
        TinyLlama { dim: 96, heads: 6, kv_heads: 2, head_size: 80, dtype: DType::Q4_1, layers: 3, ..small() };
    check_tiny(&tiny, &LENGTHS);
}

#[test]
fn rope_factors_in_q4_k() {
    let tiny = TinyLlama {
        dim: 256,
        heads: 8,
        kv_heads: 4,
        head_size: 32,
        feed_forward: 256,
        dtype: DType::Q4_K,
        tied: false,
        rope_factors: true,
        ..small()
    };
    check_tiny(&tiny, &LENGTHS);
}

/// More query heads for a KV head than one call of attention takes, and not a multiple of it.
#[test]
fn one_kv_head_in_q4_0() {
    let tiny = TinyLlama { heads: 7, kv_heads: 1, head_size: 130, dtype: DType::Q4_0, ..small() };
    check_tiny(&tiny, &LENGTHS);
}

/// Beyond the spans in which attention gathers scores.
#[test]
fn long_sequences() {
    let tiny =
        TinyLlama { dim: 32, heads: 3, kv_heads: 1, head_size: 32, layers: 1, feed_forward: 32, ..small() };
    check_tiny(&tiny, &[1030, 513]);
}

/// Each family's own: windows, caps, norms and orders of its kind.
#[test]
fn every_family() {
    let folder = std::fs::read_dir(committed("archs")).expect("the folder of small models");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    let models: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    assert!(models.len() >= ARCHS.len(), "a model of each family");
    let runtimes = [1, 3].map(|threads| Runtime::new(Some(threads)).expect("threads"));
    for path in models {
        let gguf = Gguf::open(&path).expect("a readable file");
        let spec = describe(&gguf).expect("a supported model").spec;
        let length = if spec.learned_positions { spec.context.min(230) } else { 230 };
        for options in options(&gguf) {
            let what = format!("{}, {options:?}", path.display());
            // Batches far shorter than the sequences: a layer with a window uses its blocks
            // several times.
            check(&gguf, &runtimes, &[length, 70, 1], 47, options, &what);
        }
    }
}

#[test]
fn smollm2() {
    let gguf = Gguf::open(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).expect("a readable file");
    let runtimes: Vec<Runtime> = (1..=3).map(|n| Runtime::new(Some(n)).expect("threads")).collect();
    for &(name, kv_type) in KvType::ALL {
        let runtimes = if kv_type == KvType::F16 { &runtimes[..] } else { &runtimes[..2] };
        check_once(&gguf, runtimes, kv_type, &format!("SmolLM2, KV in {name}"));
    }
}

/// As [`check`], with less repetition: the real model has thirty layers.
fn check_once(gguf: &Gguf, runtimes: &[Runtime], kv_type: KvType, what: &str) {
    let kv_room = KvRoom::Sequences(3);
    let options =
        LoadOptions { context: 70, kv_room, max_batch: 128, kv_type, activations: None, exact: false };
    let random = &mut Random::new(11);
    let mut expected = None;
    for runtime in runtimes {
        let mut model = CpuModel::load(gguf, runtime, options, &mut |_, _| ()).expect("a supported model");
        let sequences = sequences(&[70, 9, 40], model.vocabulary());
        let expected = expected
            .get_or_insert_with(|| feed(&mut model, &sequences, &in_chunks(&sequences, 1), None, random));
        for chunk in [7, 64, 70] {
            let got = feed(&mut model, &sequences, &in_chunks(&sequences, chunk), None, random);
            assert_same(&got, expected, &format!("{what}, {runtime:?}, chunks of {chunk}"));
        }
        let plan = interleaved(&sequences, 50, random);
        let got = feed(&mut model, &sequences, &plan, Some(13), random);
        assert_same(&got, expected, &format!("{what}, {runtime:?}, interleaved, in two parts"));
    }
}

fn small() -> TinyLlama {
    TinyLlama { vocab: 50, tokenizer: false, seed: 9, ..TinyLlama::default() }
}
