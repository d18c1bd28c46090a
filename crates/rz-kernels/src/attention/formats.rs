//! How keys and values lie in a block, in each type that they are stored in.
//!
//! - `f32`, `f16`: keys `[component][position]`, values `[position][component]`, the
//!   components of a value rounded up to whole vectors.
//! - `Q8_0`: 32 components of a position share a scale in half precision. For each 32
//!   components, keys are `[component][position]` in bytes and then the positions' scales,
//!   values `[position][component]` and then the positions' scales.

use std::ops::Range;

use bytemuck::Zeroable;
use half::f16;

use super::KV_BLOCK;
use crate::{Isa, Kernels, LANES, SimdOp};

/// A type that keys and values are stored in.
pub trait KvFormat: Copy + Send + Sync + 'static {
    /// The head sizes that it stores are multiples of this.
    const MULTIPLE: usize;

    /// Bytes of the keys of one head in a block.
    fn key_bytes(size: usize) -> usize;

    /// Bytes of the values of one head in a block.
    fn value_bytes(size: usize) -> usize;

    /// Writes the key of position `slot` of a block, rounded to the type.
    fn write_key<I: Isa>(isa: I, keys: &mut [u8], slot: usize, key: &[f32]);

    /// Writes the value of position `slot` of a block, rounded to the type.
    fn write_value<I: Isa>(isa: I, values: &mut [u8], slot: usize, value: &[f32]);

    /// `q . k` of each row for every position of a block.
    fn scores<I: Isa, const R: usize>(isa: I, keys: &[u8], q: [&[f32]; R]) -> [[I::F32; 2]; R];

    /// Adds `weights . values` over the positions `seen` to each row's sums, which are whole
    /// vectors. Nothing is read of the other positions' values.
    fn add_values<I: Isa, const R: usize>(
        isa: I,
        values: &[u8],
        seen: Range<usize>,
        weights: &[[f32; KV_BLOCK]; R],
        sums: [&mut [f32]; R],
    );
}

/// Writes the key and the value of one head to position `slot` of its part of a block.
///
/// # Panics
/// When the part has not the bytes of keys and values of such sizes.
pub fn write_head<F: KvFormat>(kernels: Kernels, part: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
    struct Write<'a, F> {
        part: &'a mut [u8],
        slot: usize,
        key: &'a [f32],
        value: &'a [f32],
        format: std::marker::PhantomData<F>,
    }
    impl<F: KvFormat> SimdOp for Write<'_, F> {
        type Output = ();
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            let (keys, values) = self.part.split_at_mut(F::key_bytes(self.key.len()));
            F::write_key(isa, keys, self.slot, self.key);
            F::write_value(isa, values, self.slot, self.value);
        }
    }
    assert_eq!(part.len(), F::key_bytes(key.len()) + F::value_bytes(value.len()), "bytes of a head");
    kernels.run(Write::<F> { part, slot, key, value, format: std::marker::PhantomData });
}

/// Floating point numbers.
trait Element: bytemuck::Pod + Zeroable + Send + Sync {
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F32;
    fn store<I: Isa>(isa: I, x: I::F32, out: &mut [Self; LANES]);
}

impl Element for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32; LANES]) -> I::F32 {
        isa.load(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, x: I::F32, out: &mut [f32; LANES]) {
        isa.store(x, out);
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f16; LANES]) -> I::F32 {
        isa.load_f16(bytemuck::cast_ref(x))
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, x: I::F32, out: &mut [f16; LANES]) {
        isa.store_f16(x, bytemuck::cast_mut(out));
    }
}

impl<E: Element> KvFormat for E {
    const MULTIPLE: usize = 1;

    fn key_bytes(size: usize) -> usize {
        size * KV_BLOCK * size_of::<E>()
    }

    fn value_bytes(size: usize) -> usize {
        size.next_multiple_of(LANES) * KV_BLOCK * size_of::<E>()
    }

    #[inline(always)]
    fn write_key<I: Isa>(isa: I, keys: &mut [u8], slot: usize, key: &[f32]) {
        let keys: &mut [E] = bytemuck::cast_slice_mut(keys);
        let (lanes, _) = keys.as_chunks_mut::<KV_BLOCK>();
        for (x, lanes) in key.chunks(LANES).zip(lanes.chunks_mut(LANES)) {
            let rounded = rounded::<I, E>(isa, x);
            for (lane, x) in lanes.iter_mut().zip(rounded) {
                lane[slot % KV_BLOCK] = x;
            }
        }
    }

    #[inline(always)]
    fn write_value<I: Isa>(isa: I, values: &mut [u8], slot: usize, value: &[f32]) {
        let values: &mut [E] = bytemuck::cast_slice_mut(values);
        let width = value.len().next_multiple_of(LANES);
        let (out, _) = values[slot * width..][..width].as_chunks_mut::<LANES>();
        for (x, out) in value.chunks(LANES).zip(out) {
            *out = rounded(isa, x);
        }
    }

    #[inline(always)]
    fn scores<I: Isa, const R: usize>(isa: I, keys: &[u8], q: [&[f32]; R]) -> [[I::F32; 2]; R] {
        let keys: &[E] = bytemuck::cast_slice(keys);
        let (components, _) = keys.as_chunks::<KV_BLOCK>();
        let mut sums = [[isa.splat(0.0); 2]; R];
        let q = cut(q, components.len());
        for c in 0..components.len() {
            let (halves, _) = components[c].as_chunks::<LANES>();
            let (low, high) = (E::load(isa, &halves[0]), E::load(isa, &halves[1]));
            for r in 0..R {
                let q = isa.splat(q[r][c]);
                sums[r] = [isa.mul_add(q, low, sums[r][0]), isa.mul_add(q, high, sums[r][1])];
            }
        }
        sums
    }

    #[inline(always)]
    fn add_values<I: Isa, const R: usize>(
        isa: I,
        values: &[u8],
        seen: Range<usize>,
        weights: &[[f32; KV_BLOCK]; R],
        mut sums: [&mut [f32]; R],
    ) {
        let values: &[E] = bytemuck::cast_slice(values);
        let width = sums[0].len();
        let mut column = 0;
        // As many sums as have room in the registers.
        if R <= 4 {
            while column + 4 * LANES <= width {
                add_columns::<I, E, R, 4>(isa, values, column, seen.clone(), weights, &mut sums);
                column += 4 * LANES;
            }
        }
        while column + 2 * LANES <= width {
            add_columns::<I, E, R, 2>(isa, values, column, seen.clone(), weights, &mut sums);
            column += 2 * LANES;
        }
        while column < width {
            add_columns::<I, E, R, 1>(isa, values, column, seen.clone(), weights, &mut sums);
            column += LANES;
        }
    }
}

/// The first components of each row.
#[inline(always)]
fn cut<const R: usize>(mut q: [&[f32]; R], components: usize) -> [&[f32]; R] {
    for q in &mut q {
        *q = &q[..components];
    }
    q
}

/// Up to sixteen numbers, rounded; zeros after them.
#[inline(always)]
fn rounded<I: Isa, E: Element>(isa: I, x: &[f32]) -> [E; LANES] {
    let (mut lanes, mut out) = ([0.0; LANES], [E::zeroed(); LANES]);
    lanes[..x.len()].copy_from_slice(x);
    E::store(isa, isa.load(&lanes), &mut out);
    out
}

/// `C` vectors of each row's sums, from `column` on.
#[inline(always)]
fn add_columns<I: Isa, E: Element, const R: usize, const C: usize>(
    isa: I,
    values: &[E],
    column: usize,
    seen: Range<usize>,
    weights: &[[f32; KV_BLOCK]; R],
    sums: &mut [&mut [f32]; R],
) {
    let width = sums[0].len();
    let mut totals = load_sums::<I, R, C>(isa, sums, column);
    for i in seen {
        let (value, _) = values[i * width + column..][..C * LANES].as_chunks::<LANES>();
        for c in 0..C {
            let value = E::load(isa, &value[c]);
            for r in 0..R {
                totals[r][c] = isa.mul_add(isa.splat(weights[r][i % KV_BLOCK]), value, totals[r][c]);
            }
        }
    }
    store_sums(isa, totals, sums, column);
}

#[inline(always)]
fn load_sums<I: Isa, const R: usize, const C: usize>(
    isa: I,
    sums: &[&mut [f32]; R],
    column: usize,
) -> [[I::F32; C]; R] {
    let mut totals = [[isa.splat(0.0); C]; R];
    for r in 0..R {
        let (sums, _) = sums[r][column..column + C * LANES].as_chunks::<LANES>();
        for c in 0..C {
            totals[r][c] = isa.load(&sums[c]);
        }
    }
    totals
}

#[inline(always)]
fn store_sums<I: Isa, const R: usize, const C: usize>(
    isa: I,
    totals: [[I::F32; C]; R],
    sums: &mut [&mut [f32]; R],
    column: usize,
) {
    for r in 0..R {
        let (sums, _) = sums[r][column..column + C * LANES].as_chunks_mut::<LANES>();
        for c in 0..C {
            isa.store(totals[r][c], &mut sums[c]);
        }
    }
}

/// Bytes with a scale for each 32 components, rounded as in ggml's type of that name: the
/// scale is the largest magnitude over 127, and numbers are rounded half away from zero
/// before the scale is rounded to half precision.
#[derive(Clone, Copy, Debug)]
pub struct Q8_0;

/// Components that share a scale.
const GROUP: usize = 32;
const GROUP_NUMBERS: usize = GROUP * KV_BLOCK;
/// Bytes of 32 components of a block's positions.
const GROUP_BYTES: usize = GROUP_NUMBERS + KV_BLOCK * size_of::<u16>();

impl Q8_0 {
    /// The scale and the numbers of 32 components.
    #[inline(always)]
    fn quantize(x: &[f32; GROUP]) -> (f16, [u8; GROUP]) {
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        (f16::from_f32(scale), x.map(|x| (x * inverse).round() as i8 as u8))
    }

    /// Scales of sixteen positions, from those of a block.
    #[inline(always)]
    fn scales<I: Isa>(isa: I, scales: &[u8], half: usize) -> I::F32 {
        let (halves, _) = bytemuck::cast_slice::<u8, u16>(scales).as_chunks::<LANES>();
        isa.load_f16(&halves[half])
    }
}

impl KvFormat for Q8_0 {
    const MULTIPLE: usize = GROUP;

    fn key_bytes(size: usize) -> usize {
        size / GROUP * GROUP_BYTES
    }

    fn value_bytes(size: usize) -> usize {
        size / GROUP * GROUP_BYTES
    }

    #[inline(always)]
    fn write_key<I: Isa>(_: I, keys: &mut [u8], slot: usize, key: &[f32]) {
        for (x, group) in key.as_chunks::<GROUP>().0.iter().zip(keys.as_chunks_mut::<GROUP_BYTES>().0) {
            let (scale, numbers) = Q8_0::quantize(x);
            let (lanes, scales) = group.split_at_mut(GROUP_NUMBERS);
            for (lane, number) in lanes.as_chunks_mut::<KV_BLOCK>().0.iter_mut().zip(numbers) {
                lane[slot % KV_BLOCK] = number;
            }
            bytemuck::cast_slice_mut(scales)[slot] = scale.to_bits();
        }
    }

    #[inline(always)]
    fn write_value<I: Isa>(_: I, values: &mut [u8], slot: usize, value: &[f32]) {
        for (x, group) in value.as_chunks::<GROUP>().0.iter().zip(values.as_chunks_mut::<GROUP_BYTES>().0) {
            let (scale, numbers) = Q8_0::quantize(x);
            let (rows, scales) = group.split_at_mut(GROUP_NUMBERS);
            rows.as_chunks_mut::<GROUP>().0[slot] = numbers;
            bytemuck::cast_slice_mut(scales)[slot] = scale.to_bits();
        }
    }

    #[inline(always)]
    fn scores<I: Isa, const R: usize>(isa: I, keys: &[u8], q: [&[f32]; R]) -> [[I::F32; 2]; R] {
        let mut scores = [[isa.splat(0.0); 2]; R];
        let (groups, _) = keys.as_chunks::<GROUP_BYTES>();
        let q = cut(q, groups.len() * GROUP);
        for (i, group) in groups.iter().enumerate() {
            let (components, scales) = group.split_at(GROUP_NUMBERS);
            let mut sums = [[isa.splat(0.0); 2]; R];
            for (c, component) in components.as_chunks::<KV_BLOCK>().0.iter().enumerate() {
                let (halves, _) = component.as_chunks::<LANES>();
                let (low, high) = (isa.to_f32(isa.load_i8(&halves[0])), isa.to_f32(isa.load_i8(&halves[1])));
                for r in 0..R {
                    let q = isa.splat(q[r][i * GROUP + c]);
                    sums[r] = [isa.mul_add(q, low, sums[r][0]), isa.mul_add(q, high, sums[r][1])];
                }
            }
            let (low, high) = (Q8_0::scales(isa, scales, 0), Q8_0::scales(isa, scales, 1));
            for r in 0..R {
                scores[r] =
                    [isa.mul_add(low, sums[r][0], scores[r][0]), isa.mul_add(high, sums[r][1], scores[r][1])];
            }
        }
        scores
    }

    #[inline(always)]
    fn add_values<I: Isa, const R: usize>(
        isa: I,
        values: &[u8],
        seen: Range<usize>,
        weights: &[[f32; KV_BLOCK]; R],
        mut sums: [&mut [f32]; R],
    ) {
        for (index, group) in values.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
            let (rows, scales) = group.split_at(GROUP_NUMBERS);
            // Weights times scales. Those of positions that are not seen are not used.
            let mut scaled = [[0.0; KV_BLOCK]; R];
            let halves = [Q8_0::scales(isa, scales, 0), Q8_0::scales(isa, scales, 1)];
            for r in 0..R {
                let (weights, _) = weights[r].as_chunks::<LANES>();
                let (scaled, _) = scaled[r].as_chunks_mut::<LANES>();
                for half in 0..2 {
                    isa.store(isa.mul(isa.load(&weights[half]), halves[half]), &mut scaled[half]);
                }
            }
            let (rows, _) = rows.as_chunks::<GROUP>();
            let mut totals = load_sums::<I, R, 2>(isa, &sums, index * GROUP);
            for i in seen.clone() {
                let (row, _) = rows[i % KV_BLOCK].as_chunks::<LANES>();
                for c in 0..2 {
                    let value = isa.to_f32(isa.load_i8(&row[c]));
                    for r in 0..R {
                        totals[r][c] = isa.mul_add(isa.splat(scaled[r][i % KV_BLOCK]), value, totals[r][c]);
                    }
                }
            }
            store_sums(isa, totals, &mut sums, index * GROUP);
        }
    }
}
