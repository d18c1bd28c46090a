//! `rz bench`: how fast a model runs, beside how fast this machine reads memory.

use clap::Args;
use rz_engine::{BenchOptions, BenchReport, ModelFile, median};
use rz_kernels::Runtime;
use rz_model::KvRoom;
use serde_json::{Value, json};

use crate::args::{Common, Compute};
use crate::failure::Failure;
use crate::table::{Align, Table};
use crate::terminal::Out;
use crate::{machine, model};

/// What `rz bench` takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Tokens of the prompt; 0: do not measure prefill
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    prompt: u32,
    /// Tokens to generate; 0: do not measure decode
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    generate: u32,
    /// Repetitions, after one that does not count
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Tokens that are in the cache before either
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    depth: u32,
    /// Sequences that are generated together, each with a prompt of its own
    #[arg(short = 's', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    sequences: u32,
    /// Print one JSON object: medians, and the figures of every repetition
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// Measures speed.
pub(crate) fn bench(args: &BenchArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    if args.prompt == 0 && args.generate == 0 {
        return Err(Failure::input("there is nothing to measure: -p and -n are both 0"));
    }
    let options = BenchOptions {
        prompt: args.prompt as usize,
        generate: args.generate as usize,
        depth: args.depth as usize,
        sequences: args.sequences as usize,
        repetitions: args.repetitions as usize,
    };
    let file = model::open(common)?;
    let spec = model::describe(&file)?;
    let needed = options.depth + options.prompt.max(options.generate);
    let context = if common.ctx.is_none() { needed } else { model::context(common, &spec)? };
    if needed > context {
        return Err(Failure::input(format!(
            "{needed} tokens do not fit into a context of {context}: give a larger --ctx, or none"
        )));
    }
    let runtime = common.runtime()?;
    let mut load = args.compute.load_options(context);
    load.kv_room = KvRoom::Sequences(options.sequences);
    load.max_batch = load.max_batch.max(options.sequences);
    let (mut forward, _) = model::load(&file, &spec, &runtime, load, args.compute.placement())?;
    let loaded = machine::peak_memory();
    // Asked before the model is lent out: what a token reads grows evenly only where nothing is windowed.
    let bytes: Vec<usize> = (0..=needed).map(|positions| forward.bytes_per_token(positions)).collect();
    let macs = [false, true].map(|logits| forward.macs_per_token(logits));
    let report = rz_engine::bench(&mut forward, &runtime, options, |positions| bytes[positions])?;
    // What measuring took is there throughout, and only since the model is loaded.
    let running = machine::peak_memory().map(|peak| peak.saturating_sub(report.own_bytes as u64));
    let model = ModelFigures { bytes: bytes[0], macs, peak: loaded.max(running) };
    let name = model::reference(common, None);
    if args.json {
        return out.json(&as_json(name, &file, &runtime, args, &model, &report));
    }
    out.text(&as_table(name, &runtime, args, &model, &report))
}

/// What is known of the model beside its speed.
struct ModelFigures {
    /// Bytes of weights that a pass reads.
    bytes: usize,
    /// Multiplications and additions for a token of a prompt, and for one that is generated.
    macs: [usize; 2],
    /// The most memory that the process had, without what measuring took.
    peak: Option<u64>,
}

fn as_json(
    name: &str,
    file: &ModelFile,
    runtime: &Runtime,
    args: &BenchArgs,
    model: &ModelFigures,
    report: &BenchReport,
) -> Value {
    let middle = |figures: &[f64]| (!figures.is_empty()).then(|| median(figures));
    let bytes: usize = file.tensors().map(|tensor| tensor.bytes().len()).sum();
    json!({
        "model": name,
        "tensor_bytes": bytes,
        "threads": runtime.pool.threads(),
        "threads_batch": runtime.pool.batch_threads(),
        "isa": runtime.kernels.isa().name(),
        "prompt": args.prompt,
        "generate": args.generate,
        "depth": args.depth,
        "sequences": args.sequences,
        "batch": args.compute.batch,
        "repetitions": args.repetitions,
        "prefill_tok_s": middle(&report.prefill),
        "decode_tok_s": middle(&report.decode),
        "decode_gb_s": middle(&report.decode_bytes),
        "read_gb_s": middle(&report.read),
        "dot_gmac_s": middle(&report.dot),
        "decode_read_share": share(report),
        "prefill_dot_share": prefill_share(model, report),
        "weight_bytes": model.bytes,
        "decode_bytes": bytes_of_pass(args, report),
        "prefill_macs": model.macs[0],
        "decode_macs": model.macs[1],
        "peak_bytes": model.peak,
        "runs": {
            "prefill_tok_s": report.prefill,
            "decode_tok_s": report.decode,
            "decode_gb_s": report.decode_bytes,
            "read_gb_s": report.read,
            "dot_gmac_s": report.dot,
        },
    })
}

fn as_table(
    name: &str,
    runtime: &Runtime,
    args: &BenchArgs,
    model: &ModelFigures,
    report: &BenchReport,
) -> String {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("test", Align::Left),
        ("median", right),
        ("least", right),
        ("most", right),
        ("unit", Align::Left),
    ]);
    let rows = [
        (format!("prefill {}", args.prompt), &report.prefill, "tokens/s"),
        (format!("decode {}", args.generate), &report.decode, "tokens/s"),
        ("weights and cache read".to_owned(), &report.decode_bytes, "GB/s"),
        ("plain read of memory".to_owned(), &report.read, "GB/s"),
        ("8-bit dot products".to_owned(), &report.dot, "GMAC/s"),
    ];
    for (test, figures, unit) in rows {
        if !figures.is_empty() {
            let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
            let most = figures.iter().copied().fold(0.0, f64::max);
            let [median, least, most] = [median(figures), least, most].map(|figure| format!("{figure:.2}"));
            table.row([test, median, least, most, unit.to_owned()]);
        }
    }
    let sequences =
        if args.sequences == 1 { String::new() } else { format!("{} sequences, ", args.sequences) };
    let mut text = format!(
        "{name}: {}, {sequences}depth {}, {} repetitions\n{}",
        model::computed_by(runtime),
        args.depth,
        args.repetitions,
        table.render()
    );
    if let Some(share) = share(report) {
        text += &format!("decode reads at {:.0}% of the speed of a plain read\n", 100.0 * share);
    }
    if let Some(share) = prefill_share(model, report) {
        text +=
            &format!("prefill multiplies at {:.0}% of the speed of products in registers\n", 100.0 * share);
    }
    text
}

fn share(report: &BenchReport) -> Option<f64> {
    (!report.decode_bytes.is_empty()).then(|| median(&report.decode_bytes) / median(&report.read))
}

fn prefill_share(model: &ModelFigures, report: &BenchReport) -> Option<f64> {
    let macs = median(&report.prefill) * model.macs[0] as f64 / 1e9;
    (!report.prefill.is_empty()).then(|| macs / median(&report.dot))
}

/// Bytes that a pass of decoding reads, on average.
fn bytes_of_pass(args: &BenchArgs, report: &BenchReport) -> Option<f64> {
    let passes = median(&report.decode) / f64::from(args.sequences);
    (!report.decode.is_empty()).then(|| 1e9 * median(&report.decode_bytes) / passes)
}
