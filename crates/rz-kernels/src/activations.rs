//! Activations as whole numbers, quantized once and shared by every product that reads them.

use std::cell::RefCell;
use std::ops::Range;

use crate::slices::{Cells, Tiled};
use crate::{Isa, Kernels, LANES, PANEL_COLUMNS, SimdOp, Team};

/// The whole numbers that activations are quantized to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActivationType {
    /// One byte, `-127..=127`. What most engines take, and half the arithmetic of `I16`.
    I8,
    /// One byte, `-127..=127`, and fewer scales: faster, a little coarser. For weights in super-blocks of 256
    /// columns most engines take a scale for as many.
    I8Long,
    /// Two bytes, `-16256..=16256`: so fine that storing keys and values in half
    /// precision costs more.
    #[default]
    I16,
}

impl ActivationType {
    /// Every type, by the name that users give.
    pub const ALL: &'static [(&'static str, ActivationType)] =
        &[("i8", ActivationType::I8), ("i8-long", ActivationType::I8Long), ("i16", ActivationType::I16)];

    const fn bytes(self) -> usize {
        match self {
            ActivationType::I8 | ActivationType::I8Long => 1,
            ActivationType::I16 => 2,
        }
    }

    /// Blocks of 32 columns that share a scale.
    pub(crate) const fn span(self) -> usize {
        match self {
            ActivationType::I8 => 1,
            ActivationType::I8Long | ActivationType::I16 => 4,
        }
    }

    const fn largest(self) -> f32 {
        match self {
            ActivationType::I8 | ActivationType::I8Long => 127.0,
            ActivationType::I16 => (127 << LOW_BITS) as f32,
        }
    }
}

/// Vectors of one layer's input, as the panel products read them: for every span of 32 (`I8`) or
/// 128 columns (`I8Long`, `I16`) a scale `s = max|x| / largest` and whole numbers `q = round(x / s)`, half to even, of an
/// [`ActivationType`]. Of two bytes, `q = 128 * high + low`: instruction sets multiply
/// bytes, and both are in `-127..=127`, where every set is exact.
///
/// What one byte costs in precision, and two in time: `docs/adr/0002-activations-in-16-bits.md`.
///
/// Tokens lie in tiles, so that a product reads the same columns of neighbouring
/// tokens from one place: `[tile][block of columns][token of the tile]`.
#[derive(Debug, Default)]
pub struct Activations {
    kind: ActivationType,
    tokens: usize,
    blocks: usize,
    tile: usize,
    /// The high bytes of 32 values, then the low ones.
    values: Vec<[i8; PANEL_COLUMNS]>,
    scales: Vec<Scale>,
}

/// Bits of a value below its high byte.
pub(crate) const LOW_BITS: u32 = 7;

/// What belongs to 32 quantized values.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Scale {
    /// `x = scale * q`.
    pub(crate) scale: f32,
    /// Minus the sum of the `q`: with it centres and minimums of weights are corrected.
    pub(crate) minus_sum: i32,
    /// Minus the sums of the first and of the second 16 `q`.
    pub(crate) minus_halves: [i32; 2],
}

/// Neighbouring tokens: values and scales, `[block][token]`.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) tokens: usize,
    pub(crate) values: &'a [[i8; PANEL_COLUMNS]],
    pub(crate) scales: &'a [Scale],
}

impl Activations {
    /// No activations yet; [`quantize`](Self::quantize) will make numbers of type `kind`.
    pub fn new(kind: ActivationType) -> Activations {
        Activations { kind, ..Activations::default() }
    }

    /// The type of the numbers.
    pub fn kind(&self) -> ActivationType {
        self.kind
    }

    /// Columns that have a scale in common: those from a multiple of this number to the next, or
    /// to the last.
    pub fn span(&self) -> usize {
        self.kind.span() * PANEL_COLUMNS
    }

    /// Tokens of the last [`quantize`](Self::quantize).
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of the last [`quantize`](Self::quantize).
    pub fn columns(&self) -> usize {
        self.blocks * PANEL_COLUMNS
    }

    /// Replaces the content by the rows of `x`, each of `columns` values. Allocates
    /// only when the content grows beyond what it once was.
    ///
    /// # Panics
    /// When `columns` is not a multiple of 32 or `x` is not whole rows.
    pub fn quantize(&mut self, kernels: Kernels, team: &Team<'_>, x: &[f32], columns: usize) {
        assert!(columns > 0 && x.len().is_multiple_of(columns), "whole rows of {columns}");
        let tile = kernels.tile();
        self.write(kernels, team, [x.len() / columns, columns], [tile, columns], &mut [], |mut share| {
            for token in share.tokens() {
                share.put(token, 0, &x[token * columns..][..columns]);
            }
        });
    }

    /// As [`quantize`](Self::quantize), of rows that `write` makes of those of `x`, each when it
    /// is about to be quantized: `write(token, row, out)` fills `out` and may change the row.
    ///
    /// # Panics
    /// As [`quantize`](Self::quantize).
    pub fn fill(
        &mut self,
        kernels: Kernels,
        team: &Team<'_>,
        x: &mut [f32],
        columns: usize,
        write: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        thread_local! {
            static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        assert!(columns > 0 && x.len().is_multiple_of(columns), "whole rows of {columns}");
        let tile = kernels.tile();
        self.write(kernels, team, [x.len() / columns, columns], [tile, columns], x, |mut share| {
            ROW.with_borrow_mut(|row| {
                if row.len() < columns {
                    row.resize(columns, 0.0);
                }
                let out = &mut row[..columns];
                for token in share.tokens() {
                    write(token, share.cells.side(token), out);
                    share.put(token, 0, out);
                }
            });
        });
    }

    /// Replaces the content by `shape[0]` tokens of `shape[1]` columns, which the tasks put into
    /// their shares, every token and column of them: blocks of `grain[0]` tokens, one after the
    /// other, and `grain[1]` columns or more of them.
    ///
    /// # Panics
    /// When the columns are not a multiple of 32 or their grain is not one of [`span`](Self::span).
    pub fn fill_shares(
        &mut self,
        kernels: Kernels,
        team: &Team<'_>,
        shape: [usize; 2],
        grain: [usize; 2],
        task: impl Fn(ActivationShare<'_>) + Sync,
    ) {
        assert!(grain[1].is_multiple_of(self.span()), "{} columns together", grain[1]);
        self.write(kernels, team, shape, grain, &mut [], task);
    }

    fn write(
        &mut self,
        kernels: Kernels,
        team: &Team<'_>,
        [tokens, columns]: [usize; 2],
        [block, grain]: [usize; 2],
        side: &mut [f32],
        task: impl Fn(ActivationShare<'_>) + Sync,
    ) {
        let whole = |columns: usize| columns > 0 && columns.is_multiple_of(PANEL_COLUMNS);
        assert!(whole(columns) && whole(grain), "{columns} columns, {grain} together, in blocks of 32");
        let (kind, per_cell) = (self.kind, self.kind.bytes());
        (self.tokens, self.blocks, self.tile) = (tokens, columns / PANEL_COLUMNS, kernels.tile());
        let total = self.tokens * self.blocks;
        if self.scales.len() < total {
            self.values.resize(total * per_cell, [0; PANEL_COLUMNS]);
            self.scales.resize(total, Scale::default());
        }
        let matrix = Tiled {
            values: &mut self.values[..total * per_cell],
            per_cell,
            marks: &mut self.scales[..total],
            side,
            rows: tokens,
            columns: self.blocks,
            tile: self.tile,
        };
        team.tiled(matrix, block, grain / PANEL_COLUMNS, |cells| {
            task(ActivationShare { kernels, kind, end: columns, cells })
        });
    }

    /// Whether the tokens are whole tiles.
    pub(crate) fn are_tiles(&self, tokens: &Range<usize>) -> bool {
        let last = tokens.end == self.tokens;
        let ends = last || tokens.end < self.tokens && tokens.end.is_multiple_of(self.tile);
        tokens.start.is_multiple_of(self.tile) && ends
    }

    /// The tiles of some tokens, each with its first token, counted from the first of them.
    /// They must be [whole tiles](Self::are_tiles).
    #[inline(always)]
    pub(crate) fn tiles(&self, tokens: Range<usize>) -> impl Iterator<Item = (usize, Tile<'_>)> {
        let (size, bytes) = (self.tile * self.blocks, self.bytes());
        let here = tokens.start * self.blocks..tokens.end * self.blocks;
        let values = self.values[here.start * bytes..here.end * bytes].chunks(size * bytes);
        let tiles = values.zip(self.scales[here].chunks(size)).enumerate();
        tiles.map(|(i, (values, scales))| {
            let tokens = scales.len() / self.blocks;
            (i * self.tile, Tile { tokens, values, scales })
        })
    }

    /// Bytes of a value.
    pub(crate) fn bytes(&self) -> usize {
        self.kind.bytes()
    }
}

/// Some columns of some tokens, to be filled by one thread.
pub struct ActivationShare<'a> {
    kernels: Kernels,
    kind: ActivationType,
    /// All columns of a token.
    end: usize,
    cells: Cells<'a, [i8; PANEL_COLUMNS], Scale>,
}

impl ActivationShare<'_> {
    /// The tokens.
    pub fn tokens(&self) -> Range<usize> {
        self.cells.rows()
    }

    /// The columns: whole blocks of 32.
    pub fn columns(&self) -> Range<usize> {
        let blocks = self.cells.columns();
        blocks.start * PANEL_COLUMNS..blocks.end * PANEL_COLUMNS
    }

    /// Quantizes `x` into columns of `token`, from column `first` on.
    ///
    /// # Panics
    /// When those are not columns of the share, from a multiple of the
    /// [`span`](Activations::span) to one or to the last column.
    pub fn put(&mut self, token: usize, first: usize, x: &[f32]) {
        let ActivationShare { kernels, kind, end, cells } = self;
        let span = kind.span() * PANEL_COLUMNS;
        let (last, whole) = (first + x.len(), |column: usize| column.is_multiple_of(span));
        assert!(whole(first) && (whole(last) || last == *end), "columns {first} to {last} of {end}");
        let (x, _) = x.as_chunks::<PANEL_COLUMNS>();
        kernels.run(Quantize { kind: *kind, x, cells, token, first: first / PANEL_COLUMNS });
    }
}

struct Quantize<'a, 'b> {
    kind: ActivationType,
    x: &'a [[f32; PANEL_COLUMNS]],
    cells: &'a mut Cells<'b, [i8; PANEL_COLUMNS], Scale>,
    token: usize,
    first: usize,
}

impl SimdOp for Quantize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Quantize { kind, x, cells, token, first } = self;
        let width = kind.span();
        for (span, x) in x.chunks(width).enumerate() {
            let step = step(isa, kind, x);
            for (i, x) in x.iter().enumerate() {
                let (bytes, scale) = cells.cell(token, first + span * width + i);
                *scale = quantize_block(isa, step, x, bytes);
            }
        }
    }
}

/// The scale of a span and its inverse. Zeros, and values so small that their inverse
/// overflows, have neither; a peak that is not a number, or infinite, stays visible.
#[inline(always)]
fn step<I: Isa>(isa: I, kind: ActivationType, x: &[[f32; PANEL_COLUMNS]]) -> (f32, f32) {
    let (mut peaks, mut zeros) = (isa.splat(0.0), isa.splat(0.0));
    for half in x.as_flattened().as_chunks::<LANES>().0 {
        let x = isa.load(half);
        peaks = isa.max(isa.abs(x), peaks);
        // A maximum may lose what is not a number; zero times it does not.
        zeros = isa.mul_add(x, isa.splat(0.0), zeros);
    }
    let peak = isa.max_lane(peaks) + isa.sum(zeros);
    let inverse = kind.largest() / peak;
    match (peak.is_finite(), inverse.is_finite()) {
        (true, true) => (peak / kind.largest(), inverse),
        (true, false) => (0.0, 0.0),
        (false, _) => (f32::NAN, 0.0),
    }
}

#[inline(always)]
fn quantize_block<I: Isa>(
    isa: I,
    (scale, inverse): (f32, f32),
    x: &[f32; PANEL_COLUMNS],
    out: &mut [[i8; PANEL_COLUMNS]],
) -> Scale {
    if inverse == 0.0 {
        out.fill([0; PANEL_COLUMNS]);
        return Scale { scale, ..Scale::default() };
    }
    let (halves, _) = x.as_chunks::<LANES>();
    let (first, second) = (isa.load(&halves[0]), isa.load(&halves[1]));
    let inverse = isa.splat(inverse);
    let q = [isa.round(isa.mul(first, inverse)), isa.round(isa.mul(second, inverse))];
    match out {
        [only] => store_bytes(isa, q, only),
        [high, low, ..] => {
            let (first, second) = (split(isa, q[0]), split(isa, q[1]));
            store_bytes(isa, [first.0, second.0], high);
            store_bytes(isa, [first.1, second.1], low);
        }
        [] => {}
    }
    let minus_halves = [-isa.sum_i32(q[0]), -isa.sum_i32(q[1])];
    Scale { scale, minus_sum: minus_halves[0] + minus_halves[1], minus_halves }
}

/// The high and the low byte of whole numbers.
#[inline(always)]
fn split<I: Isa>(isa: I, q: I::I32) -> (I::I32, I::I32) {
    let high = isa.round(isa.mul(isa.to_f32(q), isa.splat(1.0 / (1 << LOW_BITS) as f32)));
    (high, isa.sub_i32(q, isa.shift_left(high, LOW_BITS)))
}

#[inline(always)]
fn store_bytes<I: Isa>(isa: I, q: [I::I32; 2], out: &mut [i8; PANEL_COLUMNS]) {
    let (halves, _) = out.as_chunks_mut::<LANES>();
    isa.store_i8(q[0], &mut halves[0]);
    isa.store_i8(q[1], &mut halves[1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IsaKind, Pool};

    fn each_set(mut test: impl FnMut(Kernels, ActivationType)) {
        for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
            ActivationType::ALL.iter().for_each(|&(_, kind)| test(kernels, kind));
        }
    }

    #[test]
    fn values_come_back_within_half_a_step() {
        let columns = 224;
        each_set(|kernels, kind| {
            for tokens in [1, 3, 8, 9, 21] {
                let value = |i: usize| ((i * 7919 + 5) % 2003) as f32 * 1e-3 - 1.0;
                let x: Vec<f32> =
                    (0..tokens * columns).map(|i| value(i) * 2.0f32.powi(i as i32 / 128 % 80 - 40)).collect();
                let mut q = Activations::new(kind);
                Pool::new(2).unwrap().step(|team| q.quantize(kernels, team, &x, columns));
                assert_eq!((q.tokens(), q.columns(), q.kind()), (tokens, columns, kind));
                let mut seen = 0;
                for (first, tile) in q.tiles(0..tokens) {
                    assert_eq!(first, seen);
                    seen += tile.tokens;
                    for (at, scale) in tile.scales.iter().enumerate() {
                        let (block, token) = (at / tile.tokens, first + at % tile.tokens);
                        let row = &x[token * columns..][..columns];
                        let width = kind.span();
                        let span = row.chunks(width * PANEL_COLUMNS).nth(block / width).unwrap();
                        let x = &span[block % width * PANEL_COLUMNS..][..PANEL_COLUMNS];
                        let bytes = &tile.values[at * q.bytes()..][..q.bytes()];
                        check_block(x, span, kind, bytes, scale);
                    }
                }
                assert_eq!(seen, tokens);
            }
        });
    }

    #[test]
    fn rows_made_in_passing_are_those_made_before() {
        let (tokens, columns) = (21, 224);
        let x: Vec<f32> = (0..tokens * columns).map(|i| ((i * 7919 + 5) % 2003) as f32 - 1000.0).collect();
        let doubled: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
        each_set(|kernels, kind| {
            let [mut expected, mut filled, mut shared] = [(); 3].map(|()| Activations::new(kind));
            let mut changed = x.clone();
            Pool::new(3).unwrap().step(|team| {
                expected.quantize(kernels, team, &doubled, columns);
                filled.fill(kernels, team, &mut changed, columns, |token, row, out| {
                    out.copy_from_slice(&doubled[token * columns..][..columns]);
                    row[0] += 1.0;
                });
                let span = shared.span();
                shared.fill_shares(kernels, team, [tokens, columns], [8, span], |mut share| {
                    let columns_here = share.columns();
                    for token in share.tokens() {
                        let row = &doubled[token * columns..][columns_here.clone()];
                        share.put(token, columns_here.start, row);
                    }
                });
            });
            for other in [&filled, &shared] {
                assert_eq!((&expected.values, &expected.scales), (&other.values, &other.scales));
            }
            assert!(
                changed
                    .iter()
                    .zip(&x)
                    .enumerate()
                    .all(|(i, (changed, x))| { *changed == if i % columns == 0 { x + 1.0 } else { *x } })
            );
        });
    }

    fn check_block(
        x: &[f32],
        span: &[f32],
        kind: ActivationType,
        bytes: &[[i8; PANEL_COLUMNS]],
        scale: &Scale,
    ) {
        assert!(bytes.iter().flatten().all(|&byte| byte > -128));
        let peak = span.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
        let mut halves = [0, 0];
        for (i, x) in x.iter().enumerate() {
            let whole = match bytes {
                [only] => i32::from(only[i]),
                [high, low] => 128 * i32::from(high[i]) + i32::from(low[i]),
                _ => unreachable!("one or two bytes"),
            };
            halves[i / 16] += whole;
            let error = f64::from(*x) - f64::from(scale.scale) * f64::from(whole);
            let largest = if kind == ActivationType::I16 { 16256.0 } else { 127.0 };
            assert!(error.abs() <= 0.51 * f64::from(peak) / largest, "{x} {error}");
        }
        assert_eq!(scale.minus_halves, halves.map(|half| -half));
        assert_eq!(scale.minus_sum, -halves[0] - halves[1]);
    }

    #[test]
    fn odd_values_are_zero_or_stay_visible() {
        each_set(|kernels, kind| {
            let cases = [(0.0, 0.0), (1e-42, 0.0), (f32::INFINITY, f32::NAN), (f32::NAN, f32::NAN)];
            for (value, expected) in cases {
                let mut x = [0.0; PANEL_COLUMNS];
                x[7] = value;
                let mut q = Activations::new(kind);
                Pool::new(1).unwrap().step(|team| q.quantize(kernels, team, &x, PANEL_COLUMNS));
                let scale = q.scales[0].scale;
                assert!(scale == expected || scale.is_nan() && expected.is_nan(), "{value}: {scale}");
            }
        });
    }
}
