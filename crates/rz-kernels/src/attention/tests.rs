use half::f16;

use super::*;
use crate::{Arena, IsaKind};

fn value(i: usize) -> f32 {
    ((i % 1009 * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
}

/// What a type stores of 32 or fewer neighbouring components, by its definition.
type Rounding = fn(&[f32]) -> Vec<f32>;

fn as_f32(x: &[f32]) -> Vec<f32> {
    x.to_vec()
}

fn as_f16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
}

fn as_q8_0(x: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), 32);
    let mut largest = 0.0;
    for x in x {
        if x.abs() > largest {
            largest = x.abs();
        }
    }
    let scale = largest / 127.0;
    if scale == 0.0 {
        return vec![0.0; 32];
    }
    let stored = f16::from_f32(scale).to_f32();
    x.iter().map(|x| (x * (1.0 / scale)).round() * stored).collect()
}

/// Keys and values of some heads, in blocks and as the numbers that they are rounded to.
struct Case {
    storage: Arena,
    stride: usize,
    table: Vec<u32>,
    /// Of each position and head.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    heads: usize,
    key_size: usize,
    value_size: usize,
    score_cap: Option<f32>,
}

// Bytes of another layer before the heads of a block, and of one after them.
const BEFORE: usize = 128;
const AFTER: usize = 64;

impl Case {
    // Blocks lie in reverse order. What nobody may read is NaN, and the numbers of a position differ
    // in size.
    fn new<F: KvFormat>(
        rounding: Rounding,
        positions: usize,
        heads: usize,
        key_size: usize,
        value_size: usize,
    ) -> Case {
        let head = F::key_bytes(key_size) + F::value_bytes(value_size);
        let stride = BEFORE + heads * head + AFTER;
        let blocks = positions.div_ceil(KV_BLOCK);
        let mut storage = Arena::new(blocks * stride).unwrap();
        storage.fill(0xff);
        let table: Vec<u32> = (0..blocks as u32).rev().collect();
        let numbers = |size: usize, salt: usize| -> Vec<Vec<f32>> {
            let number =
                |row: usize, d: usize| value(row * size + d + salt) * ((row + d) % 5 + 1) as f32 / 3.0;
            (0..positions * heads).map(|row| (0..size).map(|d| number(row, d)).collect()).collect()
        };
        let (keys, values) = (numbers(key_size, 0), numbers(value_size, 500));
        for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
            for (row, (key, value)) in keys.iter().zip(&values).enumerate() {
                let (position, index) = (row / heads, row % heads);
                let start = table[position / KV_BLOCK] as usize * stride + BEFORE + index * head;
                let part = &mut storage[start..start + head];
                let before = part.to_vec();
                write_head::<F>(kernels, part, position % KV_BLOCK, key, value);
                // Every set of instructions writes the same.
                assert!(kernels == Kernels::detect() || before == part, "{kernels:?}");
            }
        }
        let rounded = |numbers: &[Vec<f32>]| -> Vec<Vec<f32>> {
            numbers.iter().map(|row| row.chunks(32).flat_map(rounding).collect()).collect()
        };
        Case {
            stride,
            table,
            keys: rounded(&keys),
            values: rounded(&values),
            heads,
            key_size,
            value_size,
            score_cap: (positions % 3 == 1).then_some(2.5),
            storage,
        }
    }

    fn view<F: KvFormat>(&self, head: usize) -> KvView<'_> {
        let bytes = F::key_bytes(self.key_size) + F::value_bytes(self.value_size);
        KvView {
            blocks: &self.storage,
            stride: self.stride,
            offset: BEFORE + head * bytes,
            table: &self.table,
            key_size: self.key_size,
            value_size: self.value_size,
            score_cap: self.score_cap,
        }
    }

    // The definition, in f64.
    fn oracle(&self, head: usize, query: &Query<'_>) -> Vec<f64> {
        let row = |position: usize| position * self.heads + head;
        let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
        let score = |p: usize| query.q.iter().zip(&self.keys[row(p)]).map(product).sum::<f64>();
        let cap = |score: f64| match self.score_cap.map(f64::from) {
            Some(cap) => cap * (score / cap).tanh(),
            None => score,
        };
        let sees = query.first..query.end;
        let scores: Vec<f64> = sees.clone().map(score).map(cap).collect();
        let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
        let total: f64 = weights.iter().sum();
        let value = |p: usize, d: usize| f64::from(self.values[row(p)][d]);
        let mean = |d: usize| sees.clone().zip(&weights).map(|(p, w)| w * value(p, d)).sum::<f64>() / total;
        (0..self.value_size).map(mean).collect()
    }
}

fn check<F: KvFormat>(
    rounding: Rounding,
    positions: usize,
    heads: usize,
    key_size: usize,
    value_size: usize,
    window: usize,
) {
    let case = Case::new::<F>(rounding, positions, heads, key_size, value_size);
    let ends = [1, 2, positions / 2 + 1, positions - 1, positions, 33, positions / 3 + 1, 40, 31, positions];
    let ends: Vec<usize> = ends.into_iter().filter(|end| (1..=positions).contains(end)).collect();
    let q: Vec<Vec<f32>> = (0..ends.len())
        .map(|row| (0..key_size).map(|d| value(ends[row] * 31 + d * 3 + row) / 4.0).collect())
        .collect();
    let queries: Vec<Query<'_>> =
        ends.iter().zip(&q).map(|(&end, q)| Query { q, first: end.saturating_sub(window), end }).collect();
    for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
        for head in 0..heads {
            let view = case.view::<F>(head);
            let alone: Vec<Vec<f32>> = queries
                .iter()
                .map(|query| {
                    let mut out = vec![f32::NAN; value_size];
                    attend::<F>(kernels, view, &[*query], &mut out);
                    out
                })
                .collect();
            for (query, out) in queries.iter().zip(&alone) {
                for (got, exact) in out.iter().zip(case.oracle(head, query)) {
                    assert!((f64::from(*got) - exact).abs() < 1e-5, "{got} for {exact}");
                }
            }
            // Together, and span by span: bit for bit the same.
            for count in 1..=QUERIES.min(queries.len()) {
                for (queries, alone) in queries.windows(count).zip(alone.windows(count)) {
                    let mut out = vec![f32::NAN; count * value_size];
                    attend::<F>(kernels, view, queries, &mut out);
                    assert_eq!(bits(&out), bits(&alone.concat()));

                    let last = queries.iter().map(|query| query.spans().end).max().unwrap();
                    let mut parts = vec![f32::NAN; last * count * span_row(value_size)];
                    let spans = parts.chunks_exact_mut(count * span_row(value_size));
                    for (span, parts) in spans.enumerate().rev() {
                        attend_span::<F>(kernels, view, queries, span, parts);
                    }
                    for (i, alone) in alone.iter().enumerate() {
                        let spans = parts.chunks_exact(span_row(value_size)).skip(i).step_by(count);
                        let mut out = vec![f32::NAN; value_size];
                        merge_spans(kernels, spans, &mut out);
                        assert_eq!(bits(&out), bits(alone));
                    }
                }
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn matches_the_definition_alone_together_and_in_spans() {
    for positions in [1, 2, 31, 32, 33, 100, 511, 512, 513, 1100] {
        check::<f32>(as_f32, positions, 2, 64, 64, usize::MAX);
        check::<f16>(as_f16, positions, 1, 64, 64, usize::MAX);
        check::<Q8_0>(as_q8_0, positions, 2, 64, 64, usize::MAX);
        check::<f32>(as_f32, positions, 1, 64, 64, 40);
        check::<Q8_0>(as_q8_0, positions, 1, 32, 96, 40);
    }
    for size in [2, 6, 16, 18, 80, 96, 128, 130, 256, 512] {
        check::<f32>(as_f32, 70, 3, size, size, usize::MAX);
        check::<f16>(as_f16, 70, 2, size, 34, 33);
    }
    for size in [32, 96, 128, 160, 256, 512] {
        check::<Q8_0>(as_q8_0, 70, 2, size, size, 50);
    }
}

/// Entries behind what the queries see may name blocks that do not exist.
#[test]
fn what_no_query_sees_is_not_read() {
    let (positions, window) = (300, 70);
    let all = Case::new::<f32>(as_f32, positions, 1, 16, 16);
    let q: Vec<f32> = (0..16).map(|d| value(d * 3)).collect();
    let kernels = Kernels::detect();
    for end in [72, 97, 200, 299, 300] {
        let query = |end: usize| Query { q: &q, first: end.saturating_sub(window), end };
        let queries = [end - 1, end].map(query);
        let (mut expected, mut got) = ([0.0; 32], [0.0; 32]);
        attend::<f32>(kernels, all.view::<f32>(0), &queries, &mut expected);
        let mut table = all.table.clone();
        table[..queries[0].first / KV_BLOCK].fill(u32::MAX);
        table[end.div_ceil(KV_BLOCK)..].fill(u32::MAX);
        attend::<f32>(kernels, KvView { table: &table, ..all.view::<f32>(0) }, &queries, &mut got);
        assert_eq!(got, expected, "{end}");
    }
}

/// A value of infinity, written for a later position, is nobody else's.
#[test]
fn later_positions_do_not_disturb_earlier_ones() {
    let kernels = Kernels::detect();
    let mut case = Case::new::<f32>(as_f32, 20, 1, 16, 16);
    let q = vec![0.5; 16];
    let queries: Vec<Query<'_>> = (13..=20).map(|end| Query { q: &q, first: 0, end }).collect();
    let mut expected = vec![0.0; 8 * 16];
    attend::<f32>(kernels, case.view::<f32>(0), &queries, &mut expected);
    let start = case.table[0] as usize * case.stride + BEFORE;
    let part = start..start + f32::key_bytes(16) + f32::value_bytes(16);
    write_head::<f32>(kernels, &mut case.storage[part], 19, &[0.1; 16], &[f32::INFINITY; 16]);
    let mut got = vec![0.0; 8 * 16];
    attend::<f32>(kernels, case.view::<f32>(0), &queries, &mut got);
    assert_eq!(got[..7 * 16], expected[..7 * 16]);
    assert!(got[7 * 16..].iter().all(|x| *x == f32::INFINITY));
}
