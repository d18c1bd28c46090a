//! What the benchmarks share: weights, keys and values of a size, and how long to measure.
//!
//! `cargo bench -p benches` runs them all; `-- --help` after `--bench NAME` lists what one
//! takes. Figures drift with the machine: compare those of one run, and see the ratios
//! that `--bench ratios` takes in turns.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use rz_kernels::{
    ActivationType, Activations, Arena, KV_BLOCK, KvElement, KvView, Query, Runtime, Team, key_block,
    last_level_cache, value_block,
};
use rz_quant::{DType, Input, Matrix, matmul, pack};

/// Few samples of a short time each: all benchmarks together take some three minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
        .configure_from_args()
}

/// Bytes that no cache holds, not even in part.
pub fn cold_bytes() -> usize {
    4 * last_level_cache()
}

/// Pseudo-random numbers from -1 to 1.
pub fn values(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Equal matrices, packed one after the other, of at least `bytes` together.
///
/// # Panics
/// When the system has no memory for them.
pub fn matrices(runtime: &Runtime, dtype: DType, rows: usize, columns: usize, bytes: usize) -> Vec<Matrix> {
    // Encoding is slow: a few rows serve again and again.
    const DIFFERENT: usize = 16;
    let mut some = Vec::new();
    dtype.encode(&values(DIFFERENT * columns), &mut some);
    let row = some.len() / DIFFERENT;
    let blocks: Vec<u8> = (0..rows).flat_map(|i| &some[i % DIFFERENT * row..][..row]).copied().collect();

    let size = Matrix::packed_bytes(dtype, rows, columns).expect("a type with a panel kind");
    let stride = size.next_multiple_of(64);
    let count = bytes.div_ceil(size);
    let mut arena = Arena::new(count * stride).expect("memory for the weights");
    let first = &mut arena[..size];
    runtime.pool.step(|team| pack(team, dtype, rows, columns, &blocks, first)).expect("a whole matrix");
    (1..count).for_each(|i| arena.copy_within(..size, i * stride));
    let arena = Arc::new(arena);
    let panels = |i| Matrix::from_panels(dtype, rows, columns, arena.clone(), i * stride..i * stride + size);
    (0..count).map(panels).collect()
}

/// Multiplies each of the matrices with the tokens of `x`, `rounds` times.
pub fn multiply(runtime: &Runtime, matrices: &[Matrix], x: &[f32], rounds: usize, out: &mut [f32]) {
    multiply_as(ActivationType::default(), runtime, matrices, x, rounds, out);
}

/// The same with activations of this type.
pub fn multiply_as(
    kind: ActivationType,
    runtime: &Runtime,
    matrices: &[Matrix],
    x: &[f32],
    rounds: usize,
    out: &mut [f32],
) {
    runtime.pool.step(|team: &Team<'_>| {
        let mut quantized = Activations::new(kind);
        if matrices[0].reads_quantized() {
            quantized.quantize(runtime.kernels, team, x, matrices[0].columns());
        }
        let input = Input { values: x, quantized: &quantized };
        for _ in 0..rounds {
            for matrix in matrices {
                matmul(runtime.kernels, team, input, [(matrix, &mut *out)]);
            }
        }
    });
}

/// Keys and values of one layer, in the kind of memory that a model keeps them in, and
/// queries that read them.
pub struct Cache<E> {
    keys: Arena,
    values: Arena,
    table: Vec<u32>,
    /// One query after the other.
    queries: Vec<f32>,
    heads: usize,
    size: usize,
    element: PhantomData<E>,
}

impl<E: KvElement> Cache<E> {
    /// `positions` of `heads` KV heads of `size` components.
    pub fn new(positions: usize, heads: usize, size: usize) -> Cache<E> {
        let blocks = positions.div_ceil(KV_BLOCK);
        let random = |count: usize| {
            let mut arena = Arena::sparse(count * size_of::<E>()).expect("memory for keys and values");
            let elements: &mut [E] = bytemuck::cast_slice_mut(&mut arena[..count * size_of::<E>()]);
            elements.iter_mut().zip(values(count)).for_each(|(element, x)| *element = E::from_f32(x));
            arena
        };
        Cache {
            keys: random(blocks * heads * key_block(size)),
            values: random(blocks * heads * value_block(size)),
            table: (0..blocks as u32).rev().collect(),
            queries: values(64 * size),
            heads,
            size,
            element: PhantomData,
        }
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// One head.
    pub fn view(&self, head: usize) -> KvView<'_, E> {
        KvView {
            keys: bytemuck::cast_slice(&self.keys),
            values: bytemuck::cast_slice(&self.values),
            table: &self.table,
            heads: self.heads,
            head,
            key_size: self.size,
            value_size: self.size,
            score_cap: None,
        }
    }

    /// A query that sees everything before `end`.
    pub fn query(&self, index: usize, end: usize) -> Query<'_> {
        let q = &self.queries[index * self.size % self.queries.len()..][..self.size];
        Query { q, first: 0, end }
    }
}
