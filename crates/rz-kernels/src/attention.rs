//! Attention over blocks of keys and values, in one pass with a running softmax
//! (Milakov and Gimelshein 2018; Dao et al. 2022): no row of scores is ever stored.
//!
//! A KV block holds [`KV_BLOCK`] positions of one head:
//!
//! - keys transposed, `[head size][KV_BLOCK]`, so that one vector load meets the
//!   same component of sixteen positions and scores need no horizontal sums;
//! - values `[KV_BLOCK][head size]`, the head size rounded up to whole vectors.
//!
//! A row's scores are gathered in spans of [`SPAN`] positions, at fixed absolute
//! positions, and the spans are merged in order; positions a row does not see are not
//! read. So a row's result does not depend on the rows computed beside it, on the
//! chunks in which a prompt was fed, or on who computes which span.

use crate::ops::{cap_lanes, exp};
use crate::{Isa, Kernels, LANES, SimdOp};

/// Positions of a KV block.
pub const KV_BLOCK: usize = 32;

/// Largest head size of keys and of values.
pub const MAX_HEAD: usize = 512;

/// Most queries of one call: each adds its own sums to the same pass over keys and values.
pub const QUERIES: usize = 4;

const SPAN: usize = 512;
const SMALL_HEAD: usize = 128;

/// A type that keys and values can be stored in.
pub trait KvElement: bytemuck::Pod + Send + Sync {
    /// The nearest stored value.
    fn from_f32(x: f32) -> Self;
    /// The value.
    fn to_f32(self) -> f32;
    /// Sixteen values.
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F32;
}

impl KvElement for f32 {
    fn from_f32(x: f32) -> f32 {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32; LANES]) -> I::F32 {
        isa.load(x)
    }
}

impl KvElement for half::f16 {
    fn from_f32(x: f32) -> half::f16 {
        half::f16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        half::f16::to_f32(self)
    }
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[half::f16; LANES]) -> I::F32 {
        isa.load_f16(bytemuck::cast_ref(x))
    }
}

/// The blocks of one head of one layer, found through a sequence's table.
#[derive(Clone, Copy)]
pub struct KvView<'a, E> {
    /// Keys of every block of the layer.
    pub keys: &'a [E],
    /// Values of every block of the layer.
    pub values: &'a [E],
    /// The block that holds each `KV_BLOCK` positions of the sequence. Entries of which no
    /// query sees a position are not read.
    pub table: &'a [u32],
    /// KV heads of the layer: blocks hold their heads one after the other.
    pub heads: usize,
    /// The head to read.
    pub head: usize,
    /// Components of a key.
    pub key_size: usize,
    /// Components of a value.
    pub value_size: usize,
    /// `score = cap * tanh(score / cap)`.
    pub score_cap: Option<f32>,
}

/// Elements that the keys of one head take in a block.
pub const fn key_block(key_size: usize) -> usize {
    key_size * KV_BLOCK
}

/// Elements that the values of one head take in a block.
pub const fn value_block(value_size: usize) -> usize {
    value_size.next_multiple_of(LANES) * KV_BLOCK
}

impl<'a, E> KvView<'a, E> {
    #[inline(always)]
    fn key_block(&self, block: usize) -> &'a [E] {
        let size = key_block(self.key_size);
        &self.keys[(self.table[block] as usize * self.heads + self.head) * size..][..size]
    }

    #[inline(always)]
    fn value_block(&self, block: usize) -> &'a [E] {
        let size = value_block(self.value_size);
        &self.values[(self.table[block] as usize * self.heads + self.head) * size..][..size]
    }
}

/// One query: a row of at most [`QUERIES`] that are computed together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// The query vector, already scaled.
    pub q: &'a [f32],
    /// The first position that it sees.
    pub first: usize,
    /// The position after the last that it sees.
    pub end: usize,
}

/// Computes attention for up to [`QUERIES`] queries that read the same head. Row `i` of
/// `out` becomes the mean of the values that query `i` sees, weighted by the softmax of
/// its scores.
///
/// # Panics
/// When a shape does not fit: queries of `key_size`, rows of `out` of `value_size`, each
/// query seeing at least one position, and only such as the table covers.
pub fn attend<E: KvElement>(kernels: Kernels, kv: KvView<'_, E>, queries: &[Query<'_>], out: &mut [f32]) {
    assert!(kv.key_size <= MAX_HEAD && kv.value_size <= MAX_HEAD, "head size");
    for query in queries {
        assert_eq!(query.q.len(), kv.key_size, "length of a query");
        assert!(query.first < query.end && query.end <= kv.table.len() * KV_BLOCK, "{query:?}");
    }
    assert_eq!(out.len(), queries.len() * kv.value_size, "one row of the output for each query");
    if kv.value_size <= SMALL_HEAD {
        dispatch::<E, SMALL_HEAD>(kernels, kv, queries, out);
    } else {
        dispatch::<E, MAX_HEAD>(kernels, kv, queries, out);
    }
}

fn dispatch<E: KvElement, const W: usize>(
    kernels: Kernels,
    kv: KvView<'_, E>,
    queries: &[Query<'_>],
    out: &mut [f32],
) {
    match *queries {
        [] => {}
        [a] => kernels.run(Attend::<E, W, 1> { kv, queries: [a], out }),
        [a, b] => kernels.run(Attend::<E, W, 2> { kv, queries: [a, b], out }),
        [a, b, c] => kernels.run(Attend::<E, W, 3> { kv, queries: [a, b, c], out }),
        [a, b, c, d] => kernels.run(Attend::<E, W, QUERIES> { kv, queries: [a, b, c, d], out }),
        _ => panic!("{} queries at once", queries.len()),
    }
}

// W is the room for a value: heads are mostly small, and a row's room is cleared for every span.
struct Attend<'a, E, const W: usize, const R: usize> {
    kv: KvView<'a, E>,
    queries: [Query<'a>; R],
    out: &'a mut [f32],
}

/// The running softmax of a row: its largest score, the sum of `exp(score - largest)`,
/// and the values weighted by it.
#[derive(Clone, Copy)]
struct Softmax<const W: usize> {
    peak: f32,
    total: f32,
    mean: [f32; W],
}

impl<const W: usize> Softmax<W> {
    const EMPTY: Softmax<W> = Softmax { peak: f32::NEG_INFINITY, total: 0.0, mean: [0.0; W] };
}

impl<E: KvElement, const W: usize, const R: usize> SimdOp for Attend<'_, E, W, R> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let queries = &self.queries;
        let width = self.kv.value_size.next_multiple_of(LANES);
        let mut totals = [Softmax::<W>::EMPTY; R];
        let start = queries.iter().map(|query| query.first).min().unwrap_or(0);
        let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
        for span in start / SPAN..end.div_ceil(SPAN) {
            let mut parts = [Softmax::<W>::EMPTY; R];
            let first = (span * SPAN).max(start) / KV_BLOCK;
            let last = ((span + 1) * SPAN).min(end).div_ceil(KV_BLOCK);
            for block in first..last {
                let whole = block * KV_BLOCK..(block + 1) * KV_BLOCK;
                let sees_all = |q: &Query<'_>| q.first <= whole.start && whole.end <= q.end;
                if queries.iter().all(sees_all) {
                    let q: [&[f32]; R] = std::array::from_fn(|r| queries[r].q);
                    add_block(isa, &self.kv, block, 0..KV_BLOCK, q, &mut parts);
                    continue;
                }
                for (query, part) in queries.iter().zip(&mut parts) {
                    let from = query.first.max(whole.start);
                    let to = query.end.min(whole.end);
                    if from < to {
                        let seen = from - whole.start..to - whole.start;
                        add_block(isa, &self.kv, block, seen, [query.q], std::array::from_mut(part));
                    }
                }
            }
            for (total, part) in totals.iter_mut().zip(&parts) {
                merge(isa, total, part, width);
            }
        }
        for (out, total) in self.out.chunks_exact_mut(self.kv.value_size).zip(&totals) {
            for (out, mean) in out.iter_mut().zip(&total.mean) {
                *out = mean / total.total;
            }
        }
    }
}

/// Adds the `seen` positions of a block to the softmax of each row.
#[inline(always)]
fn add_block<I: Isa, E: KvElement, const W: usize, const R: usize>(
    isa: I,
    kv: &KvView<'_, E>,
    block: usize,
    seen: std::ops::Range<usize>,
    q: [&[f32]; R],
    rows: &mut [Softmax<W>; R],
) {
    let mut weights = scores(isa, kv.key_block(block), q);
    if let Some(cap) = kv.score_cap {
        for weights in weights.as_flattened_mut().as_chunks_mut::<LANES>().0 {
            isa.store(cap_lanes(isa, isa.load(weights), cap), weights);
        }
    }
    let width = kv.value_size.next_multiple_of(LANES);
    for (row, weights) in rows.iter_mut().zip(&mut weights) {
        if seen.len() < KV_BLOCK {
            for (i, weight) in weights.iter_mut().enumerate() {
                if !seen.contains(&i) {
                    *weight = f32::NEG_INFINITY;
                }
            }
        }
        let (halves, _) = weights.as_chunks_mut::<LANES>();
        let [low, high] = halves else { unreachable!("two halves") };
        let (a, b) = (isa.load(low), isa.load(high));
        let peak = isa.max_lane(isa.max(a, b));
        if peak > row.peak {
            rescale(isa, row, exp_one(isa, row.peak - peak), width);
            row.peak = peak;
        }
        let peak = isa.splat(row.peak);
        let (a, b) = (exp(isa, isa.sub(a, peak)), exp(isa, isa.sub(b, peak)));
        isa.store(a, low);
        isa.store(b, high);
        if seen.len() < KV_BLOCK {
            let kept = |i: usize| if seen.contains(&i) { 1.0 } else { 0.0 };
            let masks: [f32; KV_BLOCK] = std::array::from_fn(kept);
            weights.iter_mut().zip(masks).for_each(|(weight, mask)| *weight *= mask);
        }
        let (halves, _) = weights.as_chunks::<LANES>();
        row.total += isa.sum(isa.add(isa.load(&halves[0]), isa.load(&halves[1])));
    }
    let values = kv.value_block(block);
    let mut column = 0;
    while column + 4 * LANES <= width {
        add_values::<I, E, W, R, 4>(isa, values, width, column, seen.clone(), &weights, rows);
        column += 4 * LANES;
    }
    while column < width {
        add_values::<I, E, W, R, 1>(isa, values, width, column, seen.clone(), &weights, rows);
        column += LANES;
    }
}

/// `q . k` for every position of a block.
#[inline(always)]
fn scores<I: Isa, E: KvElement, const R: usize>(isa: I, keys: &[E], q: [&[f32]; R]) -> [[f32; KV_BLOCK]; R] {
    let mut sums = [[isa.splat(0.0); 2]; R];
    let (components, _) = keys.as_chunks::<KV_BLOCK>();
    for (d, component) in components.iter().enumerate() {
        let (halves, _) = component.as_chunks::<LANES>();
        let (low, high) = (E::load(isa, &halves[0]), E::load(isa, &halves[1]));
        for r in 0..R {
            let q = isa.splat(q[r][d]);
            sums[r] = [isa.mul_add(q, low, sums[r][0]), isa.mul_add(q, high, sums[r][1])];
        }
    }
    let mut out = [[0.0; KV_BLOCK]; R];
    for r in 0..R {
        let (halves, _) = out[r].as_chunks_mut::<LANES>();
        isa.store(sums[r][0], &mut halves[0]);
        isa.store(sums[r][1], &mut halves[1]);
    }
    out
}

/// Adds `weights . values` to `C` vectors of each row's mean, from `column` on.
#[inline(always)]
fn add_values<I: Isa, E: KvElement, const W: usize, const R: usize, const C: usize>(
    isa: I,
    values: &[E],
    width: usize,
    column: usize,
    seen: std::ops::Range<usize>,
    weights: &[[f32; KV_BLOCK]; R],
    rows: &mut [Softmax<W>; R],
) {
    let mut sums = [[isa.splat(0.0); C]; R];
    for r in 0..R {
        let (mean, _) = rows[r].mean[column..column + C * LANES].as_chunks::<LANES>();
        for c in 0..C {
            sums[r][c] = isa.load(&mean[c]);
        }
    }
    for i in seen {
        let (value, _) = values[i * width + column..][..C * LANES].as_chunks::<LANES>();
        for c in 0..C {
            let value = E::load(isa, &value[c]);
            for r in 0..R {
                sums[r][c] = isa.mul_add(isa.splat(weights[r][i]), value, sums[r][c]);
            }
        }
    }
    for r in 0..R {
        let (mean, _) = rows[r].mean[column..column + C * LANES].as_chunks_mut::<LANES>();
        for c in 0..C {
            isa.store(sums[r][c], &mut mean[c]);
        }
    }
}

#[inline(always)]
fn rescale<I: Isa, const W: usize>(isa: I, row: &mut Softmax<W>, factor: f32, width: usize) {
    row.total *= factor;
    let (mean, _) = row.mean[..width].as_chunks_mut::<LANES>();
    for mean in mean {
        isa.store(isa.mul(isa.load(mean), isa.splat(factor)), mean);
    }
}

#[inline(always)]
fn merge<I: Isa, const W: usize>(isa: I, total: &mut Softmax<W>, part: &Softmax<W>, width: usize) {
    if part.peak == f32::NEG_INFINITY && part.total == 0.0 {
        return;
    }
    let peak = total.peak.max(part.peak);
    rescale(isa, total, exp_one(isa, total.peak - peak), width);
    let factor = exp_one(isa, part.peak - peak);
    total.peak = peak;
    total.total += part.total * factor;
    let (sums, _) = total.mean[..width].as_chunks_mut::<LANES>();
    let (parts, _) = part.mean[..width].as_chunks::<LANES>();
    for (sum, part) in sums.iter_mut().zip(parts) {
        isa.store(isa.mul_add(isa.load(part), isa.splat(factor), isa.load(sum)), sum);
    }
}

/// `e^x`, and 0 for minus infinity.
#[inline(always)]
fn exp_one<I: Isa>(isa: I, x: f32) -> f32 {
    if x == f32::NEG_INFINITY {
        return 0.0;
    }
    let mut lanes = [0.0; LANES];
    isa.store(exp(isa, isa.splat(x)), &mut lanes);
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IsaKind;

    fn value(i: usize) -> f32 {
        ((i % 1009 * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
    }

    struct Case<E> {
        keys: Vec<E>,
        values: Vec<E>,
        table: Vec<u32>,
        heads: usize,
        key_size: usize,
        value_size: usize,
        score_cap: Option<f32>,
    }

    impl<E: KvElement> Case<E> {
        // Blocks lie in reverse order; positions that nobody may read are NaN.
        fn new(positions: usize, heads: usize, key_size: usize, value_size: usize) -> Case<E> {
            let blocks = positions.div_ceil(KV_BLOCK);
            let nan = E::from_f32(f32::NAN);
            let mut case = Case {
                keys: vec![nan; blocks * heads * key_block(key_size)],
                values: vec![nan; blocks * heads * value_block(value_size)],
                table: (0..blocks as u32).rev().collect(),
                heads,
                key_size,
                value_size,
                score_cap: (positions % 3 == 1).then_some(2.5),
            };
            let width = value_size.next_multiple_of(LANES);
            for position in 0..positions {
                let (block, slot) = (case.table[position / KV_BLOCK] as usize, position % KV_BLOCK);
                for head in 0..heads {
                    for d in 0..key_size {
                        let at = (block * heads + head) * key_block(key_size) + d * KV_BLOCK + slot;
                        case.keys[at] = E::from_f32(2.0 * value((position * heads + head) * key_size + d));
                    }
                    for d in 0..width {
                        let at = (block * heads + head) * value_block(value_size) + slot * width + d;
                        case.values[at] = E::from_f32(value((position * heads + head) * 1000 + d + 5));
                    }
                }
            }
            case
        }

        fn view(&self, head: usize) -> KvView<'_, E> {
            KvView {
                keys: &self.keys,
                values: &self.values,
                table: &self.table,
                heads: self.heads,
                head,
                key_size: self.key_size,
                value_size: self.value_size,
                score_cap: self.score_cap,
            }
        }

        // The definition, in f64.
        fn oracle(&self, head: usize, q: &[f32], sees: std::ops::Range<usize>) -> Vec<f64> {
            let width = self.value_size.next_multiple_of(LANES);
            let place = |position: usize| (self.table[position / KV_BLOCK] as usize, position % KV_BLOCK);
            let key = |position: usize, d: usize| {
                let (block, slot) = place(position);
                let at = (block * self.heads + head) * key_block(self.key_size) + d * KV_BLOCK + slot;
                f64::from(self.keys[at].to_f32())
            };
            let value = |position: usize, d: usize| {
                let (block, slot) = place(position);
                let at = (block * self.heads + head) * value_block(self.value_size) + slot * width + d;
                f64::from(self.values[at].to_f32())
            };
            let score = |p: usize| (0..self.key_size).map(|d| f64::from(q[d]) * key(p, d)).sum::<f64>();
            let cap = |score: f64| match self.score_cap.map(f64::from) {
                Some(cap) => cap * (score / cap).tanh(),
                None => score,
            };
            let scores: Vec<f64> = sees.clone().map(score).map(cap).collect();
            let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
            let total: f64 = weights.iter().sum();
            (0..self.value_size)
                .map(|d| sees.clone().zip(&weights).map(|(p, w)| w * value(p, d)).sum::<f64>() / total)
                .collect()
        }
    }

    fn check<E: KvElement>(
        positions: usize,
        heads: usize,
        key_size: usize,
        value_size: usize,
        window: usize,
    ) {
        let case = Case::<E>::new(positions, heads, key_size, value_size);
        let queries: Vec<(usize, Vec<f32>)> = [1, 2, positions / 2 + 1, positions - 1, positions]
            .into_iter()
            .filter(|end| (1..=positions).contains(end))
            .map(|end| (end, (0..key_size).map(|d| value(end * 31 + d * 3) / 4.0).collect()))
            .collect();
        for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
            for head in 0..heads {
                let alone: Vec<Vec<f32>> = queries
                    .iter()
                    .map(|(end, q)| {
                        let mut out = vec![f32::NAN; value_size];
                        let query = Query { q, first: end.saturating_sub(window), end: *end };
                        attend(kernels, case.view(head), &[query], &mut out);
                        out
                    })
                    .collect();
                for ((end, q), out) in queries.iter().zip(&alone) {
                    let exact = case.oracle(head, q, end.saturating_sub(window)..*end);
                    for (got, exact) in out.iter().zip(exact) {
                        assert!((f64::from(*got) - exact).abs() < 1e-5, "{got} for {exact}");
                    }
                }
                // Together: bit for bit the same.
                for count in 2..=QUERIES.min(queries.len()) {
                    for (queries, alone) in queries.windows(count).zip(alone.windows(count)) {
                        let rows: Vec<Query<'_>> = queries
                            .iter()
                            .map(|(end, q)| Query { q, first: end.saturating_sub(window), end: *end })
                            .collect();
                        let mut out = vec![f32::NAN; count * value_size];
                        attend(kernels, case.view(head), &rows, &mut out);
                        assert_eq!(out, alone.concat());
                    }
                }
            }
        }
    }

    /// Entries behind what the queries see may name blocks that do not exist.
    #[test]
    fn what_no_query_sees_is_not_read() {
        let (positions, window) = (300, 70);
        let all = Case::<f32>::new(positions, 1, 16, 16);
        let q: Vec<f32> = (0..16).map(|d| value(d * 3)).collect();
        let kernels = Kernels::detect();
        for end in [72, 97, 200, 299, 300] {
            let queries =
                [end - 1, end].map(|end: usize| Query { q: &q, first: end.saturating_sub(window), end });
            let (mut expected, mut got) = ([0.0; 32], [0.0; 32]);
            attend(kernels, all.view(0), &queries, &mut expected);
            let mut table = all.table.clone();
            table[..queries[0].first / KV_BLOCK].fill(u32::MAX);
            table[end.div_ceil(KV_BLOCK)..].fill(u32::MAX);
            attend(kernels, KvView { table: &table, ..all.view(0) }, &queries, &mut got);
            assert_eq!(got, expected, "{end}");
        }
    }

    #[test]
    fn matches_the_definition_alone_and_together() {
        for positions in [1, 2, 31, 32, 33, 100, 511, 512, 513, 1100] {
            check::<f32>(positions, 2, 64, 64, usize::MAX);
            check::<half::f16>(positions, 1, 64, 64, usize::MAX);
            check::<f32>(positions, 1, 64, 64, 40);
        }
        for size in [2, 6, 16, 18, 80, 96, 128, 130, 256, 512] {
            check::<f32>(70, 3, size, size, usize::MAX);
            check::<half::f16>(70, 2, size, 34, 33);
        }
    }
}
