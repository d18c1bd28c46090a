//! A model on the processor: loading it, and the front of the forward pass.

use std::ops::Range;

use rz_kernels::{ActivationType, Runtime};
use rz_quant::Matrix;

use crate::arch::{self, Description};
use crate::attend::parts_room;
use crate::kv::KvStorage;
use crate::loading::{self, Loader, Loading};
use crate::pass::{Pass, Scratch};
use crate::weights::{LayerWeights, Weights};
use crate::{
    Batch, Forward, KvGroup, KvRoom, KvType, LoadProgress, ModelError, ModelSpec, Output, Placement, Source,
};

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Positions of the longest sequence, rounded up to whole blocks.
    pub context: usize,
    /// How much room there is for keys and values, over all sequences. Memory is taken as
    /// it is used.
    pub kv_room: KvRoom,
    /// Longest batch of one pass; at most 65,536.
    pub max_batch: usize,
    /// The type that keys and values are stored in.
    pub kv_type: KvType,
    /// The whole numbers that activations are quantized to, where weights are; without it,
    /// what suits the size of the model (see [`ModelSpec::activation_type`]).
    pub activations: Option<ActivationType>,
    /// Compute in `f32` throughout: activations are not quantized, keys and values are
    /// stored as `f32` whatever `kv_type` says. Slow, and as near to the definition as
    /// `f32` gets.
    pub exact: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            context: 4096,
            kv_room: KvRoom::Sequences(1),
            max_batch: 512,
            kv_type: KvType::F16,
            activations: None,
            exact: false,
        }
    }
}

const LONGEST_BATCH: usize = 1 << 16;

impl LoadOptions {
    /// The type that keys and values are stored in: `kv_type`, or `f32` where all is exact.
    pub fn stored_type(&self) -> KvType {
        if self.exact { KvType::F32 } else { self.kv_type }
    }

    /// The groups of layers, and the blocks of each, that a model loaded with these options has.
    ///
    /// # Errors
    /// When the bytes of [`KvRoom::Bytes`] are too few for one sequence of `context` positions, or
    /// the type does not take heads of the model's sizes.
    pub fn kv_groups(&self, spec: &ModelSpec) -> Result<Vec<KvGroup>, ModelError> {
        let max_batch = self.max_batch.clamp(1, LONGEST_BATCH);
        KvGroup::of(spec, self.stored_type(), self.context, max_batch, self.kv_room)
    }
}

/// A model whose weights and cache are in memory, run on the processor.
pub struct CpuModel {
    spec: ModelSpec,
    weights: Weights<Matrix>,
    /// Until all weights are in their places.
    loading: Option<Loading>,
    unused: Vec<String>,
    kv: KvStorage,
    max_batch: usize,
    runtime: Runtime,
    scratch: Scratch,
}

impl CpuModel {
    /// Loads a model.
    ///
    /// # Errors
    /// When the family, a hyper-parameter or a tensor is missing or not supported, or the
    /// system has no memory.
    pub fn load<'a>(
        source: impl Into<Source<'a>>,
        runtime: &Runtime,
        options: LoadOptions,
        progress: LoadProgress<'_>,
    ) -> Result<CpuModel, ModelError> {
        let mut model = CpuModel::start(source, runtime, options, Placement::default())?;
        if let Some(loader) = model.loader() {
            loader.run(progress);
        }
        model.finish_loading();
        Ok(model)
    }

    /// Opens a model whose weights get ready later: in the background by its
    /// [`loader`](Self::loader), if somebody runs that, and otherwise by the first pass, each
    /// layer just before it is used. Results are the same bits.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the weights are to be locked and the system refuses.
    pub fn start<'a>(
        source: impl Into<Source<'a>>,
        runtime: &Runtime,
        options: LoadOptions,
        placement: Placement,
    ) -> Result<CpuModel, ModelError> {
        let (spec, (weights, loading, unused)) = source.into().with_origin(|origin| {
            let Description { spec, .. } = arch::read(origin)?;
            let weights = loading::load(origin, &spec, runtime, options.exact, placement)?;
            Ok((spec, weights))
        })?;
        let loading = Some(loading);
        let max_batch = options.max_batch.clamp(1, LONGEST_BATCH);
        let kv = KvStorage::new(&spec, options.stored_type(), options.kv_groups(&spec)?)?;
        let activations =
            options.activations.unwrap_or_else(|| spec.activation_type(weights.are_super_blocks()));
        let threads = runtime.pool.threads().max(runtime.pool.batch_threads());
        let parts = parts_room(&spec, max_batch.min(2 * threads), options.context);
        let scratch = Scratch::new(&spec, max_batch, parts, activations);
        Ok(CpuModel { spec, weights, loading, unused, kv, max_batch, runtime: runtime.clone(), scratch })
    }

    /// Who gets the weights ready, for a thread in the background; `None` once all are.
    pub fn loader(&self) -> Option<Loader> {
        self.loading.as_ref().map(|loading| loading.loader(&self.runtime))
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
        let Weights { embedding, output, layers, .. } = &self.weights;
        let layers: usize = layers.iter().flat_map(LayerWeights::matrices).map(Matrix::bytes).sum();
        let kv = self.kv.kv_type().bytes(self.spec.kv_elements(positions));
        layers + output.as_ref().unwrap_or(embedding).bytes() + kv
    }

    /// Multiplications and additions of the products with the weights that the pass of one
    /// token takes, those of its logits included if they are wanted.
    pub fn macs_per_token(&self, logits: bool) -> usize {
        let size = |matrix: &Matrix| matrix.rows() * matrix.columns();
        let Weights { embedding, output, layers, .. } = &self.weights;
        let output = if logits { size(output.as_ref().unwrap_or(embedding)) } else { 0 };
        layers.iter().flat_map(LayerWeights::matrices).map(size).sum::<usize>() + output
    }

    /// Has all weights in their places, as after [`load`](Self::load).
    pub fn finish_loading(&mut self) {
        let CpuModel { weights, loading, runtime, .. } = self;
        if let Some(loading) = loading {
            let mut work = loading.take_over();
            runtime.pool.step(|team| {
                for (index, layer) in weights.layers.iter_mut().enumerate() {
                    work.finish(index, layer.matrices_mut(), runtime.kernels, team);
                }
                work.finish(weights.layers.len(), weights.output_mut(), runtime.kernels, team);
            });
        }
        self.forget_loading();
    }

    fn forget_loading(&mut self) {
        let _ = self.loading.take_if(|loading| loading.take_over().is_done());
    }
}

impl Forward for CpuModel {
    fn vocabulary(&self) -> usize {
        self.spec.vocabulary
    }

    fn layers(&self) -> usize {
        self.spec.layers.len()
    }

    fn kv_groups(&self) -> &[KvGroup] {
        self.kv.groups()
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn copy_block(&mut self, group: usize, from: u32, to: u32) {
        self.kv.copy_block(group, from, to);
    }

    fn read_block(&self, group: usize, block: u32, bytes: &mut Vec<u8>) {
        self.kv.read_block(group, block, bytes);
    }

    fn write_block(&mut self, group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError> {
        self.kv.write_block(group, block, bytes)
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        layers: Range<usize>,
        out: &mut Output,
    ) -> Result<(), ModelError> {
        batch.check(self.spec.vocabulary, self.kv.groups(), self.max_batch)?;
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
        let far = batch.positions.iter().find(|&&position| position as usize >= self.spec.context);
        if let Some(position) = far.filter(|_| self.spec.learned_positions) {
            let last = self.spec.context - 1;
            return Err(ModelError::Batch(format!("position {position}, but the model's last is {last}")));
        }
        let CpuModel { spec, weights, loading, kv, runtime, scratch, .. } = self;
        let mut work = loading.as_ref().map(Loading::take_over);
        let threads = if tokens == 1 { runtime.pool.threads() } else { runtime.pool.batch_threads() };
        let Weights { embedding, positions, layers: stack, output_norm, output, output_bias } = weights;
        let end = stack.len();
        runtime.pool.step_of(threads, |team| {
            let mut pass = Pass::new(runtime, team, batch, spec, scratch);
            if layers.start == 0 {
                pass.embed(embedding, positions.as_ref());
            } else {
                pass.residual().copy_from_slice(&out.residual);
            }
            for (index, layer) in layers.clone().zip(&mut stack[layers.clone()]) {
                if let Some(work) = &mut work {
                    work.finish(index, layer.matrices_mut(), runtime.kernels, team);
                }
                pass.layer(index, layer, kv);
            }
            if layers.end == end {
                let matrix = output.as_mut().unwrap_or(embedding);
                if let Some(work) = &mut work {
                    work.finish(end, std::iter::once(&mut *matrix), runtime.kernels, team);
                }
                pass.outputs(output_norm, matrix, output_bias.as_deref(), out);
            } else {
                out.residual.clear();
                out.residual.extend_from_slice(pass.residual());
            }
        });
        drop(work);
        self.forget_loading();
        Ok(())
    }
}
