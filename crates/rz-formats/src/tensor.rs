//! A tensor of a mapped file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rz_quant::DType;

use crate::mapping::{Advice, Mapping};
use crate::types::TensorType;

/// A tensor as it lies in a mapped file: a view, cheap to clone, that keeps the mapping alive.
///
/// Whatever made it has checked that name, shape, type and bytes agree.
#[derive(Clone)]
pub struct Tensor {
    name: Arc<str>,
    shape: Arc<[u64]>,
    tensor_type: TensorType,
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl Tensor {
    /// # Panics
    /// When `range` does not lie inside the mapping.
    pub(crate) fn new(
        name: Arc<str>,
        shape: &[u64],
        tensor_type: TensorType,
        mapping: Arc<Mapping>,
        range: Range<usize>,
    ) -> Tensor {
        assert!(mapping.bytes().get(range.clone()).is_some(), "a tensor outside of its file");
        Tensor { name, shape: shape.into(), tensor_type, mapping, range }
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its dimensions, the one that is contiguous in memory first. None is 0.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The number of elements: the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The type of the elements.
    pub fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// The format to compute with, when the type is supported.
    pub fn dtype(&self) -> Option<DType> {
        self.tensor_type.dtype()
    }

    /// The data: whole blocks of the type, rows one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping.bytes()[self.range.clone()]
    }

    /// The mapped file.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Where the data lies in the file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Starts to read the data in the background.
    pub fn prefetch(&self) {
        self.mapping.advise(self.range.clone(), Advice::WillNeed);
    }

    /// Reads the data now, as far as the system does that on advice.
    pub fn populate(&self) {
        self.mapping.advise(self.range.clone(), Advice::Populate);
    }

    /// Gives the memory of the data back to the system; it stays readable, from the file.
    /// For use when the data has been packed and will not be needed again.
    pub fn release(&self) {
        self.mapping.release(self.range.clone());
    }
}

impl AsRef<[u8]> for Tensor {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?} {:?} {})", self.name, self.shape, self.tensor_type)
    }
}
