//! Packs a small matrix of 8-bit weights by hand and multiplies it with two vectors on
//! two threads: `cargo run -p rz-kernels --example product`.

use rz_kernels::panel_product;
use rz_kernels::{Activations, Arena, PANEL_COLUMNS, PANEL_ROWS, PanelKind, PanelRef, Runtime, Split};

const ROWS: usize = PANEL_ROWS;
const COLUMNS: usize = 2 * PANEL_COLUMNS;
const TOKENS: usize = 2;

/// The matrix: whole numbers from -128 to 127, halved.
fn whole(row: usize, column: usize) -> i32 {
    (row * 7 + column * 31) as i32 % 256 - 128
}

fn main() -> std::io::Result<()> {
    let runtime = Runtime::new(Some(2))?;

    // One panel of two blocks, each 16 scales and then 8 groups of 4 columns of 16 rows.
    let kind = PanelKind::Bits8;
    let bytes = kind.matrix_bytes(ROWS, COLUMNS).expect("whole blocks");
    let mut arena = Arena::new(bytes)?;
    for (block, out) in arena[..bytes].chunks_exact_mut(kind.block_bytes()).enumerate() {
        let (scales, weights) = out.split_at_mut(2 * PANEL_ROWS);
        scales.chunks_exact_mut(2).for_each(|scale| scale.copy_from_slice(&[0x00, 0x38])); // 0.5
        for (i, weight) in weights.iter_mut().enumerate() {
            let (group, row, j) = (i / 64, i / 4 % 16, i % 4);
            *weight = (whole(row, block * PANEL_COLUMNS + 4 * group + j) + 128) as u8;
        }
    }
    let matrix = PanelRef::new(kind, ROWS, COLUMNS, &arena[..bytes]);

    let x: Vec<f32> = (0..TOKENS * COLUMNS).map(|i| (i as f32 * 0.1).sin()).collect();
    let mut out = vec![0.0; TOKENS * ROWS];
    runtime.pool.step(|team| {
        let mut activations = Activations::default();
        activations.quantize(runtime.kernels, team, &x, COLUMNS);
        let split = Split { data: &mut out, columns: ROWS, grain: PANEL_ROWS };
        team.columns([split], |_, mut columns| {
            panel_product(runtime.kernels, matrix, &activations, &mut columns);
        });
    });

    println!("{runtime:?}");
    for (token, x) in x.chunks_exact(COLUMNS).enumerate() {
        for row in [0, 15] {
            let plain: f64 = (0..COLUMNS).map(|c| f64::from(whole(row, c)) / 2.0 * f64::from(x[c])).sum();
            println!("token {token}, row {row}: {:.4}, in f64 {plain:.4}", out[token * ROWS + row]);
        }
    }
    Ok(())
}
