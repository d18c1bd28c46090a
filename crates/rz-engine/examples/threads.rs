//! What threads bring, as ratios of figures that are taken in turns:
//!
//! - the efficiency of all threads: their speed over that of one thread, times their number;
//! - what is left beside as many busy processes as there are threads: a fair share is one half.
//!
//! `cargo run --release -p rz-engine --example threads -- MODEL.gguf [THREADS [ROUNDS]]`

use std::process::{Child, Command, Stdio};

use rz_engine::{BenchOptions, BenchReport, bench, median};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, LoadOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: threads MODEL.gguf [THREADS [ROUNDS]]")?;
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let rounds = arguments.next().map_or(Ok(7), |rounds| rounds.parse())?;
    let gguf = Gguf::open(path)?;
    let mut all = Measured::load(&gguf, Runtime::new(threads)?)?;
    let mut one = Measured::load(&gguf, Runtime::new(Some(1))?)?;
    let count = all.runtime.pool.threads();

    let mut efficiency = Ratios::default();
    let mut left = Ratios::default();
    for _ in 0..rounds {
        let alone = all.measure()?;
        efficiency.add(&alone, &one.measure()?, count as f64);
        let disturbed = {
            let _neighbours = Neighbours::start(count)?;
            all.measure()?
        };
        left.add(&disturbed, &alone, 1.0);
    }
    efficiency.print(&format!("efficiency of {count} threads"));
    left.print(&format!("left beside {count} busy processes"));
    Ok(())
}

struct Measured {
    model: CpuModel,
    runtime: Runtime,
    bytes: Vec<usize>,
}

impl Measured {
    fn load(gguf: &Gguf, runtime: Runtime) -> Result<Measured> {
        let model = CpuModel::load(gguf, &runtime, LoadOptions::default(), &mut |_, _| ())?;
        let bytes = (0..1024).map(|positions| model.bytes_per_token(positions)).collect();
        Ok(Measured { model, runtime, bytes })
    }

    fn measure(&mut self) -> Result<BenchReport> {
        let options = BenchOptions { prompt: 512, generate: 64, depth: 0, sequences: 1, repetitions: 1 };
        Ok(bench(&mut self.model, &self.runtime, options, |positions| self.bytes[positions])?)
    }
}

/// Busy processes, for as long as this lives.
struct Neighbours(Vec<Child>);

impl Neighbours {
    fn start(count: usize) -> Result<Neighbours> {
        let mut neighbours = Neighbours(Vec::new());
        for _ in 0..count {
            let mut busy = Command::new("sh");
            busy.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            neighbours.0.push(busy.spawn()?);
        }
        Ok(neighbours)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Nothing else would end it.
            child.kill().expect("a child can be ended");
            let _ = child.wait();
        }
    }
}

#[derive(Default)]
struct Ratios {
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

impl Ratios {
    fn add(&mut self, over: &BenchReport, under: &BenchReport, times: f64) {
        self.prefill.push(median(&over.prefill) / median(&under.prefill) / times);
        self.decode.push(median(&over.decode) / median(&under.decode) / times);
    }

    fn print(&self, what: &str) {
        for (kind, ratios) in [("prefill", &self.prefill), ("decode", &self.decode)] {
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            println!("{what}, {kind:<8} {:.2}  ({least:.2} to {most:.2})", median(ratios));
        }
    }
}
