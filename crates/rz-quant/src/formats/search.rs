//! The encoders that search for scales: of super-blocks, the integer scales of the
//! sub-blocks and the half-precision factors above them; of blocks with a table of
//! levels, the half-precision scale.
//!
//! What is made small is the plain sum of squared errors, in three steps:
//!
//! 1. Each sub-block alone, with real scale and minimum: start from grids that
//!    spread its range over fewer, all and more levels than there are, and improve
//!    each by turns: the nearest levels of the grid, then the grid that fits these
//!    levels best.
//! 2. All together: factors that give the largest scale the largest integer, and
//!    for each sub-block the best integers in the neighbourhood of the ideal ones.
//! 3. By turns: least squares for the factors, then step 2 again around the
//!    present integers, as long as the error falls.

use super::common::{HALF_MAX, half, inverse, limited, peak, range, to_half};

/// A super-block of `d * scale * q - dmin * min`.
pub(super) struct Affine<const SUBS: usize> {
    pub(super) d: [u8; 2],
    pub(super) dmin: [u8; 2],
    pub(super) scales: [u8; SUBS],
    pub(super) mins: [u8; SUBS],
    pub(super) q: [u8; 256],
}

/// A super-block of `d * scale * (q - half of the levels)`, or with levels from a table.
pub(super) struct Centred<const SUBS: usize> {
    pub(super) d: [u8; 2],
    pub(super) scales: [i8; SUBS],
    pub(super) q: [u8; 256],
}

/// Encodes `SUBS` sub-blocks of `N` elements with `q` in `0..=q_max`, `scale` and
/// `min` in `0..=scale_max`.
pub(super) fn affine<const N: usize, const SUBS: usize>(x: &[f32], q_max: u8, scale_max: u8) -> Affine<SUBS> {
    let limit = HALF_MAX * f32::from(scale_max);
    let x: [f32; 256] = limited(x, -limit, limit);
    let levels = Uniform { low: 0.0, high: f32::from(q_max) };
    let integers = Integers { low: 0, high: i32::from(scale_max) };
    let found = super_block::<N, SUBS, _>(&x, levels, integers, integers, fit_affine);
    Affine {
        d: to_half(found.d),
        dmin: to_half(found.dmin),
        scales: found.scales.map(|s| s as u8),
        mins: found.mins.map(|m| m as u8),
        q: found.q,
    }
}

/// Encodes 16 sub-blocks of 16 elements with `q - q_half` in `-q_half..q_half` and
/// `scale` in `-scale_half..scale_half`.
pub(super) fn centred(x: &[f32], q_half: u8, scale_half: u8) -> Centred<16> {
    let levels = Uniform { low: -f32::from(q_half), high: f32::from(q_half) - 1.0 };
    scaled::<16, 16>(x, levels, scale_half)
}

/// Encodes 8 sub-blocks of 32 elements with `q` the place of a level in `table` and
/// `scale` in `-scale_half..scale_half`.
pub(super) fn tabled(x: &[f32], table: &'static [i8; 16], scale_half: u8) -> Centred<8> {
    scaled::<32, 8>(x, Table(table), scale_half)
}

/// Encodes one block of `N` elements: its scale, and the places of its levels in `table`.
pub(super) fn tabled_block<const N: usize>(x: &[f32], table: &'static [i8; 16]) -> ([u8; 2], [u8; N]) {
    let levels = Table(table);
    let limit = HALF_MAX * levels.ends()[1];
    let x: [f32; N] = limited(x, -limit, limit);
    let grid = fit_centred(&x, levels);
    let d = as_half(grid.scale);
    (to_half(d), quantize(&x, Grid { scale: d, min: 0.0 }, levels))
}

fn scaled<const N: usize, const SUBS: usize>(
    x: &[f32],
    levels: impl Levels,
    scale_half: u8,
) -> Centred<SUBS> {
    let limit = HALF_MAX * f32::from(scale_half);
    let x: [f32; 256] = limited(x, -limit, limit);
    let integers = Integers { low: -i32::from(scale_half), high: i32::from(scale_half) - 1 };
    let found = super_block::<N, SUBS, _>(&x, levels, integers, Integers { low: 0, high: 0 }, fit_centred);
    Centred { d: to_half(found.d), scales: found.scales.map(|s| s as i8), q: found.q }
}

/// The values that a quantized element may have, in units of the scale.
trait Levels: Copy {
    /// The lowest and the highest.
    fn ends(self) -> [f32; 2];
    /// How far apart the outer ones are.
    fn step(self) -> f32;
    /// The nearest to `value`.
    fn nearest(self, value: f32) -> f32;
    /// What stands for a level in a block.
    fn code(self, level: f32) -> u8;
}

/// Whole numbers.
#[derive(Clone, Copy)]
struct Uniform {
    low: f32,
    high: f32,
}

impl Levels for Uniform {
    fn ends(self) -> [f32; 2] {
        [self.low, self.high]
    }

    fn step(self) -> f32 {
        1.0
    }

    #[inline(always)]
    fn nearest(self, value: f32) -> f32 {
        // Adding a number whose last bit is worth one rounds to an integer.
        const ROUND: f32 = 1.5 * (1 << 23) as f32;
        let q = if value < self.low { self.low } else { value };
        let q = if q > self.high { self.high } else { q };
        (q + ROUND) - ROUND
    }

    fn code(self, level: f32) -> u8 {
        (level - self.low) as u8
    }
}

/// Any sixteen, in rising order.
#[derive(Clone, Copy)]
struct Table(&'static [i8; 16]);

impl Table {
    fn place(self, value: f32) -> usize {
        // As many as the middles between neighbours that the value is beyond.
        self.0.windows(2).filter(|pair| value > (f32::from(pair[0]) + f32::from(pair[1])) / 2.0).count()
    }
}

impl Levels for Table {
    fn ends(self) -> [f32; 2] {
        [f32::from(self.0[0]), f32::from(self.0[15])]
    }

    fn step(self) -> f32 {
        f32::from(self.0[1]) - f32::from(self.0[0])
    }

    fn nearest(self, value: f32) -> f32 {
        f32::from(self.0[self.place(value)])
    }

    fn code(self, level: f32) -> u8 {
        self.place(level) as u8
    }
}

/// The values that the scale, or the minimum, of a sub-block may have.
#[derive(Clone, Copy)]
struct Integers {
    low: i32,
    high: i32,
}

impl Integers {
    /// The factor under which the value of the largest magnitude still fits.
    fn factor(self, values: &[f32]) -> f32 {
        let peak = peak(values);
        // One more on the negative side: a negative factor turns the peak there.
        let bound = if -self.low > self.high { self.low } else { self.high };
        if bound == 0 { 0.0 } else { as_half(peak / bound as f32) }
    }

    fn nearest(self, value: f32) -> i32 {
        (value.round() as i32).clamp(self.low, self.high)
    }

    /// An integer and those beside it.
    fn around(self, value: i32) -> impl Iterator<Item = i32> {
        (value - 1).max(self.low)..=(value + 1).min(self.high)
    }
}

/// A value as its half-precision field will hold it.
fn as_half(value: f32) -> f32 {
    half(to_half(value.clamp(-HALF_MAX, HALF_MAX)))
}

struct SuperBlock<const SUBS: usize> {
    d: f32,
    dmin: f32,
    scales: [i32; SUBS],
    mins: [i32; SUBS],
    q: [u8; 256],
}

fn super_block<const N: usize, const SUBS: usize, L: Levels>(
    x: &[f32; 256],
    levels: L,
    scale_integers: Integers,
    min_integers: Integers,
    fit: fn(&[f32; N], L) -> Grid,
) -> SuperBlock<SUBS> {
    const { assert!(N * SUBS == 256) };
    let subs: &[[f32; N]; SUBS] = x.as_chunks().0.try_into().expect("256 elements");
    let ideal = subs.each_ref().map(|x| fit(x, levels));

    let mut d = scale_integers.factor(&ideal.map(|grid| grid.scale));
    let mut dmin = min_integers.factor(&ideal.map(|grid| grid.min));
    let mut scales = ideal.map(|grid| scale_integers.nearest(grid.scale * inverse(d)));
    let mut mins = ideal.map(|grid| min_integers.nearest(grid.min * inverse(dmin)));

    let mut best = SuperBlock { d: 0.0, dmin: 0.0, scales: [0; SUBS], mins: [0; SUBS], q: [0; 256] };
    let mut best_error = f32::INFINITY;
    for _ in 0..ROUNDS {
        let mut total = 0.0;
        let mut squares = Squares::default();
        for (j, x) in subs.iter().enumerate() {
            let (scale, min, nearest) = scale_integers
                .around(scales[j])
                .flat_map(|scale| min_integers.around(mins[j]).map(move |min| (scale, min)))
                .map(|(scale, min)| {
                    let grid = Grid { scale: d * scale as f32, min: dmin * min as f32 };
                    (scale, min, sums(x, grid, levels))
                })
                .min_by(|a, b| a.2.error.total_cmp(&b.2.error))
                .expect("at least the present integers");
            (scales[j], mins[j]) = (scale, min);
            total += nearest.error;
            squares.add(scale, min, N, &nearest);
        }
        if total >= best_error {
            break;
        }
        best_error = total;
        best = SuperBlock { d, dmin, scales, mins, q: best.q };
        (d, dmin) = squares.factors();
    }
    for ((x, q), (scale, min)) in
        subs.iter().zip(best.q.as_chunks_mut::<N>().0).zip(best.scales.iter().zip(&best.mins))
    {
        let grid = Grid { scale: best.d * *scale as f32, min: best.dmin * *min as f32 };
        *q = quantize(x, grid, levels);
    }
    best
}

/// Turns of step 3: more change the error by less than a thousandth.
const ROUNDS: usize = 3;

/// The sums of a least-squares fit of `x = d * a - dmin * b` over a super-block,
/// with `a = scale * q` and `b = min`.
#[derive(Default)]
struct Squares {
    aa: f64,
    ab: f64,
    bb: f64,
    xa: f64,
    xb: f64,
}

impl Squares {
    fn add(&mut self, scale: i32, min: i32, elements: usize, sums: &Sums) {
        let (scale, min) = (f64::from(scale), f64::from(min));
        self.aa += scale * scale * f64::from(sums.qq);
        self.ab += scale * min * f64::from(sums.q);
        self.bb += min * min * elements as f64;
        self.xa += scale * f64::from(sums.xq);
        self.xb += min * f64::from(sums.x);
    }

    /// The factors of the least error, as their fields will hold them.
    fn factors(&self) -> (f32, f32) {
        let determinant = self.aa * self.bb - self.ab * self.ab;
        let dmin =
            if determinant > 0.0 { (self.ab * self.xa - self.aa * self.xb) / determinant } else { 0.0 };
        let dmin = as_half(dmin.max(0.0) as f32);
        let d = if self.aa > 0.0 { (self.xa + f64::from(dmin) * self.ab) / self.aa } else { 0.0 };
        (as_half(d as f32), dmin)
    }
}

/// The real scale and minimum of a sub-block: `x = scale * q - min`.
#[derive(Clone, Copy)]
struct Grid {
    scale: f32,
    min: f32,
}

/// Step 1 for `q` from 0 on, with a minimum of at least 0 below a scale of at
/// least 0.
fn fit_affine<const N: usize>(x: &[f32; N], levels: Uniform) -> Grid {
    let (low, high) = range(x);
    let min = -low.min(0.0);
    let width = high + min;
    let starts = SPREADS.map(|spread| Grid { scale: width / (levels.high + spread), min });
    improve(x, levels, starts, Sums::affine::<N>)
}

/// Step 1 for `q` around 0: the element of the largest magnitude at either end.
fn fit_centred<const N: usize>(x: &[f32; N], levels: impl Levels) -> Grid {
    let peak = peak(x);
    let step = levels.step();
    let at = |end: f32| {
        SPREADS.map(|spread| Grid { scale: peak / (end + end.signum() * spread * step), min: 0.0 })
    };
    let [low, high] = levels.ends();
    improve(x, levels, at(low).into_iter().chain(at(high)), Sums::centred)
}

/// How many levels more than there are a starting grid spreads the range over.
/// Coarser grids leave room for the turns to shift; finer ones clip the ends.
const SPREADS: [f32; 7] = [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0];

/// Turns of step 1; the levels of most grids settle in fewer.
const TURNS: usize = 4;

/// Improves each grid by turns, and returns the one of the least error.
fn improve<const N: usize>(
    x: &[f32; N],
    levels: impl Levels,
    starts: impl IntoIterator<Item = Grid>,
    refit: fn(&Sums) -> Grid,
) -> Grid {
    let mut best = (f32::INFINITY, Grid { scale: 0.0, min: 0.0 });
    for mut grid in starts {
        let mut error = f32::INFINITY;
        for _ in 0..TURNS {
            let sums = sums(x, grid, levels);
            if sums.error < best.0 {
                best = (sums.error, grid);
            }
            if sums.error >= error {
                break;
            }
            error = sums.error;
            grid = refit(&sums);
        }
    }
    best.1
}

/// What the nearest levels of a sub-block add up to.
#[derive(Clone, Copy)]
struct Sums {
    error: f32,
    q: f32,
    qq: f32,
    x: f32,
    xq: f32,
}

impl Sums {
    /// The grid of the least error for these levels, its minimum not negative.
    fn affine<const N: usize>(&self) -> Grid {
        let n = N as f32;
        let determinant = n * self.qq - self.q * self.q;
        if determinant > 0.0 {
            let min = (self.q * self.xq - self.qq * self.x) / determinant;
            if min > 0.0 {
                return Grid { scale: (n * self.xq - self.q * self.x) / determinant, min };
            }
        }
        self.centred()
    }

    /// The same without a minimum.
    fn centred(&self) -> Grid {
        Grid { scale: if self.qq > 0.0 { self.xq / self.qq } else { 0.0 }, min: 0.0 }
    }
}

/// The error of a sub-block on a grid, each element at its nearest level.
fn sums<const N: usize>(x: &[f32; N], grid: Grid, levels: impl Levels) -> Sums {
    let inverse = inverse(grid.scale);
    let (mut q, mut miss) = ([0.0; N], [0.0; N]);
    for ((q, miss), x) in q.iter_mut().zip(&mut miss).zip(x) {
        *q = levels.nearest((x + grid.min) * inverse);
        *miss = x - (grid.scale * *q - grid.min);
    }
    let ones = [1.0; N];
    Sums { error: dot(&miss, &miss), q: dot(&q, &ones), qq: dot(&q, &q), x: dot(x, &ones), xq: dot(x, &q) }
}

/// A scalar product in partial sums, so that the loop vectorises. Not inlined:
/// products that share an operand would be interleaved element by element.
#[inline(never)]
fn dot<const N: usize>(x: &[f32; N], y: &[f32; N]) -> f32 {
    let mut parts = [0.0; 8];
    for (x, y) in x.as_chunks::<8>().0.iter().zip(y.as_chunks::<8>().0) {
        for ((part, x), y) in parts.iter_mut().zip(x).zip(y) {
            *part += x * y;
        }
    }
    parts.iter().sum()
}

fn quantize<const N: usize>(x: &[f32; N], grid: Grid, levels: impl Levels) -> [u8; N] {
    let inverse = inverse(grid.scale);
    x.map(|x| levels.code(levels.nearest((x + grid.min) * inverse)))
}
