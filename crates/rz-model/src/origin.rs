//! Where a model's description and tensors come from, under GGUF's names.

use std::sync::Arc;

use rz_formats::{Gguf, Metadata, Tensor};
use rz_quant::DType;

use crate::ModelError;

/// A model file of any kind. Hyper-parameters and tensors go by the names that GGUF
/// files use.
pub(crate) trait Origin {
    /// The hyper-parameters.
    fn metadata(&self) -> &Metadata;

    /// A tensor.
    fn tensor(&self, name: &str) -> Option<Piece>;

    /// The names that the file itself gives its tensors.
    fn names(&self) -> Vec<String>;

    /// What the file itself calls a tensor.
    fn tensor_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// What the file itself calls a hyper-parameter.
    fn key_name(&self, key: &str) -> String {
        key.to_owned()
    }

    /// Whether there is a tensor of this name.
    fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }
}

impl Origin for Gguf {
    fn metadata(&self) -> &Metadata {
        Gguf::metadata(self)
    }

    fn tensor(&self, name: &str) -> Option<Piece> {
        Gguf::tensor(self, name).map(|tensor| Piece {
            tensor: tensor.clone(),
            change: Change::None,
            rows: None,
        })
    }

    fn names(&self) -> Vec<String> {
        self.tensors().map(|tensor| tensor.name().to_owned()).collect()
    }
}

/// A tensor and what makes it canonical, or some of its rows.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) tensor: Tensor,
    pub(crate) change: Change,
    /// Some rows of the changed tensor; all where there is no range.
    pub(crate) rows: Option<std::ops::Range<usize>>,
}

/// How a tensor of a Hugging Face model becomes what GGUF has in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// Rows of each of this many heads go from halves (`i` pairs with `i + n`) to neighbours.
    PairRows(usize),
    /// Rows become columns.
    Transpose,
    /// A norm stored as its difference from 1.
    AddOne,
}

/// The bytes of a piece: where they lie in the file, or a changed copy.
pub(crate) enum Bytes {
    Mapped { tensor: Tensor, range: std::ops::Range<usize> },
    Owned { bytes: Arc<[u8]>, range: std::ops::Range<usize> },
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped { tensor, range } => &tensor.bytes()[range.clone()],
            Bytes::Owned { bytes, range } => &bytes[range.clone()],
        }
    }
}

impl Piece {
    /// Its shape after the change, the contiguous dimension first.
    pub(crate) fn shape(&self) -> Vec<u64> {
        let mut shape = self.tensor.shape().to_vec();
        if self.change == Change::Transpose {
            shape.reverse();
        }
        if let (Some(rows), Some(last)) = (&self.rows, shape.last_mut()) {
            *last = rows.len() as u64;
        }
        shape
    }

    /// The format to compute with.
    ///
    /// # Errors
    /// When it is not supported.
    pub(crate) fn dtype(&self) -> Result<DType, ModelError> {
        self.tensor.dtype().ok_or_else(|| ModelError::TensorType {
            file: self.tensor.mapping().file().to_owned(),
            tensor: self.tensor.name().to_owned(),
            found: self.tensor.tensor_type().name().to_owned(),
            supported: DType::ALL.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The format of a matrix, whose panels the tensor may hold.
    ///
    /// # Errors
    /// When it is not supported.
    pub(crate) fn matrix_dtype(&self) -> Result<DType, ModelError> {
        self.tensor.tensor_type().packs().map_or_else(|| self.dtype(), Ok)
    }

    /// Whether the tensor holds panels.
    pub(crate) fn is_packed(&self) -> bool {
        self.tensor.tensor_type().packs().is_some()
    }

    /// The bytes after the change, of a matrix with rows of `columns` elements.
    ///
    /// # Panics
    /// When the shape was not checked, or blocks of several elements would have to be taken apart.
    pub(crate) fn bytes(&self, dtype: DType, columns: usize) -> Bytes {
        let row = dtype.row_bytes(columns).expect("a checked shape");
        let range = |len: usize| match &self.rows {
            Some(rows) => rows.start * row..rows.end * row,
            None => 0..len,
        };
        let source = self.tensor.bytes();
        let changed: Vec<u8> = match self.change {
            Change::None => return Bytes::Mapped { tensor: self.tensor.clone(), range: range(source.len()) },
            Change::AddOne => unreachable!("norms are vectors, which are read as values"),
            Change::PairRows(heads) => {
                let rows: Vec<&[u8]> = source.chunks_exact(row).collect();
                let head = rows.len() / heads;
                let paired = |i: usize| i / head * head + (i % head) / 2 + (i % 2) * (head / 2);
                (0..rows.len()).flat_map(|i| rows[paired(i)]).copied().collect()
            }
            Change::Transpose => {
                assert_eq!(dtype.block_elements(), 1, "only plain elements can be transposed");
                let size = dtype.block_bytes();
                let elements: Vec<&[u8]> = source.chunks_exact(size).collect();
                let rows = elements.len() / columns;
                let at = |row: usize, column: usize| elements[column * rows + row];
                (0..rows)
                    .flat_map(|row| (0..columns).flat_map(move |column| at(row, column)))
                    .copied()
                    .collect()
            }
        };
        let range = range(changed.len());
        Bytes::Owned { bytes: changed.into(), range }
    }
}
