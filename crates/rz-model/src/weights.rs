//! The weights of a model: found by name and checked against the description.

use std::collections::HashSet;
use std::ops::Range;

use rz_kernels::PANEL_ROWS;
use rz_quant::{DType, Matrix};

use crate::origin::{Change, Origin, Piece};
use crate::spec::{LayerSpec, NormKind};
use crate::{ModelError, ModelSpec};

/// Weights, with matrices of type `M`.
pub(crate) struct Weights<M> {
    pub(crate) embedding: M,
    pub(crate) positions: Option<M>,
    pub(crate) layers: Vec<LayerWeights<M>>,
    pub(crate) output_norm: NormWeights,
    /// `None`: the embedding serves as output, too.
    pub(crate) output: Option<M>,
    pub(crate) output_bias: Option<Vec<f32>>,
}

pub(crate) struct LayerWeights<M> {
    pub(crate) attention_norm: NormWeights,
    pub(crate) query: Linear<M>,
    pub(crate) key: Linear<M>,
    pub(crate) value: Linear<M>,
    pub(crate) query_norm: Option<NormWeights>,
    pub(crate) key_norm: Option<NormWeights>,
    pub(crate) attention_output: Linear<M>,
    pub(crate) attention_post_norm: Option<NormWeights>,
    /// `None`: the feed-forward network reads what attention reads.
    pub(crate) feed_forward_norm: Option<NormWeights>,
    pub(crate) gate: Option<Linear<M>>,
    pub(crate) up: Linear<M>,
    pub(crate) down: Linear<M>,
    pub(crate) feed_forward_post_norm: Option<NormWeights>,
}

pub(crate) struct NormWeights {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// A matrix, perhaps with a bias.
pub(crate) struct Linear<M> {
    pub(crate) matrix: M,
    pub(crate) bias: Option<Vec<f32>>,
}

/// Where in the weights a matrix has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Embedding,
    Positions,
    Layer(usize),
    Output,
}

/// A matrix that the model needs.
pub(crate) struct Planned {
    pub(crate) place: Place,
    pub(crate) piece: Piece,
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Whether only rows of it are looked up, so that nothing is gained by panels.
    pub(crate) rows_only: bool,
}

/// The weights that `spec` asks for, with what `make` makes of each matrix, in order of use.
pub(crate) fn load<M>(
    origin: &dyn Origin,
    spec: &ModelSpec,
    make: &mut dyn FnMut(Planned) -> Result<M, ModelError>,
) -> Result<Weights<M>, ModelError> {
    build(origin, spec, &mut HashSet::new(), make)
}

/// The matrices that `spec` asks for, in order of use, and the names of the tensors that the
/// model does not read. All are there, of the right shapes and of types that are supported.
pub(crate) fn plan(origin: &dyn Origin, spec: &ModelSpec) -> Result<(Vec<Planned>, Vec<String>), ModelError> {
    let mut plan = Vec::new();
    let mut used = HashSet::new();
    if let Some(piece) = origin.tensor("rope_freqs.weight") {
        used.insert(piece.tensor.name().to_owned());
    }
    build(origin, spec, &mut used, &mut |planned| {
        plan.push(planned);
        Ok(())
    })?;
    let unused = origin.names().into_iter().filter(|name| !used.contains(name)).collect();
    Ok((plan, unused))
}

impl<M> Weights<M> {
    /// The matrix that gives the logits.
    pub(crate) fn output_mut(&mut self) -> impl Iterator<Item = &mut M> {
        std::iter::once(self.output.as_mut().unwrap_or(&mut self.embedding))
    }
}

impl Weights<Matrix> {
    /// Whether most of the layers' weights are in super-blocks: of scales that have a scale themselves.
    pub(crate) fn are_super_blocks(&self) -> bool {
        const BLOCK: usize = 32;
        let (mut of_all, mut of_super) = (0, 0);
        for matrix in self.layers.iter().flat_map(LayerWeights::matrices) {
            let size = matrix.rows() * matrix.columns();
            of_all += size;
            of_super += if matrix.dtype().block_elements() > BLOCK { size } else { 0 };
        }
        2 * of_super > of_all
    }
}

impl<M> LayerWeights<M> {
    /// Its matrices in order of use.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &M> {
        let LayerWeights { query, key, value, attention_output, gate, up, down, .. } = self;
        let first = [query, key, value, attention_output].into_iter();
        first.chain(gate).chain([up, down]).map(|linear| &linear.matrix)
    }

    /// Its matrices in order of use.
    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut M> {
        let LayerWeights { query, key, value, attention_output, gate, up, down, .. } = self;
        let first = [query, key, value, attention_output].into_iter();
        first.chain(gate.as_mut()).chain([up, down]).map(|linear| &mut linear.matrix)
    }
}

// Walks every tensor that the description asks for, in order of use.
fn build<M>(
    origin: &dyn Origin,
    spec: &ModelSpec,
    used: &mut HashSet<String>,
    make: &mut dyn FnMut(Planned) -> Result<M, ModelError>,
) -> Result<Weights<M>, ModelError> {
    let mut walk = Walk { origin, used, make, place: Place::Embedding, rows_only: spec.untied_output };
    let (width, vocabulary) = (spec.width, spec.vocabulary);
    Ok(Weights {
        embedding: walk.matrix("token_embd.weight", vocabulary, width)?,
        positions: walk.when(spec.learned_positions, |walk| {
            walk.at(Place::Positions).matrix("position_embd.weight", spec.context, width)
        })?,
        layers: spec
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| walk.at(Place::Layer(index)).layer(index, layer, width))
            .collect::<Result<_, ModelError>>()?,
        output_norm: walk.norm("output_norm", spec.output_norm.kind, width)?,
        output: walk.when(spec.untied_output, |walk| {
            walk.at(Place::Output).matrix("output.weight", vocabulary, width)
        })?,
        output_bias: walk.when(spec.output_bias, |walk| walk.vector("output.bias", vocabulary))?,
    })
}

struct Walk<'a, M> {
    origin: &'a dyn Origin,
    used: &'a mut HashSet<String>,
    make: &'a mut dyn FnMut(Planned) -> Result<M, ModelError>,
    /// Of the matrices that come next.
    place: Place,
    rows_only: bool,
}

impl<M> Walk<'_, M> {
    fn at(&mut self, place: Place) -> &mut Self {
        (self.place, self.rows_only) = (place, place == Place::Positions);
        self
    }

    fn when<T>(
        &mut self,
        wanted: bool,
        find: impl FnOnce(&mut Self) -> Result<T, ModelError>,
    ) -> Result<Option<T>, ModelError> {
        if wanted { find(self).map(Some) } else { Ok(None) }
    }

    fn layer(&mut self, index: usize, spec: &LayerSpec, width: usize) -> Result<LayerWeights<M>, ModelError> {
        let name = |suffix: &str| format!("blk.{index}.{suffix}");
        let attention = &spec.attention;
        let queries = attention.heads * attention.key_size;
        let keys = attention.kv_heads * attention.key_size;
        let values = attention.kv_heads * attention.value_size;
        let gathered = attention.heads * attention.value_size;
        let size = spec.feed_forward.size;
        let (kind, bias) = (spec.norm.kind, spec.feed_forward.bias);
        let own_norm =
            spec.residual == crate::spec::Residual::Sequential || self.origin.has(&name("ffn_norm.weight"));
        let attention_norm = self.norm(&name("attn_norm"), kind, width)?;
        let [query, key, value] =
            self.attention_inputs(index, [queries, keys, values], width, attention.input_bias)?;
        Ok(LayerWeights {
            attention_norm,
            query,
            key,
            value,
            query_norm: self.when(attention.head_norms, |walk| {
                walk.norm(&name("attn_q_norm"), kind, attention.key_size)
            })?,
            key_norm: self.when(attention.head_norms, |walk| {
                walk.norm(&name("attn_k_norm"), kind, attention.key_size)
            })?,
            attention_output: self.linear(&name("attn_output"), width, gathered, attention.output_bias)?,
            attention_post_norm: self
                .when(spec.post_norms, |walk| walk.norm(&name("post_attention_norm"), kind, width))?,
            feed_forward_norm: self.when(own_norm, |walk| walk.norm(&name("ffn_norm"), kind, width))?,
            gate: self
                .when(spec.feed_forward.gated, |walk| walk.linear(&name("ffn_gate"), size, width, bias))?,
            up: self.linear(&name("ffn_up"), size, width, bias)?,
            down: self.linear(&name("ffn_down"), width, size, bias)?,
            feed_forward_post_norm: self
                .when(spec.post_norms, |walk| walk.norm(&name("post_ffw_norm"), kind, width))?,
        })
    }

    // Q, K and V: three matrices, or three ranges of rows of one.
    fn attention_inputs(
        &mut self,
        index: usize,
        rows: [usize; 3],
        columns: usize,
        bias: bool,
    ) -> Result<[Linear<M>; 3], ModelError> {
        let fused = format!("blk.{index}.attn_qkv");
        if !self.origin.has(&format!("{fused}.weight")) {
            let mut linear =
                |name: &str, rows: usize| self.linear(&format!("blk.{index}.{name}"), rows, columns, bias);
            return Ok([linear("attn_q", rows[0])?, linear("attn_k", rows[1])?, linear("attn_v", rows[2])?]);
        }
        let total: usize = rows.iter().sum();
        let biases = self.bias(&fused, total, bias)?;
        let mut start = 0;
        let mut part = |rows: usize| {
            let range = start..start + rows;
            start += rows;
            let matrix = self.rows(&format!("{fused}.weight"), total, columns, range.clone())?;
            Ok::<_, ModelError>(Linear { matrix, bias: biases.as_ref().map(|biases| biases[range].to_vec()) })
        };
        Ok([part(rows[0])?, part(rows[1])?, part(rows[2])?])
    }

    fn tensor(&mut self, name: &str) -> Result<Piece, ModelError> {
        let Some(piece) = self.origin.tensor(name) else {
            let file = self.origin.metadata().file().to_owned();
            return Err(ModelError::MissingTensor { file, tensor: self.origin.tensor_name(name) });
        };
        self.used.insert(piece.tensor.name().to_owned());
        Ok(piece)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<M, ModelError> {
        self.rows(name, rows, columns, 0..rows)
    }

    fn rows(&mut self, name: &str, all: usize, columns: usize, range: Range<usize>) -> Result<M, ModelError> {
        let mut piece = self.tensor(name)?;
        check_shape(&piece, &[columns as u64, all as u64])?;
        let (place, rows_only, dtype) = (self.place, self.rows_only, piece.matrix_dtype()?);
        if piece.is_packed() && !range.start.is_multiple_of(PANEL_ROWS) {
            return Err(ModelError::PackedParts {
                file: piece.tensor.mapping().file().to_owned(),
                tensor: piece.tensor.name().to_owned(),
                row: range.start,
            });
        }
        let rows = range.len();
        piece.rows = Some(range);
        (self.make)(Planned { place, piece, dtype, rows, columns, rows_only })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let piece = self.tensor(name)?;
        vector(&piece, len)
    }

    fn norm(&mut self, stem: &str, kind: NormKind, len: usize) -> Result<NormWeights, ModelError> {
        let weight = self.vector(&format!("{stem}.weight"), len)?;
        let bias = self.bias(stem, len, kind == NormKind::Layer)?;
        Ok(NormWeights { weight, bias })
    }

    fn linear(
        &mut self,
        stem: &str,
        rows: usize,
        columns: usize,
        bias: bool,
    ) -> Result<Linear<M>, ModelError> {
        let matrix = self.matrix(&format!("{stem}.weight"), rows, columns)?;
        let bias = self.bias(stem, rows, bias)?;
        Ok(Linear { matrix, bias })
    }

    // Descriptions are made from the family and the first layer: a bias that only a later one
    // has is not in them.
    fn bias(&mut self, stem: &str, len: usize, wanted: bool) -> Result<Option<Vec<f32>>, ModelError> {
        let name = format!("{stem}.bias");
        if !wanted && self.origin.has(&name) {
            let file = self.origin.metadata().file().to_owned();
            return Err(ModelError::UnexpectedTensor { file, tensor: self.origin.tensor_name(&name) });
        }
        self.when(wanted, |walk| walk.vector(&name, len))
    }
}

/// The values of a vector of `len` elements.
pub(crate) fn vector(piece: &Piece, len: usize) -> Result<Vec<f32>, ModelError> {
    check_shape(piece, &[len as u64])?;
    let dtype = piece.dtype()?;
    let mut values = vec![0.0; len];
    match piece.change {
        Change::None => dtype.decode(piece.tensor.bytes(), &mut values),
        // In f32: a half-precision difference from 1 would lose bits.
        Change::AddOne => {
            dtype.decode(piece.tensor.bytes(), &mut values);
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        Change::PairRows(_) | Change::Transpose => {
            dtype.decode(piece.bytes(dtype, 1).as_ref(), &mut values);
        }
    }
    Ok(values)
}

// Trailing dimensions of 1 are the same tensor.
fn check_shape(piece: &Piece, expected: &[u64]) -> Result<(), ModelError> {
    let found = piece.shape();
    let trimmed = |shape: &[u64]| shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    if found[..trimmed(&found)] == expected[..trimmed(expected)] {
        return Ok(());
    }
    Err(ModelError::TensorShape {
        file: piece.tensor.mapping().file().to_owned(),
        tensor: piece.tensor.name().to_owned(),
        found,
        expected: expected.to_owned(),
    })
}
