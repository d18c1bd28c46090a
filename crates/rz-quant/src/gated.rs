//! The first half of a feed-forward network in one region: what the activation function is
//! applied to goes from the products to the next product's quantized input without being
//! stored between.

use std::cell::RefCell;

use rz_kernels::{Activation, Activations, Columns, Kernels, Team, activate, add_assign};

use crate::Matrix;
use crate::matrix::{Input, block_tokens, product};

/// A linear map: a matrix, and a bias of its number of rows.
pub type Affine<'a> = (&'a Matrix, Option<&'a [f32]>);

/// Replaces `out` by `activation(gate x) * (up x)`, or without a gate by `activation(up x)`: the
/// bits that separate products, activation and quantization would give.
///
/// # Panics
/// When the shapes do not fit, or the number of rows is not a multiple of 32.
pub fn gated(
    kernels: Kernels,
    team: &Team<'_>,
    input: Input<'_>,
    gate: Option<Affine<'_>>,
    up: Affine<'_>,
    activation: Activation,
    out: &mut Activations,
) {
    thread_local! {
        static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    // Values of each product that are waiting for the other: what a core's cache holds easily.
    const LARGEST: usize = 1 << 15;
    let (columns, rows) = (up.0.columns(), up.0.rows());
    for (matrix, bias) in gate.iter().chain([&up]) {
        assert!((matrix.columns(), matrix.rows()) == (columns, rows), "{matrix:?} beside {:?}", up.0);
        assert!(bias.is_none_or(|bias| bias.len() == rows), "the bias of {matrix:?}");
    }
    let (tokens, span) = (input.tokens(up.0), out.span());
    let block = block_tokens(team, gate.iter().chain([&up]).map(|(matrix, _)| *matrix), input);
    out.fill_shares(kernels, team, [tokens, rows], [block, span], |mut share| {
        let (tokens, all) = (share.tokens(), share.columns());
        let width = (LARGEST / tokens.len() / span * span).max(span);
        ROOM.with_borrow_mut(|room| {
            let needed = 2 * LARGEST.max(tokens.len() * span);
            if room.len() < needed {
                room.resize(needed, 0.0);
            }
            let (first, second) = room.split_at_mut(needed / 2);
            for start in all.clone().step_by(width) {
                let columns = start..(start + width).min(all.end);
                let size = tokens.len() * columns.len();
                let affine = |(matrix, bias): Affine<'_>, values: &mut [f32]| {
                    product(
                        kernels,
                        matrix,
                        input,
                        &mut Columns::of(values, tokens.clone(), columns.clone()),
                    );
                    if let Some(bias) = bias {
                        let rows = values.chunks_exact_mut(columns.len());
                        rows.for_each(|row| add_assign(kernels, row, &bias[columns.clone()]));
                    }
                };
                let (x, other) = (&mut first[..size], &mut second[..size]);
                match gate {
                    Some(gate) => {
                        affine(gate, x);
                        affine(up, other);
                        activate(kernels, activation, x, Some(other));
                    }
                    None => {
                        affine(up, x);
                        activate(kernels, activation, x, None);
                    }
                }
                for (token, row) in tokens.clone().zip(x.chunks_exact(columns.len())) {
                    share.put(token, start, row);
                }
            }
        });
    });
}
