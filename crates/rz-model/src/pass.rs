//! The one forward pass. It asks the fields of the description, never the family.

use rz_kernels::{
    ActivationType, Activations, MAX_HEAD, Runtime, Team, activate, add_assign, layer_norm, rms_norm,
    rotate_halves, rotate_neighbours, soft_cap,
};
use rz_quant::{Input, Matrix, matmul};

use crate::attend::attend_layer;
use crate::kv::{KvStorage, with_format};
use crate::spec::{AttentionSpec, FeedForwardSpec, LayerSpec, Norm, NormKind, Pairs, Residual, Rope};
use crate::weights::{LayerWeights, Linear, NormWeights, Weights};
use crate::{Batch, ModelSpec, Output, Want};

/// The buffers of a pass, made once for the longest batch.
pub(crate) struct Scratch {
    residual: Vec<f32>,
    normed: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    pub(crate) gathered: Vec<f32>,
    /// What spans of a few tokens gave, before they are merged.
    pub(crate) parts: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    quantized: Activations,
    /// Cosines and sines of each rope, tokens x pairs.
    angles: Vec<Angles>,
}

impl Scratch {
    pub(crate) fn new(spec: &ModelSpec, tokens: usize, parts: usize, activations: ActivationType) -> Scratch {
        let most = |size: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(size).max().unwrap_or(0);
        let buffer = |size: usize| vec![0.0; tokens * size];
        let hidden = most(&|layer| layer.feed_forward.size);
        let gated = most(&|layer| if layer.feed_forward.gated { layer.feed_forward.size } else { 0 });
        Scratch {
            residual: buffer(spec.width),
            normed: buffer(spec.width),
            queries: buffer(most(&|layer| layer.attention.heads * layer.attention.key_size)),
            keys: buffer(most(&|layer| layer.attention.kv_heads * layer.attention.key_size)),
            values: buffer(most(&|layer| layer.attention.kv_heads * layer.attention.value_size)),
            gathered: buffer(most(&|layer| layer.attention.heads * layer.attention.value_size)),
            parts: vec![0.0; parts],
            projected: buffer(spec.width),
            gate: buffer(gated),
            up: buffer(hidden),
            quantized: Activations::new(activations),
            angles: spec
                .ropes
                .iter()
                .map(|rope| rope.frequencies.len())
                .map(|n| (buffer(n), buffer(n)))
                .collect(),
        }
    }
}

/// Cosines and sines.
type Angles = (Vec<f32>, Vec<f32>);

/// One pass over one batch.
pub(crate) struct Pass<'a, 't> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) team: &'a Team<'t>,
    pub(crate) batch: &'a Batch<'a>,
    spec: &'a ModelSpec,
    pub(crate) scratch: &'a mut Scratch,
}

impl<'a, 't> Pass<'a, 't> {
    pub(crate) fn new(
        runtime: &'a Runtime,
        team: &'a Team<'t>,
        batch: &'a Batch<'a>,
        spec: &'a ModelSpec,
        scratch: &'a mut Scratch,
    ) -> Pass<'a, 't> {
        for (rope, (cosines, sines)) in spec.ropes.iter().zip(&mut scratch.angles) {
            angles(rope, batch.positions, cosines, sines);
        }
        Pass { runtime, team, batch, spec, scratch }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }

    /// The residual stream, tokens x width.
    pub(crate) fn residual(&mut self) -> &mut [f32] {
        let len = self.tokens() * self.spec.width;
        &mut self.scratch.residual[..len]
    }

    pub(crate) fn embed(&mut self, embedding: &Matrix, positions: Option<&Matrix>) {
        let (batch, width, scale) = (self.batch, self.spec.width, self.spec.embedding_scale);
        let len = self.tokens() * width;
        let Scratch { residual, projected, .. } = &mut *self.scratch;
        self.team.rows(&mut residual[..len], width, |first, rows| {
            for (row, &token) in rows.chunks_exact_mut(width).zip(&batch.tokens[first..]) {
                embedding.row(token as usize, row);
                if scale != 1.0 {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
            }
        });
        let Some(positions) = positions else { return };
        self.team.rows(&mut projected[..len], width, |first, rows| {
            for (row, &position) in rows.chunks_exact_mut(width).zip(&batch.positions[first..]) {
                positions.row(position as usize, row);
            }
        });
        self.add_to_residual();
    }

    pub(crate) fn layer(&mut self, index: usize, weights: &LayerWeights<Matrix>, kv: &mut KvStorage) {
        let spec = &self.spec.layers[index];
        self.normalise(spec.norm, &weights.attention_norm);
        self.attention(index, &spec.attention, spec.norm, weights, kv);
        self.normalise_result(spec.norm, weights.attention_post_norm.as_ref());
        match (spec.residual, &weights.feed_forward_norm) {
            (Residual::Sequential, norm) => {
                self.add_to_residual();
                if let Some(norm) = norm {
                    self.normalise(spec.norm, norm);
                }
            }
            (Residual::Parallel, norm) => {
                if let Some(norm) = norm {
                    self.normalise(spec.norm, norm);
                }
                self.add_to_residual();
            }
        }
        self.feed_forward(spec.feed_forward, weights);
        self.normalise_result(spec.norm, weights.feed_forward_post_norm.as_ref());
        self.add_to_residual();
    }

    // The normalised residual stream becomes the next input.
    fn normalise(&mut self, norm: Norm, weights: &NormWeights) {
        let width = self.spec.width;
        let len = self.tokens() * width;
        let runtime = self.runtime;
        let Scratch { residual, normed, .. } = &mut *self.scratch;
        let residual = &residual[..len];
        self.team.rows(&mut normed[..len], width, |first, rows| {
            let residual = residual[first * width..].chunks_exact(width);
            for (out, x) in rows.chunks_exact_mut(width).zip(residual) {
                apply_norm(runtime, norm, weights, x, out);
            }
        });
    }

    // Normalises what is about to be added, where the family does that.
    fn normalise_result(&mut self, norm: Norm, weights: Option<&NormWeights>) {
        let Some(weights) = weights else { return };
        let width = self.spec.width;
        let len = self.tokens() * width;
        let runtime = self.runtime;
        let Scratch { projected, normed, .. } = &mut *self.scratch;
        let projected_rows = &projected[..len];
        self.team.rows(&mut normed[..len], width, |first, rows| {
            let x = projected_rows[first * width..].chunks_exact(width);
            for (out, x) in rows.chunks_exact_mut(width).zip(x) {
                apply_norm(runtime, norm, weights, x, out);
            }
        });
        std::mem::swap(projected, normed);
    }

    fn add_to_residual(&mut self) {
        let len = self.tokens() * self.spec.width;
        let Scratch { residual, projected, .. } = &mut *self.scratch;
        let (projected, kernels) = (&projected[..len], self.runtime.kernels);
        self.team.rows(&mut residual[..len], self.spec.width, |first, rows| {
            add_assign(kernels, rows, &projected[first * self.spec.width..][..rows.len()]);
        });
    }

    fn attention(
        &mut self,
        index: usize,
        spec: &AttentionSpec,
        norm: Norm,
        weights: &LayerWeights<Matrix>,
        kv: &mut KvStorage,
    ) {
        let (tokens, width) = (self.tokens(), self.spec.width);
        let queries = tokens * spec.heads * spec.key_size;
        let keys = tokens * spec.kv_heads * spec.key_size;
        let values = tokens * spec.kv_heads * spec.value_size;
        let Scratch { normed, queries: q, keys: k, values: v, quantized, .. } = &mut *self.scratch;
        linears(
            self.runtime,
            self.team,
            &normed[..tokens * width],
            quantized,
            [&weights.query, &weights.key, &weights.value],
            [&mut q[..queries], &mut k[..keys], &mut v[..values]],
        );
        let Scratch { queries: q, keys: k, values: v, angles, .. } = &mut *self.scratch;
        let rope = spec.rope.map(|rope| (&self.spec.ropes[rope], &angles[rope]));
        let runtime = self.runtime;
        let row = spec.heads * spec.key_size;
        self.team.rows(&mut q[..queries], row, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(row).enumerate() {
                for head in row.chunks_exact_mut(spec.key_size) {
                    place_head(runtime, norm, weights.query_norm.as_ref(), rope, first + i, head);
                    if spec.scale != 1.0 {
                        head.iter_mut().for_each(|x| *x *= spec.scale);
                    }
                }
            }
        });
        kv.write(runtime, self.team, index, self.batch, [&k[..keys], &v[..values]], |token, key| {
            place_head(runtime, norm, weights.key_norm.as_ref(), rope, token, key);
        });
        with_format!(kv.kv_type(), F => attend_layer::<F>(self, spec, &kv.layer(index)));
        let Scratch { gathered, projected, quantized, .. } = &mut *self.scratch;
        linears(
            self.runtime,
            self.team,
            &gathered[..tokens * spec.heads * spec.value_size],
            quantized,
            [&weights.attention_output],
            [&mut projected[..tokens * width]],
        );
    }

    fn feed_forward(&mut self, spec: FeedForwardSpec, weights: &LayerWeights<Matrix>) {
        let (tokens, width, size) = (self.tokens(), self.spec.width, spec.size);
        let (runtime, team) = (self.runtime, self.team);
        let Scratch { normed, gate, up, projected, quantized, .. } = &mut *self.scratch;
        let x = &normed[..tokens * width];
        let up = &mut up[..tokens * size];
        let hidden = match &weights.gate {
            Some(gate_weights) => {
                let gate = &mut gate[..tokens * size];
                linears(runtime, team, x, quantized, [gate_weights, &weights.up], [gate, up]);
                team.rows(gate, size, |first, rows| {
                    activate(runtime.kernels, spec.activation, rows, Some(&up[first * size..][..rows.len()]));
                });
                gate
            }
            None => {
                linears(runtime, team, x, quantized, [&weights.up], [up]);
                team.rows(up, size, |_, rows| activate(runtime.kernels, spec.activation, rows, None));
                up
            }
        };
        linears(runtime, team, hidden, quantized, [&weights.down], [&mut projected[..tokens * width]]);
    }

    /// Logits and hidden states of the tokens that they are wanted of.
    pub(crate) fn outputs(&mut self, weights: &Weights<Matrix>, out: &mut Output) {
        self.normalise(self.spec.output_norm, &weights.output_norm);
        let (width, runtime) = (self.spec.width, self.runtime);
        let Scratch { normed, projected, quantized, .. } = &mut *self.scratch;
        out.hidden.clear();
        let mut wanted = 0;
        for (row, want) in normed.chunks_exact(width).zip(self.batch.outputs) {
            match want {
                Want::Nothing => {}
                Want::Hidden => out.hidden.extend_from_slice(row),
                Want::Logits => {
                    projected[wanted * width..][..width].copy_from_slice(row);
                    wanted += 1;
                }
            }
        }
        let matrix = weights.output.as_ref().unwrap_or(&weights.embedding);
        out.logits.resize(wanted * matrix.rows(), 0.0);
        if wanted == 0 {
            return;
        }
        let x = &projected[..wanted * width];
        if matrix.reads_quantized() {
            quantized.quantize(runtime.kernels, self.team, x, width);
        }
        matmul(runtime.kernels, self.team, Input { values: x, quantized }, [(matrix, &mut out.logits)]);
        add_bias(runtime, self.team, &mut out.logits, weights.output_bias.as_deref());
        if let Some(cap) = self.spec.logit_cap {
            self.team.rows(&mut out.logits, matrix.rows(), |_, rows| soft_cap(runtime.kernels, rows, cap));
        }
    }
}

/// Normalises a head of a token and turns it to its position, where the family does that.
fn place_head(
    runtime: &Runtime,
    norm: Norm,
    head_norm: Option<&NormWeights>,
    rope: Option<(&Rope, &Angles)>,
    token: usize,
    head: &mut [f32],
) {
    if let Some(weights) = head_norm {
        let mut x = [0.0; MAX_HEAD];
        let x = &mut x[..head.len()];
        x.copy_from_slice(head);
        apply_norm(runtime, norm, weights, x, head);
    }
    let Some((rope, (cosines, sines))) = rope else { return };
    let pairs = rope.frequencies.len();
    let at = token * pairs..(token + 1) * pairs;
    match rope.pairs {
        Pairs::Neighbours => rotate_neighbours(head, &cosines[at.clone()], &sines[at]),
        Pairs::Halves => rotate_halves(head, &cosines[at.clone()], &sines[at]),
    }
}

fn apply_norm(runtime: &Runtime, norm: Norm, weights: &NormWeights, x: &[f32], out: &mut [f32]) {
    let NormWeights { weight, bias } = weights;
    match norm.kind {
        NormKind::Rms => rms_norm(runtime.kernels, x, weight, norm.epsilon, out),
        NormKind::Layer => layer_norm(runtime.kernels, x, weight, bias.as_deref(), norm.epsilon, out),
    }
}

/// Several linear maps of the same tokens, in one region.
fn linears<const N: usize>(
    runtime: &Runtime,
    team: &Team<'_>,
    x: &[f32],
    quantized: &mut Activations,
    linears: [&Linear<Matrix>; N],
    mut outs: [&mut [f32]; N],
) {
    if linears.iter().any(|linear| linear.matrix.reads_quantized()) {
        quantized.quantize(runtime.kernels, team, x, linears[0].matrix.columns());
    }
    let mut index = 0;
    let products = outs.each_mut().map(|out| {
        index += 1;
        (&linears[index - 1].matrix, &mut **out)
    });
    matmul(runtime.kernels, team, Input { values: x, quantized }, products);
    for (linear, out) in linears.into_iter().zip(outs) {
        add_bias(runtime, team, out, linear.bias.as_deref());
    }
}

fn add_bias(runtime: &Runtime, team: &Team<'_>, rows: &mut [f32], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    team.rows(rows, bias.len(), |_, rows| {
        rows.chunks_exact_mut(bias.len()).for_each(|row| add_assign(runtime.kernels, row, bias));
    });
}

// Angles grow with the position: only in f64 do far positions keep their fraction.
fn angles(rope: &Rope, positions: &[u32], cosines: &mut [f32], sines: &mut [f32]) {
    let pairs = rope.frequencies.len().max(1);
    let rows = cosines.chunks_exact_mut(pairs).zip(sines.chunks_exact_mut(pairs));
    for (&position, (cosines, sines)) in positions.iter().zip(rows) {
        for ((frequency, cos), sin) in rope.frequencies.iter().zip(cosines).zip(sines) {
            let (s, c) = (f64::from(position) * frequency).sin_cos();
            (*cos, *sin) = (c as f32, s as f32);
        }
    }
}
