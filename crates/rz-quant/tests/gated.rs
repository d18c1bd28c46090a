//! The fused first half of a feed-forward network gives the bits of its parts.

use std::sync::Arc;

use rz_kernels::{
    Activation, ActivationType, Activations, Arena, IsaKind, Kernels, Pool, Team, activate, add_assign,
};
use rz_quant::{Affine, DType, Input, Matrix, gated, matmul, pack};

fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn matrix(team: &Team<'_>, dtype: DType, rows: usize, columns: usize, seed: u32) -> Matrix {
    let mut bytes = Vec::new();
    for row in values(rows * columns, seed).chunks_exact(columns) {
        dtype.encode(row, &mut bytes);
    }
    let size = Matrix::packed_bytes(dtype, rows, columns).expect("a type with panels");
    let mut arena = Arena::new(size).expect("memory");
    pack(Kernels::detect(), team, dtype, rows, columns, &bytes, &mut arena[..size]).expect("a whole matrix");
    Matrix::from_panels(dtype, rows, columns, Arc::new(arena), 0..size)
}

/// Product, bias, activation and quantization one after the other.
fn apart(
    kernels: Kernels,
    team: &Team<'_>,
    input: Input<'_>,
    gate: Option<Affine<'_>>,
    up: Affine<'_>,
    activation: Activation,
    out: &mut Activations,
) {
    let rows = up.0.rows();
    let affine = |(matrix, bias): Affine<'_>| {
        let mut out = vec![0.0; input.quantized.tokens() * rows];
        matmul(kernels, team, input, [(matrix, &mut out)]);
        if let Some(bias) = bias {
            out.chunks_exact_mut(rows).for_each(|row| add_assign(kernels, row, bias));
        }
        out
    };
    let up = affine(up);
    let hidden = match gate.map(affine) {
        Some(mut gate) => {
            activate(kernels, activation, &mut gate, Some(&up));
            gate
        }
        None => {
            let mut up = up;
            activate(kernels, activation, &mut up, None);
            up
        }
    };
    out.quantize(kernels, team, &hidden, rows);
}

#[test]
fn fused_and_apart_are_the_same_bits() {
    let (columns, rows) = (256, 352);
    let bias = values(rows, 7);
    for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
        for (threads, kind) in [(1, ActivationType::I16), (2, ActivationType::I8), (3, ActivationType::I16)] {
            Pool::new(threads).expect("threads").step(|team| {
                for (gate_type, up_type) in [(DType::Q4_0, DType::Q4_0), (DType::Q4_K, DType::Q6_K)] {
                    let (gate, up) =
                        (matrix(team, gate_type, rows, columns, 1), matrix(team, up_type, rows, columns, 2));
                    let down = matrix(team, DType::Q8_0, 16, rows, 3);
                    for tokens in [1, 3, 8, 9, 70, 203] {
                        let x = values(tokens * columns, 4);
                        let mut quantized = Activations::new(kind);
                        quantized.quantize(kernels, team, &x, columns);
                        for (has_gate, bias, activation) in [
                            (true, None, Activation::Silu),
                            (true, Some(&bias[..]), Activation::GeluTanh),
                            (false, Some(&bias[..]), Activation::GeluTanh),
                        ] {
                            // With the values and without.
                            let whole = Input { values: &x, quantized: &quantized };
                            let bare = Input { values: &[], quantized: &quantized };
                            let (gate, up) = (has_gate.then_some((&gate, bias)), (&up, bias));
                            let results = [false, true].map(|fused| {
                                let mut hidden = Activations::new(kind);
                                let half = if fused { gated } else { apart };
                                let input = if fused { bare } else { whole };
                                half(kernels, team, input, gate, up, activation, &mut hidden);
                                assert_eq!((hidden.tokens(), hidden.columns()), (tokens, rows));
                                let mut out = vec![0.0; tokens * 16];
                                let input = Input { values: &[], quantized: &hidden };
                                matmul(kernels, team, input, [(&down, &mut out)]);
                                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                            });
                            assert!(
                                results[0] == results[1],
                                "{kernels:?} {threads} {gate_type} {tokens} {activation:?}"
                            );
                        }
                    }
                }
            });
        }
    }
}
