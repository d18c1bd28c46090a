//! The one forward pass. It asks the fields of the description, never the family.

use rz_kernels::{
    ActivationType, Activations, MAX_HEAD, Runtime, Team, activate, add_assign, layer_norm, rms_norm,
    rotate_halves, rotate_neighbours, soft_cap,
};
use rz_quant::{Affine, Input, Matrix, gated, matmul};

use crate::attend::attend_layer;
use crate::kv::{KvStorage, with_format};
use crate::spec::{AttentionSpec, FeedForwardSpec, LayerSpec, Norm, NormKind, Pairs, Residual, Rope};
use crate::weights::{LayerWeights, Linear, NormWeights};
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
    /// What the feed-forward network's second half reads, where that is quantized at once.
    activated: Activations,
    /// Room for what is normalised before it is added; used by few.
    room: Vec<f32>,
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
            activated: Activations::new(activations),
            room: Vec::new(),
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
    /// What `projected` holds is still to be added to the residual stream; normalised before
    /// that, where there is a norm.
    pending: Option<Option<(Norm, &'a NormWeights)>>,
    /// The normalised residual stream is in `quantized` only, not in `normed`.
    in_quantized: bool,
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
        Pass { runtime, team, batch, spec, scratch, pending: None, in_quantized: false }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }

    /// The residual stream, tokens x width.
    pub(crate) fn residual(&mut self) -> &mut [f32] {
        self.settle();
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
        self.pending = Some(None);
    }

    pub(crate) fn layer(&mut self, index: usize, weights: &'a LayerWeights<Matrix>, kv: &mut KvStorage) {
        let spec = &self.spec.layers[index];
        let LayerWeights { query, key, value, gate, up, feed_forward_norm, .. } = weights;
        // Without a norm of its own, the feed-forward network reads what attention reads.
        let quantized = feed_forward_norm.is_some() && read_quantized([query, key, value]);
        self.normalise(spec.norm, &weights.attention_norm, quantized);
        self.attention(index, &spec.attention, spec.norm, weights, kv);
        let post_norm = |norm: &'a Option<NormWeights>| Some(norm.as_ref().map(|norm| (spec.norm, norm)));
        self.pending = post_norm(&weights.attention_post_norm);
        let quantized = read_quantized(gate.iter().chain([up]));
        match (spec.residual, feed_forward_norm) {
            (Residual::Sequential, Some(norm)) => self.normalise(spec.norm, norm, quantized),
            (Residual::Parallel, Some(norm)) => {
                let attended = self.pending.take();
                self.normalise(spec.norm, norm, quantized);
                self.pending = attended;
                self.settle();
            }
            (Residual::Sequential | Residual::Parallel, None) => self.settle(),
        }
        self.feed_forward(spec.feed_forward, weights);
        self.pending = post_norm(&weights.feed_forward_post_norm);
    }

    // Brings the residual stream up to date and normalises it: it becomes the next input, only
    // quantized if nobody reads it otherwise.
    fn normalise(&mut self, norm: Norm, weights: &NormWeights, quantized_only: bool) {
        let width = self.spec.width;
        let len = self.tokens() * width;
        let runtime = self.runtime;
        self.in_quantized = quantized_only;
        if !quantized_only {
            self.settle();
            let Scratch { residual, normed, .. } = &mut *self.scratch;
            return normalise_rows(runtime, self.team, norm, weights, &residual[..len], &mut normed[..len]);
        }
        let pending = self.pending.take();
        let Scratch { residual, projected, quantized, .. } = &mut *self.scratch;
        let (residual, projected) = (&mut residual[..len], &projected[..len]);
        quantized.fill(runtime.kernels, self.team, residual, width, |token, row, out| {
            let x = &projected[token * width..][..width];
            match pending {
                Some(Some((norm, weights))) => {
                    apply_norm(runtime, norm, weights, x, out);
                    add_assign(runtime.kernels, row, out);
                }
                Some(None) => add_assign(runtime.kernels, row, x),
                None => {}
            }
            apply_norm(runtime, norm, weights, row, out);
        });
    }

    // Adds what is pending to the residual stream.
    fn settle(&mut self) {
        let Some(post_norm) = self.pending.take() else { return };
        let (runtime, width) = (self.runtime, self.spec.width);
        let len = self.tokens() * width;
        let Scratch { residual, projected, room, .. } = &mut *self.scratch;
        if let Some((norm, weights)) = post_norm {
            room.resize(projected.len(), 0.0);
            normalise_rows(runtime, self.team, norm, weights, &projected[..len], &mut room[..len]);
            std::mem::swap(projected, room);
        }
        let projected = &projected[..len];
        self.team.rows(&mut residual[..len], width, |first, rows| {
            add_assign(runtime.kernels, rows, &projected[first * width..][..rows.len()]);
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
        let normed = if self.in_quantized { &[][..] } else { &normed[..tokens * width] };
        linears(
            self.runtime,
            self.team,
            normed,
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

    fn feed_forward(&mut self, spec: FeedForwardSpec, weights: &'a LayerWeights<Matrix>) {
        let (tokens, width, size) = (self.tokens(), self.spec.width, spec.size);
        let (runtime, team) = (self.runtime, self.team);
        let Scratch { normed, gate, up, projected, quantized, activated, .. } = &mut *self.scratch;
        let projected = &mut projected[..tokens * width];
        let x = if self.in_quantized { &[][..] } else { &normed[..tokens * width] };
        if self.in_quantized && read_quantized([&weights.down]) {
            let affine =
                |linear: &'a Linear<Matrix>| -> Affine<'a> { (&linear.matrix, linear.bias.as_deref()) };
            let input = Input { values: &[], quantized };
            let (gate, up) = (weights.gate.as_ref().map(affine), affine(&weights.up));
            gated(runtime.kernels, team, input, gate, up, spec.activation, activated);
            return linears(runtime, team, &[], activated, [&weights.down], [projected]);
        }
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
        linears(runtime, team, hidden, quantized, [&weights.down], [projected]);
    }

    /// Logits and hidden states of the tokens that they are wanted of.
    pub(crate) fn outputs(
        &mut self,
        norm: &NormWeights,
        matrix: &Matrix,
        bias: Option<&[f32]>,
        out: &mut Output,
    ) {
        self.normalise(self.spec.output_norm, norm, false);
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
        out.logits.resize(wanted * matrix.rows(), 0.0);
        if wanted == 0 {
            return;
        }
        let x = &projected[..wanted * width];
        if matrix.reads_quantized() {
            quantized.quantize(runtime.kernels, self.team, x, width);
        }
        matmul(runtime.kernels, self.team, Input { values: x, quantized }, [(matrix, &mut out.logits)]);
        add_bias(runtime, self.team, &mut out.logits, bias);
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

fn normalise_rows(
    runtime: &Runtime,
    team: &Team<'_>,
    norm: Norm,
    weights: &NormWeights,
    x: &[f32],
    out: &mut [f32],
) {
    let width = weights.weight.len();
    team.rows(out, width, |first, rows| {
        let x = x[first * width..].chunks_exact(width);
        for (out, x) in rows.chunks_exact_mut(width).zip(x) {
            apply_norm(runtime, norm, weights, x, out);
        }
    });
}

fn read_quantized<'w>(linears: impl IntoIterator<Item = &'w Linear<Matrix>>) -> bool {
    linears.into_iter().all(|linear| linear.matrix.reads_quantized())
}

/// Several linear maps of the same tokens, in one region: of `x`, which is quantized for them
/// where they need it, or of what is in `quantized`, if `x` is empty.
fn linears<const N: usize>(
    runtime: &Runtime,
    team: &Team<'_>,
    x: &[f32],
    quantized: &mut Activations,
    linears: [&Linear<Matrix>; N],
    mut outs: [&mut [f32]; N],
) {
    if !x.is_empty() && linears.iter().any(|linear| linear.matrix.reads_quantized()) {
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
