//! Products of packed matrices with activations.
//!
//! One loop serves every kind, number of tokens and instruction set: a panel block
//! meets the same columns of up to eight tokens. A token's result does not depend on the
//! tokens beside it: its sums are formed in order of the columns.

mod expanded;
mod float;
mod header;
mod quantized;

use std::cell::RefCell;
use std::marker::PhantomData;

use expanded::Line;
use header::{Centred, Curved, Header, Minimum, PowerOfTwo, ScaleMinBytes, ScaleMinNibbles};
use header::{SignedScales, SixBitScales, SuperCurved};
use quantized::Quantized;

use crate::{ActivationType, Activations, Columns, Isa, Kernels, PANEL_ROWS, PanelKind, PanelRef, SimdOp};

/// Fills `out`, a share of the product of `weights` with the tokens of `x`: row
/// `t`, column `r` becomes the dot product of row `r` of the matrix with token `t`.
///
/// # Panics
/// When the kind is one of the float kinds, the shapes do not fit, or the share does not
/// start at a whole panel or its rows are not whole tiles: from a multiple of 8 to one, or
/// to the last.
pub fn panel_product(kernels: Kernels, weights: PanelRef<'_>, x: &Activations, out: &mut Columns<'_>) {
    assert_eq!(weights.columns(), x.columns(), "columns of the matrix and of the activations");
    let tokens = out.first_row()..out.first_row() + out.rows();
    assert!(x.are_tiles(&tokens), "tokens {tokens:?} of {}", x.tokens());
    check_share(weights, out);
    let product = match weights.kind() {
        PanelKind::Bits4 => quantized::<Centred<8>, 4, 0>,
        PanelKind::Bits4Min => quantized::<Minimum, 4, 0>,
        PanelKind::Bits5 => quantized::<Centred<16>, 4, 1>,
        PanelKind::Bits5Min => quantized::<Minimum, 4, 1>,
        PanelKind::Bits8 => quantized::<Centred<128>, 8, 0>,
        PanelKind::Super2 => quantized::<ScaleMinNibbles, 2, 0>,
        PanelKind::Super3 => quantized::<SixBitScales, 2, 1>,
        PanelKind::Super4 => quantized::<ScaleMinBytes, 4, 0>,
        PanelKind::Super5 => quantized::<ScaleMinBytes, 4, 1>,
        PanelKind::Super6 => quantized::<SignedScales, 4, 2>,
        PanelKind::Curved4 => quantized::<Curved, 4, 0>,
        PanelKind::SuperCurved4 => quantized::<SuperCurved, 4, 0>,
        PanelKind::Float4 => quantized::<PowerOfTwo, 4, 0>,
        PanelKind::F16 | PanelKind::Bf16 | PanelKind::F32 => unreachable!("a float kind"),
    };
    product(kernels, (weights, x, out));
}

/// As [`panel_product`] for the float kinds, with the activations as they are: `x` is
/// the tokens of the share x columns.
///
/// # Panics
/// As [`panel_product`].
pub fn float_panel_product(kernels: Kernels, weights: PanelRef<'_>, x: &[f32], out: &mut Columns<'_>) {
    assert_eq!(x.len(), out.rows() * weights.columns(), "tokens of the output and of the activations");
    check_share(weights, out);
    kernels.run(Float { weights, x, out });
}

fn check_share(weights: PanelRef<'_>, out: &Columns<'_>) {
    let columns = out.columns();
    assert!(columns.start.is_multiple_of(PANEL_ROWS) && columns.end <= weights.rows(), "{columns:?}");
}

/// The products of one kind of panels.
fn quantized<H: Header, const BASE: usize, const EXTRA: usize>(
    kernels: Kernels,
    (weights, x, out): (PanelRef<'_>, &Activations, &mut Columns<'_>),
) {
    thread_local! {
        static ROOM: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    ROOM.with_borrow_mut(|room| match x.kind() {
        ActivationType::I8 => {
            kernels.run(Quantized::<H, BASE, EXTRA, 1, 1> { weights, x, out, room, header: PhantomData });
        }
        ActivationType::I8Long => {
            kernels.run(Quantized::<H, BASE, EXTRA, 1, 4> { weights, x, out, room, header: PhantomData });
        }
        ActivationType::I16 => {
            kernels.run(Quantized::<H, BASE, EXTRA, 2, 4> { weights, x, out, room, header: PhantomData });
        }
    });
}

struct Float<'a, 'b> {
    weights: PanelRef<'a>,
    x: &'a [f32],
    out: &'a mut Columns<'b>,
}

impl SimdOp for Float<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Float { weights, x, out } = self;
        match weights.kind() {
            PanelKind::F16 => float::panels::<I, float::Half>(isa, weights, x, out),
            PanelKind::Bf16 => float::panels::<I, float::Brain>(isa, weights, x, out),
            PanelKind::F32 => float::panels::<I, float::Single>(isa, weights, x, out),
            _ => unreachable!("not a float kind"),
        }
    }
}

/// Writes sixteen rows' sums, of which the matrix has `width`, for one token.
#[inline(always)]
fn store<I: Isa>(isa: I, sum: I::F32, out: &mut [f32]) {
    match out.as_chunks_mut() {
        ([whole], []) => isa.store(sum, whole),
        _ => {
            let mut whole = [0.0; PANEL_ROWS];
            isa.store(sum, &mut whole);
            let width = out.len();
            out.copy_from_slice(&whole[..width]);
        }
    }
}

/// Runs `$call` over `$tokens` tokens, `N` at a time: 8, then 4, 2 and 1. The first
/// argument of each call is the first of its tokens.
macro_rules! by_tokens {
    ($tokens:expr, $call:ident::<$($generic:tt),*>($($argument:expr),*)) => {{
        let mut first = 0;
        while first < $tokens {
            first += match $tokens - first {
                8.. => { $call::<$($generic),*, 8>(first, $($argument),*); 8 }
                4.. => { $call::<$($generic),*, 4>(first, $($argument),*); 4 }
                2.. => { $call::<$($generic),*, 2>(first, $($argument),*); 2 }
                _ => { $call::<$($generic),*, 1>(first, $($argument),*); 1 }
            };
        }
    }};
}
use by_tokens;
