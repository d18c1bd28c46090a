//! The weights of a model: found by name, checked against the description, packed.

use std::collections::HashSet;
use std::sync::Arc;

use rz_formats::{Gguf, Tensor};
use rz_kernels::{Arena, Runtime};
use rz_quant::{DType, Matrix, ShapeError, pack};

use crate::{ModelError, ModelSpec};

/// Weights, with matrices of type `M`.
pub(crate) struct Weights<M> {
    pub(crate) embedding: M,
    pub(crate) output_norm: Vec<f32>,
    /// `None`: the embedding serves as output, too.
    pub(crate) output: Option<M>,
    pub(crate) layers: Vec<LayerWeights<M>>,
}

pub(crate) struct LayerWeights<M> {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Linear<M>,
    pub(crate) key: Linear<M>,
    pub(crate) value: Linear<M>,
    pub(crate) attention_output: Linear<M>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Linear<M>,
    pub(crate) up: Linear<M>,
    pub(crate) down: Linear<M>,
}

/// A matrix, with a bias where the file has one.
pub(crate) struct Linear<M> {
    pub(crate) matrix: M,
    pub(crate) bias: Option<Vec<f32>>,
}

/// Progress of loading: bytes of weights that are ready, of how many.
pub type LoadProgress<'a> = &'a mut dyn FnMut(usize, usize);

/// Loads the weights that `spec` asks for. Matrices of types with a panel kind are
/// packed into memory of their own (unless `exact`), and their pages of the file given
/// back; the others stay in the file.
///
/// Returns the names of the file's tensors that the model does not read, too.
pub(crate) fn load(
    gguf: &Gguf,
    spec: &ModelSpec,
    runtime: &Runtime,
    exact: bool,
    progress: LoadProgress<'_>,
) -> Result<(Weights<Matrix>, Vec<String>), ModelError> {
    let mut plan = Vec::new();
    let mut used: HashSet<String> = HashSet::new();
    used.insert("rope_freqs.weight".to_owned());
    build(gguf, spec, &mut used, &mut |tensor, rows, columns| {
        let dtype = supported_type(gguf, tensor)?;
        plan.push(Planned { tensor: tensor.clone(), dtype, rows, columns });
        Ok(())
    })?;
    let mut matrices = materialise(plan, runtime, exact, progress)?.into_iter();
    let weights = build(gguf, spec, &mut used, &mut |_, _, _| {
        Ok(matrices.next().expect("the second walk visits what the first has planned"))
    })?;
    let unused = gguf.tensors().map(|tensor| tensor.name()).filter(|name| !used.contains(*name));
    Ok((weights, unused.map(str::to_owned).collect()))
}

struct Planned {
    tensor: Tensor,
    dtype: DType,
    rows: usize,
    columns: usize,
}

impl Planned {
    fn packed_bytes(&self, exact: bool) -> Option<usize> {
        if exact { None } else { Matrix::packed_bytes(self.dtype, self.rows, self.columns) }
    }
}

// All packed matrices lie in one reservation, each at a 64-byte boundary.
fn materialise(
    plan: Vec<Planned>,
    runtime: &Runtime,
    exact: bool,
    progress: LoadProgress<'_>,
) -> Result<Vec<Matrix>, ModelError> {
    const ALIGN: usize = 64;
    let room = |item: &Planned| item.packed_bytes(exact).map_or(0, |bytes| bytes.next_multiple_of(ALIGN));
    let total: usize = plan.iter().map(room).sum();
    let purpose = "the packed weights";
    let mut arena = Arena::new(total).map_err(|cause| ModelError::Memory { bytes: total, purpose, cause })?;
    plan.iter().for_each(|item| item.tensor.prefetch());

    let mut ranges = Vec::with_capacity(plan.len());
    let mut start = 0;
    runtime.pool.step(|team| {
        for item in &plan {
            let Some(bytes) = item.packed_bytes(exact) else {
                ranges.push(None);
                continue;
            };
            let range = start..start + bytes;
            pack(team, item.dtype, item.rows, item.columns, item.tensor.bytes(), &mut arena[range.clone()])?;
            item.tensor.release();
            ranges.push(Some(range));
            start += room(item);
            progress(start, total);
        }
        Ok::<_, ShapeError>(())
    })?;

    let arena = Arc::new(arena);
    plan.into_iter()
        .zip(ranges)
        .map(|(item, range)| match range {
            Some(range) => Ok(Matrix::from_panels(item.dtype, item.rows, item.columns, arena.clone(), range)),
            None => Ok(Matrix::from_blocks(item.dtype, item.rows, item.columns, Box::new(item.tensor))?),
        })
        .collect()
}

// Walks every tensor that the description asks for, in order of use.
fn build<M>(
    gguf: &Gguf,
    spec: &ModelSpec,
    used: &mut HashSet<String>,
    matrix: &mut dyn FnMut(&Tensor, usize, usize) -> Result<M, ModelError>,
) -> Result<Weights<M>, ModelError> {
    let mut walk = Walk { gguf, used, matrix };
    Ok(Weights {
        embedding: walk.matrix("token_embd.weight", spec.vocabulary, spec.width)?,
        layers: spec
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                let name = |suffix: &str| format!("blk.{index}.{suffix}");
                let width = spec.width;
                let attention = &layer.attention;
                let queries = attention.heads * attention.key_size;
                let keys = attention.kv_heads * attention.key_size;
                let values = attention.kv_heads * attention.value_size;
                let gathered = attention.heads * attention.value_size;
                Ok(LayerWeights {
                    attention_norm: walk.vector(&name("attn_norm.weight"), width)?,
                    query: walk.linear(&name("attn_q"), queries, width)?,
                    key: walk.linear(&name("attn_k"), keys, width)?,
                    value: walk.linear(&name("attn_v"), values, width)?,
                    attention_output: walk.linear(&name("attn_output"), width, gathered)?,
                    feed_forward_norm: walk.vector(&name("ffn_norm.weight"), width)?,
                    gate: walk.linear(&name("ffn_gate"), layer.feed_forward, width)?,
                    up: walk.linear(&name("ffn_up"), layer.feed_forward, width)?,
                    down: walk.linear(&name("ffn_down"), width, layer.feed_forward)?,
                })
            })
            .collect::<Result<_, ModelError>>()?,
        output_norm: walk.vector("output_norm.weight", spec.width)?,
        output: match gguf.tensor("output.weight") {
            Some(_) => Some(walk.matrix("output.weight", spec.vocabulary, spec.width)?),
            None => None,
        },
    })
}

struct Walk<'a, M> {
    gguf: &'a Gguf,
    used: &'a mut HashSet<String>,
    matrix: &'a mut dyn FnMut(&Tensor, usize, usize) -> Result<M, ModelError>,
}

impl<'a, M> Walk<'a, M> {
    fn tensor(&mut self, name: &str) -> Result<&'a Tensor, ModelError> {
        let Some(tensor) = self.gguf.tensor(name) else {
            return Err(ModelError::MissingTensor { file: self.file(), tensor: name.to_owned() });
        };
        self.used.insert(name.to_owned());
        Ok(tensor)
    }

    fn file(&self) -> std::path::PathBuf {
        self.gguf.metadata().file().to_owned()
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<M, ModelError> {
        let tensor = self.tensor(name)?;
        check_shape(self.gguf, tensor, &[columns as u64, rows as u64])?;
        (self.matrix)(tensor, rows, columns)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name)?;
        vector(self.gguf, tensor, len)
    }

    fn linear(&mut self, stem: &str, rows: usize, columns: usize) -> Result<Linear<M>, ModelError> {
        let matrix = self.matrix(&format!("{stem}.weight"), rows, columns)?;
        let bias = format!("{stem}.bias");
        let bias = match self.gguf.tensor(&bias) {
            Some(_) => Some(self.vector(&bias, rows)?),
            None => None,
        };
        Ok(Linear { matrix, bias })
    }
}

/// The values of a vector of `len` elements.
pub(crate) fn vector(gguf: &Gguf, tensor: &Tensor, len: usize) -> Result<Vec<f32>, ModelError> {
    check_shape(gguf, tensor, &[len as u64])?;
    let dtype = supported_type(gguf, tensor)?;
    let mut values = vec![0.0; len];
    dtype.decode(tensor.bytes(), &mut values);
    Ok(values)
}

// Trailing dimensions of 1 are the same tensor.
fn check_shape(gguf: &Gguf, tensor: &Tensor, expected: &[u64]) -> Result<(), ModelError> {
    let found = tensor.shape();
    let trimmed = |shape: &[u64]| shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    if found[..trimmed(found)] == expected[..trimmed(expected)] {
        return Ok(());
    }
    Err(ModelError::TensorShape {
        file: gguf.metadata().file().to_owned(),
        tensor: tensor.name().to_owned(),
        found: found.to_owned(),
        expected: expected.to_owned(),
    })
}

fn supported_type(gguf: &Gguf, tensor: &Tensor) -> Result<DType, ModelError> {
    tensor.dtype().ok_or_else(|| ModelError::TensorType {
        file: gguf.metadata().file().to_owned(),
        tensor: tensor.name().to_owned(),
        found: tensor.tensor_type().name().to_owned(),
        supported: DType::ALL.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", "),
    })
}
