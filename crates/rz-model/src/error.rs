//! Why a model cannot be loaded or run, said in one line.

use std::path::PathBuf;

use rz_formats::FormatError;
use rz_quant::ShapeError;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The container is broken or lacks a key.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file describes a family of models that is not known.
    #[error("{}: architecture {found:?} is not supported; supported are {supported}", file.display())]
    Architecture {
        /// The file.
        file: PathBuf,
        /// Its `general.architecture`.
        found: String,
        /// The names that are known.
        supported: String,
    },
    /// A hyper-parameter whose value cannot be right or is not supported.
    #[error("{}: {key} is {found}, expected {expected}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What the value must be.
        expected: String,
    },
    /// A hyper-parameter that changes results and that this family does not have.
    #[error(
        "{}: {key} is {found}, which models of the {family} family are not run with here: \
         refused, since ignoring it would give wrong output", file.display()
    )]
    Ignored {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// The family.
        family: &'static str,
    },
    /// A tensor that the model needs is not in the file.
    #[error("{}: tensor {tensor:?} is missing: the file is incomplete, fetch or convert it again", file.display())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that changes results and that the model has no use for.
    #[error(
        "{}: tensor {tensor:?} has no place in a model whose first layer and family are like this: refused, \
         since ignoring it would give wrong output", file.display()
    )]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose shape is not the one that the hyper-parameters ask for.
    #[error("{}: tensor {tensor:?} has shape {found:?}, expected {expected:?}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape, the contiguous dimension first.
        found: Vec<u64>,
        /// The shape that the model needs.
        expected: Vec<u64>,
    },
    /// A tensor whose element type cannot be computed with.
    #[error("{}: tensor {tensor:?} is of type {found}, which is not supported; supported are {supported}", file.display())]
    TensorType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's name.
        found: String,
        /// The types that are supported.
        supported: String,
    },
    /// A packed tensor of which the model needs rows that do not start with a panel.
    #[error(
        "{}: tensor {tensor:?} is packed, and the model needs a part of it from row {row} on, where no panel starts: \
         pack the model again (rz pack)", file.display()
    )]
    PackedParts {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first row of the part.
        row: usize,
    },
    /// The system does not let the weights stay in memory.
    #[error("cannot lock {bytes} bytes of weights in memory: {cause}")]
    Lock {
        /// Bytes of the weights.
        bytes: usize,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The bytes of a tensor are not those of its matrix.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The system has no memory for the weights or the cache.
    #[error("cannot reserve {bytes} bytes for {purpose}: {cause}")]
    Memory {
        /// Bytes that were asked for.
        bytes: usize,
        /// What for.
        purpose: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The room for keys and values does not hold one sequence.
    #[error(
        "{bytes} bytes for keys and values are too few: a context of {context} tokens takes {needed}; \
         give more, or choose a smaller context"
    )]
    KvRoom {
        /// Bytes that were granted.
        bytes: usize,
        /// Bytes that one sequence takes.
        needed: usize,
        /// Its positions.
        context: usize,
    },
    /// The type that keys and values are to be stored in does not take the model's heads.
    #[error(
        "keys and values cannot be stored as {kv_type}: layer {layer} has heads of {size} components, which are \
         no multiple of {multiple}; choose f16 or f32"
    )]
    KvType {
        /// The type's name.
        kv_type: &'static str,
        /// What sizes of heads have to be a multiple of.
        multiple: usize,
        /// The layer.
        layer: usize,
        /// The size of its heads.
        size: usize,
    },
    /// What is to fill a block of keys and values is not what one holds.
    #[error(
        "{found} bytes for a block of keys and values, expected {expected}: they are not from this model with these settings"
    )]
    KvBlock {
        /// Bytes that were given.
        found: usize,
        /// Bytes of a block.
        expected: usize,
    },
    /// The batch breaks the contract of [`Forward::forward`](crate::Forward::forward).
    #[error("invalid batch: {0}")]
    Batch(String),
    /// A sampler or one of its settings is not known by this name.
    #[error("no {what} is called `{name}`; there are: {known}")]
    UnknownSampler {
        /// "sampler" or "sampler setting".
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A sampler setting has a value that it does not take.
    #[error("sampler setting {name} cannot be {value}: it takes {expected}")]
    SamplerSetting {
        /// Name of the setting.
        name: String,
        /// The value that was given.
        value: String,
        /// The kind and range of values that it takes.
        expected: String,
    },
    /// The model computed a score that is not a number or is infinite.
    #[error(
        "the score of token {token} is {value}, not a finite number: the model's weights or arithmetic are broken"
    )]
    Score {
        /// The token.
        token: u32,
        /// Its score.
        value: f32,
    },
    /// Every token is excluded, so there is none to choose.
    #[error("no token is left to choose from: every score is -inf or every token was excluded")]
    NoCandidates,
}
