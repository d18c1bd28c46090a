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
    ActivationType, Activations, Arena, KV_BLOCK, Kernels, KvFormat, KvView, Query, Runtime, Team,
    last_level_cache, write_head,
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
    runtime
        .pool
        .step(|team| pack(runtime.kernels, team, dtype, rows, columns, &blocks, first))
        .expect("a whole matrix");
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

/// Keys and values of some layers, as a model keeps them, and queries that read them.
pub struct Cache<F> {
    storage: Arena,
    table: Vec<u32>,
    /// One query after the other.
    queries: Vec<f32>,
    layers: usize,
    heads: usize,
    size: usize,
    format: PhantomData<F>,
}

impl<F: KvFormat> Cache<F> {
    /// `positions` of `layers` layers of `heads` KV heads of `size` components.
    ///
    /// # Panics
    /// When the system has no memory for them.
    pub fn new(layers: usize, positions: usize, heads: usize, size: usize) -> Cache<F> {
        let blocks = positions.div_ceil(KV_BLOCK);
        let head = F::key_bytes(size) + F::value_bytes(size);
        let mut storage = Arena::sparse(blocks * layers * heads * head).expect("memory for keys and values");
        let some = values(8 * size);
        let some = |i: usize| &some[i % 7 * size..][..size];
        for (i, part) in storage[..blocks * layers * heads * head].chunks_exact_mut(head).enumerate() {
            for slot in 0..KV_BLOCK {
                write_head::<F>(Kernels::detect(), part, slot, some(i + slot), some(i + 3 * slot));
            }
        }
        let table = (0..blocks as u32).collect();
        Cache { storage, table, queries: values(64 * size), layers, heads, size, format: PhantomData }
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.table.len() * self.block()
    }

    /// One head of a layer.
    pub fn view(&self, layer: usize, head: usize) -> KvView<'_> {
        let bytes = F::key_bytes(self.size) + F::value_bytes(self.size);
        KvView {
            blocks: &self.storage,
            stride: self.block(),
            offset: (layer * self.heads + head) * bytes,
            table: &self.table,
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

    fn block(&self) -> usize {
        self.layers * self.heads * (F::key_bytes(self.size) + F::value_bytes(self.size))
    }
}
