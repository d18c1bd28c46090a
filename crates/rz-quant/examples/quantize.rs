//! Quantizes a vector with every format and prints what each costs and loses:
//! `cargo run -p rz-quant --example quantize`.

use rz_quant::DType;

fn main() {
    // A wave with a slow swell: no two blocks are alike.
    let x: Vec<f32> = (0..4096).map(|i| (i as f32).cos() * (1.0 + (i as f32 / 300.0).sin() / 2.0)).collect();
    let energy = energy(&x);

    println!("{:6} {:>11} {:>10} {:>10}", "format", "bits/weight", "RMS error", "relative");
    for &dtype in DType::ALL {
        let mut blocks = Vec::new();
        dtype.encode(&x, &mut blocks);
        let mut back = vec![0.0; x.len()];
        dtype.decode(&blocks, &mut back);

        let misses: Vec<f32> = x.iter().zip(&back).map(|(x, y)| x - y).collect();
        let error = self::energy(&misses);
        println!(
            "{:6} {:>11.4} {:>10.2e} {:>9.3}%",
            dtype.name(),
            8.0 * blocks.len() as f64 / x.len() as f64,
            (error / x.len() as f64).sqrt(),
            100.0 * (error / energy).sqrt(),
        );
    }
}

fn energy(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v).powi(2)).sum()
}
