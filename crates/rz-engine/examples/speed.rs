//! Measures a model: `cargo run --release --example speed -- MODEL.gguf [THREADS]`.

use rz_engine::{BenchOptions, bench, median};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, LoadOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: speed MODEL.gguf [THREADS]")?;
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let runtime = Runtime::new(threads)?;
    let mut model = CpuModel::load(&Gguf::open(path)?, &runtime, LoadOptions::default(), &mut |_, _| ())?;
    let bytes: Vec<usize> = (0..1024).map(|positions| model.bytes_per_token(positions)).collect();
    let options = BenchOptions { prompt: 512, generate: 64, depth: 0, sequences: 1, repetitions: 5 };
    let report = bench(&mut model, &runtime, options, |positions| bytes[positions])?;
    println!("prefill {:8.1} tokens/s", median(&report.prefill));
    println!("decode  {:8.1} tokens/s", median(&report.decode));
    println!("decode  {:8.2} GB/s of {:.2}", median(&report.decode_bytes), median(&report.read));
    println!("8-bit dot products in registers: {:.0} GMAC/s", median(&report.dot));
    Ok(())
}
