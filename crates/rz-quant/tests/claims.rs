//! The claims about correctness on which the products rest (hypothesis H4 of docs/performance.md): on every
//! instruction set the result is that of plain Rust within 4 units in the last place or 1e-4 of its size, and errs to
//! neither side. Speed is claimed in `benches/`.

use std::sync::Arc;

use rz_kernels::{ActivationType, Activations, Arena, IsaKind, Kernels, Pool};
use rz_quant::{DType, Input, Matrix, matmul, pack};

const ROWS: usize = 256;
const COLUMNS: usize = 1024;
const TOKENS: usize = 9;

#[test]
fn every_instruction_set_gives_what_plain_rust_gives() {
    for dtype in packed() {
        let case = Case::of(dtype);
        for &(name, kind) in ActivationType::ALL {
            let plain = case.product(Kernels::with(IsaKind::Portable).expect("plain Rust"), kind);
            for kernels in others() {
                for (i, (got, expected)) in case.product(kernels, kind).into_iter().zip(&plain).enumerate() {
                    let difference = (got - expected).abs();
                    let last_place = expected.abs() * f32::EPSILON;
                    let bound = (4.0 * last_place).max(1e-4 * case.terms(i).size() as f32);
                    let isa = kernels.isa().name();
                    assert!(difference <= bound, "{dtype} on {isa}, {name}: {got}, plain {expected}");
                }
            }
        }
    }
}

#[test]
fn errors_fall_to_both_sides() {
    for dtype in packed() {
        let case = Case::of(dtype);
        let sets = others().chain(Kernels::with(IsaKind::Portable));
        for (kernels, &(name, kind)) in
            sets.flat_map(|set| ActivationType::ALL.iter().map(move |kind| (set, kind)))
        {
            let out = case.product(kernels, kind);
            let errors: Vec<f64> = out
                .iter()
                .enumerate()
                .map(|(i, &got)| (f64::from(got) - case.terms(i).sum()) / case.terms(i).size())
                .collect();
            let n = errors.len() as f64;
            let mean = errors.iter().sum::<f64>() / n;
            let deviation = (errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n).sqrt();
            // Six standard errors: chance gives more once in 10^8 times. Below 1e-8 nobody can tell.
            let bound = (6.0 * deviation / n.sqrt()).max(1e-8);
            let isa = kernels.isa().name();
            assert!(mean.abs() <= bound, "{dtype} on {isa}, {name}: {mean:e} of {deviation:e}");
        }
    }
}

/// Formats with a panel kind.
fn packed() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|dtype| dtype.panel().is_some())
}

/// The instruction sets of this processor, without plain Rust.
fn others() -> impl Iterator<Item = Kernels> {
    IsaKind::ALL.iter().filter(|&&isa| isa != IsaKind::Portable).filter_map(|&isa| Kernels::with(isa))
}

/// A matrix and tokens to multiply it with.
struct Case {
    matrix: Matrix,
    /// The matrix, decoded.
    weights: Vec<f32>,
    x: Vec<f32>,
}

/// The terms of one element of the result.
struct Terms<'a>(&'a [f32], &'a [f32]);

impl Terms<'_> {
    fn each(&self) -> impl Iterator<Item = f64> {
        self.0.iter().zip(self.1).map(|(&w, &x)| f64::from(w) * f64::from(x))
    }

    fn sum(&self) -> f64 {
        self.each().sum()
    }

    /// How large a sum of terms of random signs is.
    fn size(&self) -> f64 {
        self.each().map(|term| term * term).sum::<f64>().sqrt()
    }
}

impl Case {
    fn of(dtype: DType) -> Case {
        let random = uniform(ROWS * COLUMNS + TOKENS * COLUMNS);
        let (values, x) = random.split_at(ROWS * COLUMNS);
        let mut blocks = Vec::new();
        dtype.encode(values, &mut blocks);
        let mut weights = vec![0.0; values.len()];
        dtype.decode(&blocks, &mut weights);
        let size = Matrix::packed_bytes(dtype, ROWS, COLUMNS).expect("a panel kind");
        let mut arena = Arena::new(size).expect("memory");
        let pool = Pool::new(2).expect("threads");
        pool.step(|team| pack(Kernels::detect(), team, dtype, ROWS, COLUMNS, &blocks, &mut arena[..size]))
            .expect("a matrix");
        let matrix = Matrix::from_panels(dtype, ROWS, COLUMNS, Arc::new(arena), 0..size);
        Case { matrix, weights, x: x.to_owned() }
    }

    fn product(&self, kernels: Kernels, kind: ActivationType) -> Vec<f32> {
        let mut out = vec![f32::NAN; TOKENS * ROWS];
        let mut quantized = Activations::new(kind);
        Pool::new(1).expect("no thread").step(|team| {
            if self.matrix.reads_quantized() {
                quantized.quantize(kernels, team, &self.x, COLUMNS);
            }
            let input = Input { values: &self.x, quantized: &quantized };
            matmul(kernels, team, input, [(&self.matrix, &mut out)]);
        });
        out
    }

    fn terms(&self, index: usize) -> Terms<'_> {
        let (token, row) = (index / ROWS, index % ROWS);
        Terms(&self.weights[row * COLUMNS..][..COLUMNS], &self.x[token * COLUMNS..][..COLUMNS])
    }
}

/// Numbers from -1 to 1.
fn uniform(count: usize) -> Vec<f32> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f32 / (1u32 << 30) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
