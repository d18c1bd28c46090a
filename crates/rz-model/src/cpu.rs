//! The forward pass on the processor.

use std::ops::Range;

use rz_formats::Gguf;
use rz_kernels::{
    Activations, KvElement, PANEL_COLUMNS, QUERIES, Query, Runtime, Split, Team, add_assign, attend,
    rms_norm, rotate_pairs, silu_mul,
};
use rz_quant::{Input, Matrix, matmul};

use crate::kv::{KvStorage, LayerView};
use crate::spec::{AttentionSpec, LayerSpec, Norm, Rope};
use crate::weights::{self, LayerWeights, Linear, Weights};
use crate::{Batch, Forward, KV_BLOCK, KvType, LoadProgress, ModelError, ModelSpec, Output, Want};

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Positions that keys and values are reserved for, over all sequences; rounded up
    /// to whole blocks. Memory is taken as they are used.
    pub context: usize,
    /// Longest batch of one pass.
    pub max_batch: usize,
    /// The type that keys and values are stored in.
    pub kv_type: KvType,
    /// Compute in `f32` throughout: activations are not quantized, keys and values are
    /// stored as `f32` whatever `kv_type` says. Slow, and as near to the definition as
    /// `f32` gets.
    pub exact: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions { context: 4096, max_batch: 512, kv_type: KvType::F16, exact: false }
    }
}

/// A model whose weights and cache are in memory, run on the processor.
pub struct CpuModel {
    spec: ModelSpec,
    weights: Weights<Matrix>,
    unused: Vec<String>,
    kv: KvStorage,
    max_batch: usize,
    runtime: Runtime,
    scratch: Scratch,
}

/// The buffers of a pass, made once for the longest batch.
struct Scratch {
    residual: Vec<f32>,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    gathered: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    quantized: Activations,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl CpuModel {
    /// Loads the model in `gguf`.
    ///
    /// # Errors
    /// When the family, a hyper-parameter or a tensor is missing or not supported, or the
    /// system has no memory.
    pub fn load(
        gguf: &Gguf,
        runtime: &Runtime,
        options: LoadOptions,
        progress: LoadProgress<'_>,
    ) -> Result<CpuModel, ModelError> {
        let spec = ModelSpec::from_gguf(gguf)?;
        let (weights, unused) = weights::load(gguf, &spec, runtime, options.exact, progress)?;
        let kv_type = if options.exact { KvType::F32 } else { options.kv_type };
        let kv = KvStorage::new(&spec, kv_type, options.context.max(1).div_ceil(KV_BLOCK))?;
        let max_batch = options.max_batch.max(1);
        let scratch = Scratch::new(&spec, max_batch);
        Ok(CpuModel { spec, weights, unused, kv, max_batch, runtime: runtime.clone(), scratch })
    }

    /// The description of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Tensors of the file that the model does not read.
    pub fn unused_tensors(&self) -> &[String] {
        &self.unused
    }

    /// Bytes that the pass of one token reads: the weights, and the keys and values of
    /// the `positions` before it.
    pub fn bytes_per_token(&self, positions: usize) -> usize {
        let Weights { embedding, output, layers, output_norm } = &self.weights;
        let matrices = |layer: &LayerWeights<Matrix>| {
            let LayerWeights { query, key, value, attention_output, gate, up, down, .. } = layer;
            [query, key, value, attention_output, gate, up, down].map(|linear| linear.matrix.bytes())
        };
        let layers: usize = layers.iter().flat_map(matrices).sum();
        let kv = self.spec.kv_elements() * self.kv.kv_type().bytes() * positions;
        layers + output.as_ref().unwrap_or(embedding).bytes() + size_of_val(&output_norm[..]) + kv
    }
}

impl Scratch {
    fn new(spec: &ModelSpec, tokens: usize) -> Scratch {
        let most = |size: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(size).max().unwrap_or(0);
        let buffer = |size: usize| vec![0.0; tokens * size];
        let gathered = most(&|layer| layer.attention.heads * layer.attention.value_size);
        let rotated = most(&|layer| layer.attention.rope.frequencies.len());
        Scratch {
            residual: buffer(spec.width),
            normed: buffer(spec.width),
            queries: buffer(most(&|layer| layer.attention.heads * layer.attention.key_size)),
            keys: buffer(most(&|layer| layer.attention.kv_heads * layer.attention.key_size)),
            values: buffer(most(&|layer| layer.attention.kv_heads * layer.attention.value_size)),
            gathered: buffer(gathered),
            projected: buffer(spec.width),
            gate: buffer(most(&|layer| layer.feed_forward)),
            up: buffer(most(&|layer| layer.feed_forward)),
            quantized: Activations::default(),
            cosines: buffer(rotated),
            sines: buffer(rotated),
        }
    }
}

impl Forward for CpuModel {
    fn vocabulary(&self) -> usize {
        self.spec.vocabulary
    }

    fn layers(&self) -> usize {
        self.spec.layers.len()
    }

    fn kv_blocks(&self) -> usize {
        self.kv.blocks()
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        layers: Range<usize>,
        out: &mut Output,
    ) -> Result<(), ModelError> {
        batch.check(self.spec.vocabulary, self.kv.blocks(), self.max_batch)?;
        let (tokens, width) = (batch.tokens.len(), self.spec.width);
        if layers.start > layers.end || layers.end > self.layers() {
            return Err(ModelError::Batch(format!("layers {layers:?} of {}", self.layers())));
        }
        if layers.start > 0 && out.residual.len() != tokens * width {
            return Err(ModelError::Batch(format!(
                "a residual of {} values, expected {tokens} x {width}",
                out.residual.len()
            )));
        }
        let CpuModel { spec, weights, kv, runtime, scratch, .. } = self;
        runtime.pool.step(|team| {
            let mut pass = Pass { runtime, team, batch, scratch };
            if layers.start == 0 {
                pass.embed(&weights.embedding, width);
            } else {
                pass.scratch.residual[..tokens * width].copy_from_slice(&out.residual);
            }
            for index in layers.clone() {
                pass.layer(index, &spec.layers[index], width, &weights.layers[index], kv);
            }
            if layers.end == spec.layers.len() {
                let matrix = weights.output.as_ref().unwrap_or(&weights.embedding);
                pass.outputs(spec.output_norm, &weights.output_norm, matrix, out);
            } else {
                out.residual.clear();
                out.residual.extend_from_slice(&pass.scratch.residual[..tokens * width]);
            }
        });
        Ok(())
    }
}

/// One pass over one batch.
struct Pass<'a, 't> {
    runtime: &'a Runtime,
    team: &'a Team<'t>,
    batch: &'a Batch<'a>,
    scratch: &'a mut Scratch,
}

impl Pass<'_, '_> {
    fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }

    fn embed(&mut self, embedding: &Matrix, width: usize) {
        let tokens = self.batch.tokens;
        self.team.rows(&mut self.scratch.residual[..tokens.len() * width], width, |first, rows| {
            for (row, &token) in rows.chunks_exact_mut(width).zip(&tokens[first..]) {
                embedding.row(token as usize, row);
            }
        });
    }

    fn layer(
        &mut self,
        index: usize,
        spec: &LayerSpec,
        width: usize,
        weights: &LayerWeights<Matrix>,
        kv: &mut KvStorage,
    ) {
        self.normalise(spec.norm, &weights.attention_norm);
        self.attention(index, &spec.attention, width, weights, kv);
        self.add_to_residual(width);
        self.normalise(spec.norm, &weights.feed_forward_norm);
        self.feed_forward(spec.feed_forward, width, weights);
        self.add_to_residual(width);
    }

    fn normalise(&mut self, norm: Norm, weight: &[f32]) {
        let (kernels, width) = (self.runtime.kernels, weight.len());
        let len = self.tokens() * width;
        let residual = &self.scratch.residual[..len];
        self.team.rows(&mut self.scratch.normed[..len], width, |first, rows| {
            let residual = residual[first * width..].chunks_exact(width);
            for (out, x) in rows.chunks_exact_mut(width).zip(residual) {
                rms_norm(kernels, x, weight, norm.epsilon, out);
            }
        });
    }

    fn add_to_residual(&mut self, width: usize) {
        let len = self.tokens() * width;
        let projected = &self.scratch.projected[..len];
        self.team.rows(&mut self.scratch.residual[..len], width, |first, rows| {
            add_assign(rows, &projected[first * width..][..rows.len()]);
        });
    }

    fn attention(
        &mut self,
        index: usize,
        spec: &AttentionSpec,
        width: usize,
        weights: &LayerWeights<Matrix>,
        kv: &mut KvStorage,
    ) {
        let tokens = self.tokens();
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
        self.rotate(spec);
        kv.write(self.team, index, self.batch, &self.scratch.keys[..keys], &self.scratch.values[..values]);
        match kv.kv_type() {
            KvType::F16 => self.attend(spec, &kv.layer::<half::f16>(index)),
            KvType::F32 => self.attend(spec, &kv.layer::<f32>(index)),
        }
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

    // Turns queries and keys to their positions, and scales the queries.
    fn rotate(&mut self, spec: &AttentionSpec) {
        let tokens = self.tokens();
        let Scratch { queries, keys, cosines, sines, .. } = &mut *self.scratch;
        let pairs = spec.rope.frequencies.len();
        angles(&spec.rope, self.batch.positions, cosines, sines);
        let (cosines, sines) = (&cosines[..tokens * pairs], &sines[..tokens * pairs]);
        for (rows, heads, scale) in [(queries, spec.heads, Some(spec.scale)), (keys, spec.kv_heads, None)] {
            let row = heads * spec.key_size;
            self.team.rows(&mut rows[..tokens * row], row, |first, rows| {
                for (i, row) in rows.chunks_exact_mut(row).enumerate() {
                    let angles = (first + i) * pairs..(first + i + 1) * pairs;
                    for head in row.chunks_exact_mut(spec.key_size) {
                        rotate_pairs(head, &cosines[angles.clone()], &sines[angles.clone()]);
                        if let Some(scale) = scale {
                            head.iter_mut().for_each(|x| *x *= scale);
                        }
                    }
                }
            });
        }
    }

    fn attend<E: KvElement>(&mut self, spec: &AttentionSpec, kv: &LayerView<'_, E>) {
        let (kernels, batch, tokens) = (self.runtime.kernels, self.batch, self.tokens());
        let group = spec.heads / spec.kv_heads;
        let (query_row, out_row) = (spec.heads * spec.key_size, spec.heads * spec.value_size);
        let queries = &self.scratch.queries[..tokens * query_row];
        let query = |token: usize, head: usize| {
            let q = &queries[token * query_row + head * spec.key_size..][..spec.key_size];
            Query { q, first: 0, end: batch.positions[token] as usize + 1 }
        };
        let view =
            |token: usize, kv_head: usize| kv.head(kv_head, batch.tables[batch.sequences[token] as usize]);
        let gathered = &mut self.scratch.gathered[..tokens * out_row];
        if tokens < 2 * self.team.threads() {
            // Few tokens: the KV heads are shared out.
            let grain = group * spec.value_size;
            self.team.columns([Split { data: gathered, columns: out_row, grain }], |_, mut out| {
                let heads = out.columns().start / grain..out.columns().end / grain;
                for token in 0..tokens {
                    for (kv_head, out) in heads.clone().zip(out.row(token).chunks_exact_mut(grain)) {
                        for (i, out) in out.chunks_mut(QUERIES * spec.value_size).enumerate() {
                            let first = kv_head * group + i * QUERIES;
                            let mut tile = [Query::default(); QUERIES];
                            let count = out.len() / spec.value_size;
                            (0..count).for_each(|j| tile[j] = query(token, first + j));
                            attend(kernels, view(token, kv_head), &tile[..count], out);
                        }
                    }
                }
            });
            return;
        }
        self.team.rows(gathered, out_row, |first, rows| {
            let last = first + rows.len() / out_row;
            let mut results = [0.0; QUERIES * rz_kernels::MAX_HEAD];
            for kv_head in 0..spec.kv_heads {
                // Heads of a group and neighbouring tokens of a sequence read the same
                // keys and values, so they go together.
                let mut tile = [(0, 0); QUERIES];
                let mut count = 0;
                let mut flush = |tile: &[(usize, usize)]| {
                    let Some(&(token, _)) = tile.first() else { return };
                    let mut rows_of_tile = [Query::default(); QUERIES];
                    for (row, &(token, head)) in rows_of_tile.iter_mut().zip(tile) {
                        *row = query(token, head);
                    }
                    let results = &mut results[..tile.len() * spec.value_size];
                    attend(kernels, view(token, kv_head), &rows_of_tile[..tile.len()], results);
                    for (&(token, head), result) in tile.iter().zip(results.chunks_exact(spec.value_size)) {
                        let at = (token - first) * out_row + head * spec.value_size;
                        rows[at..at + spec.value_size].copy_from_slice(result);
                    }
                };
                for token in first..last {
                    for head in kv_head * group..(kv_head + 1) * group {
                        let together = count > 0
                            && batch.sequences[tile[0].0] == batch.sequences[token]
                            && count < QUERIES;
                        if !together {
                            flush(&tile[..count]);
                            count = 0;
                        }
                        tile[count] = (token, head);
                        count += 1;
                    }
                }
                flush(&tile[..count]);
            }
        });
    }

    fn feed_forward(&mut self, size: usize, width: usize, weights: &LayerWeights<Matrix>) {
        let (tokens, kernels) = (self.tokens(), self.runtime.kernels);
        let Scratch { normed, gate, up, projected, quantized, .. } = &mut *self.scratch;
        let (gate, up) = (&mut gate[..tokens * size], &mut up[..tokens * size]);
        let x = &normed[..tokens * width];
        linears(self.runtime, self.team, x, quantized, [&weights.gate, &weights.up], [gate, up]);
        self.team.rows(gate, size, |first, rows| silu_mul(kernels, rows, &up[first * size..][..rows.len()]));
        let out = &mut projected[..tokens * width];
        linears(self.runtime, self.team, gate, quantized, [&weights.down], [out]);
    }

    // Logits and hidden states of the tokens that they are wanted of.
    fn outputs(&mut self, norm: Norm, weight: &[f32], matrix: &Matrix, out: &mut Output) {
        self.normalise(norm, weight);
        let width = weight.len();
        let Scratch { normed, projected, quantized, .. } = &mut *self.scratch;
        out.hidden.clear();
        out.logits.clear();
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
        if wanted > 0 {
            out.logits.resize(wanted * matrix.rows(), 0.0);
            let x = &projected[..wanted * width];
            if matrix.reads_quantized() {
                quantized.quantize(self.runtime.kernels, self.team, x, width);
            }
            let input = Input { values: x, quantized };
            matmul(self.runtime.kernels, self.team, input, [(matrix, &mut out.logits)]);
        }
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
    let columns = linears[0].matrix.columns();
    if linears.iter().any(|linear| linear.matrix.reads_quantized()) {
        debug_assert!(columns.is_multiple_of(PANEL_COLUMNS));
        quantized.quantize(runtime.kernels, team, x, columns);
    }
    let mut index = 0;
    let products = outs.each_mut().map(|out| {
        index += 1;
        (&linears[index - 1].matrix, &mut **out)
    });
    matmul(runtime.kernels, team, Input { values: x, quantized }, products);
    for (linear, out) in linears.into_iter().zip(outs) {
        let Some(bias) = &linear.bias else { continue };
        team.rows(out, bias.len(), |_, rows| {
            rows.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias));
        });
    }
}

// Angles grow with the position: only in f64 do far positions keep their fraction.
fn angles(rope: &Rope, positions: &[u32], cosines: &mut [f32], sines: &mut [f32]) {
    let pairs = rope.frequencies.len();
    let rows = cosines.chunks_exact_mut(pairs.max(1)).zip(sines.chunks_exact_mut(pairs.max(1)));
    for (&position, (cosines, sines)) in positions.iter().zip(rows) {
        for ((frequency, cos), sin) in rope.frequencies.iter().zip(cosines).zip(sines) {
            let (s, c) = (f64::from(position) * frequency).sin_cos();
            (*cos, *sin) = (c as f32, s as f32);
        }
    }
}
