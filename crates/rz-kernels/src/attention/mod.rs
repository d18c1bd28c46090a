//! Attention over blocks of keys and values, in one pass with a running softmax
//! (Milakov and Gimelshein 2018; Dao et al. 2022): no row of scores is ever stored.
//!
//! A KV block holds [`KV_BLOCK`] positions of one head, keys transposed so that one vector
//! meets the same component of sixteen positions and scores need no horizontal sums;
//! [`KvFormat`] says how.
//!
//! A row's scores are gathered in spans of [`SPAN`] positions, at fixed absolute
//! positions, and the spans are merged in order; positions a row does not see are not
//! read. So a row's result does not depend on the rows computed beside it, on the
//! chunks in which a prompt was fed, or on who computes which span.

mod formats;
mod softmax;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::ops::Range;

pub use formats::{KvFormat, Q8_0, write_head};
use softmax::{Softmax, exp_one, merge, rescale};

use crate::ops::{cap_lanes, exp};
use crate::{Isa, Kernels, LANES, SimdOp};

/// Positions of a KV block.
pub const KV_BLOCK: usize = 32;

/// Largest head size of keys and of values.
pub const MAX_HEAD: usize = 512;

/// Most queries of one call: each adds its own sums to the same pass over keys and values.
pub const QUERIES: usize = 8;

/// Positions whose scores are gathered before they are merged with those before.
pub const SPAN: usize = 512;

const SMALL_HEAD: usize = 128;

/// The blocks of one head of one layer, found through a sequence's table.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    /// All blocks, those of other heads and layers among them.
    pub blocks: &'a [u8],
    /// Bytes from one block to the next.
    pub stride: usize,
    /// Where in a block the head's keys begin. Its values follow them.
    pub offset: usize,
    /// The block that holds each `KV_BLOCK` positions of the sequence. Entries of which no
    /// query sees a position are not read.
    pub table: &'a [u32],
    /// Components of a key.
    pub key_size: usize,
    /// Components of a value.
    pub value_size: usize,
    /// `score = cap * tanh(score / cap)`.
    pub score_cap: Option<f32>,
}

impl<'a> KvView<'a> {
    /// The keys and the values of one head in a block.
    #[inline(always)]
    fn block<F: KvFormat>(&self, block: usize) -> (&'a [u8], &'a [u8]) {
        let (keys, values) = (F::key_bytes(self.key_size), F::value_bytes(self.value_size));
        let start = self.table[block] as usize * self.stride + self.offset;
        self.blocks[start..start + keys + values].split_at(keys)
    }

    // Asks for a block that will be read soon.
    #[inline(always)]
    fn prefetch<I: Isa, F: KvFormat>(&self, isa: I, block: usize) {
        let bytes = F::key_bytes(self.key_size) + F::value_bytes(self.value_size);
        let start = self.table[block] as usize * self.stride + self.offset;
        if let Some(bytes) = self.blocks.get(start..start + bytes) {
            bytes.as_chunks::<64>().0.iter().for_each(|line| isa.prefetch(line));
        }
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

impl Query<'_> {
    /// The spans in which it sees a position.
    pub fn spans(&self) -> Range<usize> {
        self.first / SPAN..self.end.div_ceil(SPAN)
    }

    // What it sees of a block, as a range within the block.
    #[inline(always)]
    fn sees(&self, block: usize) -> Range<usize> {
        let start = block * KV_BLOCK;
        let from = self.first.clamp(start, start + KV_BLOCK) - start;
        from..self.end.clamp(start + from, start + KV_BLOCK) - start
    }
}

/// Computes attention for up to [`QUERIES`] queries that read the same head. Row `i` of
/// `out` becomes the mean of the values that query `i` sees, weighted by the softmax of
/// its scores.
///
/// # Panics
/// When a shape does not fit: queries of `key_size`, rows of `out` of `value_size`, each
/// query seeing at least one position, and only such as the table covers.
pub fn attend<F: KvFormat>(kernels: Kernels, kv: KvView<'_>, queries: &[Query<'_>], out: &mut [f32]) {
    run::<F>(kernels, kv, queries, None, out);
}

/// Elements of a row that [`attend_span`] fills.
pub const fn span_row(value_size: usize) -> usize {
    LANES + value_size.next_multiple_of(LANES)
}

/// As [`attend`] for the positions of one span only. Row `i` of `parts`, of [`span_row`]
/// elements, becomes what [`merge_spans`] takes.
///
/// # Panics
/// As [`attend`].
pub fn attend_span<F: KvFormat>(
    kernels: Kernels,
    kv: KvView<'_>,
    queries: &[Query<'_>],
    span: usize,
    parts: &mut [f32],
) {
    run::<F>(kernels, kv, queries, Some(span), parts);
}

/// Merges a row's spans, which are given in order, into what [`attend`] gives.
///
/// # Panics
/// When a part is not of [`span_row`] elements.
pub fn merge_spans<'a>(kernels: Kernels, parts: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
    struct Merge<'a, P, const W: usize> {
        parts: P,
        out: &'a mut [f32],
    }
    impl<'a, P: Iterator<Item = &'a [f32]>, const W: usize> SimdOp for Merge<'_, P, W> {
        type Output = ();
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            let width = self.out.len().next_multiple_of(LANES);
            let mut total = Softmax::<W>::EMPTY;
            for part in self.parts {
                merge(isa, &mut total, &Softmax::load(part, width), width);
            }
            total.mean_to(self.out);
        }
    }
    if out.len() <= SMALL_HEAD {
        kernels.run(Merge::<_, SMALL_HEAD> { parts, out });
    } else {
        kernels.run(Merge::<_, MAX_HEAD> { parts, out });
    }
}

fn run<F: KvFormat>(
    kernels: Kernels,
    kv: KvView<'_>,
    queries: &[Query<'_>],
    span: Option<usize>,
    out: &mut [f32],
) {
    assert!(kv.key_size <= MAX_HEAD && kv.value_size <= MAX_HEAD, "head size");
    for query in queries {
        assert_eq!(query.q.len(), kv.key_size, "length of a query");
        assert!(query.first < query.end && query.end <= kv.table.len() * KV_BLOCK, "{query:?}");
    }
    let row = if span.is_some() { span_row(kv.value_size) } else { kv.value_size };
    assert_eq!(out.len(), queries.len() * row, "one row of the output for each query");
    // As many as have room in the registers.
    let at_once = kernels.tile().min(QUERIES);
    for (queries, out) in queries.chunks(at_once).zip(out.chunks_mut(at_once * row)) {
        if kv.value_size <= SMALL_HEAD && kv.key_size <= SMALL_HEAD {
            dispatch::<F, SMALL_HEAD>(kernels, kv, queries, span, out);
        } else {
            dispatch::<F, MAX_HEAD>(kernels, kv, queries, span, out);
        }
    }
}

// Queries are repeated to make up a number that there is code for.
fn dispatch<F: KvFormat, const W: usize>(
    kernels: Kernels,
    kv: KvView<'_>,
    queries: &[Query<'_>],
    span: Option<usize>,
    out: &mut [f32],
) {
    fn op<'a, F, const W: usize, const R: usize>(
        kv: KvView<'a>,
        queries: &[Query<'a>],
        span: Option<usize>,
        out: &'a mut [f32],
    ) -> Attend<'a, F, W, R> {
        let queries = std::array::from_fn(|r| queries[r.min(queries.len() - 1)]);
        Attend { kv, queries, span, out, format: PhantomData }
    }
    match queries.len() {
        0 => {}
        1 => kernels.run(op::<F, W, 1>(kv, queries, span, out)),
        2 => kernels.run(op::<F, W, 2>(kv, queries, span, out)),
        3 | 4 => kernels.run(op::<F, W, 4>(kv, queries, span, out)),
        5..=QUERIES => kernels.run(op::<F, W, QUERIES>(kv, queries, span, out)),
        more => panic!("{more} queries at once"),
    }
}

// W is the room for a head: heads are mostly small, and a row's room is cleared for every span.
struct Attend<'a, F, const W: usize, const R: usize> {
    kv: KvView<'a>,
    queries: [Query<'a>; R],
    /// The only span to compute, whose result is not to be divided by its total.
    span: Option<usize>,
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: KvFormat, const W: usize, const R: usize> SimdOp for Attend<'_, F, W, R> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Attend { kv, queries, span, out, .. } = self;
        let width = kv.value_size.next_multiple_of(LANES);
        let q = queries.map(|query| query.q);
        let mut weights = [[0.0; KV_BLOCK]; R];
        let start = queries.iter().map(|query| query.first).min().unwrap_or(0);
        let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
        let mut totals = [Softmax::<W>::EMPTY; R];
        for span in span.map_or(start / SPAN..end.div_ceil(SPAN), |span| span..span + 1) {
            let mut parts = [Softmax::<W>::EMPTY; R];
            let first = (span * SPAN).max(start) / KV_BLOCK;
            let last = ((span + 1) * SPAN).min(end).div_ceil(KV_BLOCK);
            for block in first..last {
                if block + 1 < last {
                    kv.prefetch::<I, F>(isa, block + 1);
                }
                let seen: [Range<usize>; R] = std::array::from_fn(|r| queries[r].sees(block));
                if seen.iter().any(|seen| !seen.is_empty()) {
                    add_block::<I, F, W, R>(isa, &kv, block, seen, q, &mut weights, &mut parts);
                }
            }
            for (total, part) in totals.iter_mut().zip(&parts) {
                merge(isa, total, part, width);
            }
        }
        let row = if span.is_some() { span_row(kv.value_size) } else { kv.value_size };
        for (out, total) in out.chunks_exact_mut(row).zip(&totals) {
            match span {
                Some(_) => total.store(out),
                None => total.mean_to(out),
            }
        }
    }
}

/// Adds what each row sees of a block to its softmax. `weights` is room for those of its positions.
#[inline(always)]
fn add_block<I: Isa, F: KvFormat, const W: usize, const R: usize>(
    isa: I,
    kv: &KvView<'_>,
    block: usize,
    seen: [Range<usize>; R],
    q: [&[f32]; R],
    weights: &mut [[f32; KV_BLOCK]; R],
    rows: &mut [Softmax<W>; R],
) {
    let (keys, values) = kv.block::<F>(block);
    let width = kv.value_size.next_multiple_of(LANES);
    let scores = F::scores(isa, keys, q);
    for r in 0..R {
        let (row, seen, weights) = (&mut rows[r], &seen[r], &mut weights[r]);
        if seen.is_empty() {
            continue;
        }
        let [mut a, mut b] = scores[r];
        if let Some(cap) = kv.score_cap {
            (a, b) = (cap_lanes(isa, a, cap), cap_lanes(isa, b, cap));
        }
        if seen.len() < KV_BLOCK {
            (a, b) = keep(isa, [a, b], weights, seen, f32::NEG_INFINITY);
        }
        let peak = isa.max_lane(isa.max(a, b));
        if peak > row.peak {
            rescale(isa, row, exp_one(isa, row.peak - peak), width);
            row.peak = peak;
        }
        let peak = isa.splat(row.peak);
        (a, b) = (exp(isa, isa.sub(a, peak)), exp(isa, isa.sub(b, peak)));
        if seen.len() < KV_BLOCK {
            (a, b) = keep(isa, [a, b], weights, seen, 0.0);
        }
        row.total += isa.sum(isa.add(a, b));
        let (halves, _) = weights.as_chunks_mut::<LANES>();
        isa.store(a, &mut halves[0]);
        isa.store(b, &mut halves[1]);
    }
    // Together what all rows see. What one row sees must not be in another's sums, be it times zero.
    let first = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
    let end = seen.iter().map(|seen| seen.end).min().unwrap_or(0);
    let mut common = first..end.max(first);
    if seen.iter().any(|seen| seen.start != first) {
        common.end = first;
    }
    if !common.is_empty() {
        let means = rows.each_mut().map(|row| &mut row.mean[..width]);
        F::add_values(isa, values, common.clone(), weights, means);
    }
    for ((row, seen), weights) in rows.iter_mut().zip(seen).zip(&*weights) {
        let rest = if common.is_empty() { seen } else { common.end..seen.end };
        if !rest.is_empty() {
            let mean = &mut row.mean[..width];
            F::add_values(isa, values, rest, std::array::from_ref(weights), [mean]);
        }
    }
}

// The lanes that are seen; `other` in place of the rest. What is in those does not matter, NaN included.
#[inline(always)]
fn keep<I: Isa>(
    isa: I,
    [a, b]: [I::F32; 2],
    lanes: &mut [f32; KV_BLOCK],
    seen: &Range<usize>,
    other: f32,
) -> (I::F32, I::F32) {
    let (halves, _) = lanes.as_chunks_mut::<LANES>();
    isa.store(a, &mut halves[0]);
    isa.store(b, &mut halves[1]);
    lanes[..seen.start].fill(other);
    lanes[seen.end..].fill(other);
    let (halves, _) = lanes.as_chunks::<LANES>();
    (isa.load(&halves[0]), isa.load(&halves[1]))
}
