//! The element types that a tensor in a model file can have.

use std::fmt;

use rz_kernels::PANEL_ROWS;
use rz_quant::DType;

use crate::error::{FormatError, Place};

/// Element type of a tensor, by its number in GGUF files. The types that only safetensors
/// files have come after all those numbers, and after them the packed types of `rz`'s own
/// files, which every other reader refuses as unknown.
///
/// Every type that files may use has a name and a size here, so that a file can be
/// shown in full; [`dtype`](Self::dtype) says which of them can be computed with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType(u32);

#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    /// Elements of a block; 0 for a number that is no longer in use.
    elements: u16,
    bytes: u16,
}

const fn row(name: &'static str, elements: u16, bytes: u16) -> Row {
    Row { name, elements, bytes }
}

const fn removed(name: &'static str) -> Row {
    row(name, 0, 0)
}

/// The position of a row is the type's number.
static TABLE: [Row; 43] = [
    row("F32", 1, 4),
    row("F16", 1, 2),
    row("Q4_0", 32, 18),
    row("Q4_1", 32, 20),
    removed("Q4_2"),
    removed("Q4_3"),
    row("Q5_0", 32, 22),
    row("Q5_1", 32, 24),
    row("Q8_0", 32, 34),
    row("Q8_1", 32, 40),
    row("Q2_K", 256, 84),
    row("Q3_K", 256, 110),
    row("Q4_K", 256, 144),
    row("Q5_K", 256, 176),
    row("Q6_K", 256, 210),
    row("Q8_K", 256, 292),
    row("IQ2_XXS", 256, 66),
    row("IQ2_XS", 256, 74),
    row("IQ3_XXS", 256, 98),
    row("IQ1_S", 256, 50),
    row("IQ4_NL", 32, 18),
    row("IQ3_S", 256, 110),
    row("IQ2_S", 256, 82),
    row("IQ4_XS", 256, 136),
    row("I8", 1, 1),
    row("I16", 1, 2),
    row("I32", 1, 4),
    row("I64", 1, 8),
    row("F64", 1, 8),
    row("IQ1_M", 256, 56),
    row("BF16", 1, 2),
    removed("Q4_0_4_4"),
    removed("Q4_0_4_8"),
    removed("Q4_0_8_8"),
    row("TQ1_0", 256, 54),
    row("TQ2_0", 256, 66),
    removed("IQ4_NL_4_4"),
    removed("IQ4_NL_4_8"),
    removed("IQ4_NL_8_8"),
    row("MXFP4", 32, 17),
    row("NVFP4", 64, 36),
    row("Q1_0", 128, 18),
    row("Q2_0", 64, 18),
];

/// The types of safetensors files, in the order in which their writers place tensors.
/// Those that GGUF has too stand here by its numbers.
static SAFETENSORS: [Known; 22] = [
    Known::Foreign(row("BOOL", 1, 1)),
    Known::Foreign(row("F4", 2, 1)),
    Known::Foreign(row("F6_E2M3", 4, 3)),
    Known::Foreign(row("F6_E3M2", 4, 3)),
    Known::Foreign(row("U8", 1, 1)),
    Known::Gguf(24),
    Known::Foreign(row("F8_E5M2", 1, 1)),
    Known::Foreign(row("F8_E4M3", 1, 1)),
    Known::Foreign(row("F8_E8M0", 1, 1)),
    Known::Foreign(row("F8_E4M3FNUZ", 1, 1)),
    Known::Foreign(row("F8_E5M2FNUZ", 1, 1)),
    Known::Gguf(25),
    Known::Foreign(row("U16", 1, 2)),
    Known::Gguf(1),
    Known::Gguf(30),
    Known::Gguf(26),
    Known::Foreign(row("U32", 1, 4)),
    Known::Gguf(0),
    Known::Foreign(row("C64", 1, 8)),
    Known::Gguf(28),
    Known::Gguf(27),
    Known::Foreign(row("U64", 1, 8)),
];

enum Known {
    /// A type of GGUF, which has the same name there.
    Gguf(u32),
    Foreign(Row),
}

/// What the numbers of the types that GGUF does not have start from; no GGUF file comes near.
const FOREIGN: u32 = 1 << 16;

/// What the numbers of packed types start from: that of the format comes on top.
const PACKED: u32 = 0x7a72 << 16;

/// Why a number is not a [`TensorType`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoType {
    /// It never was one.
    Unknown,
    /// It was one, of this name.
    Removed(&'static str),
}

impl TensorType {
    /// Every type that GGUF files may use, in the order of the numbers.
    pub fn all() -> impl Iterator<Item = TensorType> {
        (0..TABLE.len() as u32).filter_map(TensorType::from_id)
    }

    /// The type with this number, unless there is none or files may no longer use it.
    pub fn from_id(id: u32) -> Option<TensorType> {
        TensorType::look_up(id).ok()
    }

    /// The type of a tensor that holds the panels of a matrix in this format, if it has any.
    pub fn packed(dtype: DType) -> Option<TensorType> {
        dtype.panel().map(|_| TensorType(PACKED + dtype.id()))
    }

    /// The format of the matrix whose panels such a tensor holds.
    pub fn packs(self) -> Option<DType> {
        DType::from_id(self.0.checked_sub(PACKED)?).filter(|dtype| dtype.panel().is_some())
    }

    pub(crate) fn look_up(id: u32) -> Result<TensorType, NoType> {
        if TensorType(id).packs().is_some() {
            return Ok(TensorType(id));
        }
        match TABLE.get(id as usize) {
            None => Err(NoType::Unknown),
            Some(row) if row.elements == 0 => Err(NoType::Removed(row.name)),
            Some(_) => Ok(TensorType(id)),
        }
    }

    /// The type of this name in a safetensors file.
    pub(crate) fn from_safetensors(name: &str) -> Option<TensorType> {
        (0..SAFETENSORS.len()).map(TensorType::of_safetensors).find(|known| known.name() == name)
    }

    /// The place of this type in the order of safetensors files, unless they cannot have it.
    pub(crate) fn safetensors_order(self) -> Option<usize> {
        (0..SAFETENSORS.len()).find(|&at| TensorType::of_safetensors(at) == self)
    }

    fn of_safetensors(at: usize) -> TensorType {
        match SAFETENSORS[at] {
            Known::Gguf(id) => TensorType(id),
            Known::Foreign(_) => TensorType(FOREIGN + at as u32),
        }
    }

    fn row(self) -> Row {
        if let Some((dtype, kind)) = self.packs().and_then(|dtype| Some((dtype, dtype.panel()?))) {
            // A row's share of a panel block; headers and planes are whole bytes for each row.
            let bytes = (kind.block_bytes() / PANEL_ROWS) as u16;
            return row(dtype.packed_name(), kind.block_columns() as u16, bytes);
        }
        match self.0.checked_sub(FOREIGN).map(|at| &SAFETENSORS[at as usize]) {
            Some(Known::Foreign(row)) => *row,
            _ => TABLE[self.0 as usize],
        }
    }

    /// The type's number in a GGUF file. A type that only safetensors files have gets a
    /// number here that no GGUF file has: [`from_id`](Self::from_id) does not take it back.
    pub fn id(self) -> u32 {
        self.0
    }

    /// The type's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements of one block.
    pub fn block_elements(self) -> usize {
        self.row().elements.into()
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().bytes.into()
    }

    /// Bytes of a row of `elements` elements, or `None` when they do not fill whole
    /// blocks or the size overflows.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        let block = self.block_elements() as u64;
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(self.block_bytes() as u64))?
    }

    /// Bytes of a tensor of this shape, the contiguous dimension first. Each matrix of packed
    /// types fills whole panels.
    pub(crate) fn bytes(self, shape: &[u64]) -> Result<u64, BadShape> {
        if shape.contains(&0) {
            return Err(BadShape::Zero);
        }
        // Sizes are kept to 63 bits, so that sums of two never overflow.
        let fits = |size: &u64| *size <= i64::MAX as u64;
        let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)).filter(fits);
        let elements = elements.ok_or(BadShape::Overflow)?;
        let row = shape.first().copied().unwrap_or(1);
        let block = self.block_elements() as u64;
        if !row.is_multiple_of(block) {
            return Err(BadShape::PartialBlock { row, block });
        }
        let mut whole = elements;
        if self.packs().is_some() {
            let rows = shape.get(1).copied().unwrap_or(1);
            let padded = rows.checked_next_multiple_of(PANEL_ROWS as u64);
            whole =
                padded.and_then(|padded| (elements / rows).checked_mul(padded)).ok_or(BadShape::Overflow)?;
        }
        self.row_bytes(whole).filter(fits).ok_or(BadShape::Overflow)
    }

    /// The format to compute with, when this type is supported.
    pub fn dtype(self) -> Option<DType> {
        DType::from_id(self.0)
    }
}

/// Why a shape has no size.
pub(crate) enum BadShape {
    Zero,
    Overflow,
    PartialBlock { row: u64, block: u64 },
}

impl BadShape {
    /// The error of a tensor of this shape.
    pub(crate) fn of(self, place: Place, tensor: &str, shape: &[u64]) -> FormatError {
        let (tensor, shape) = (tensor.to_owned(), shape.to_owned());
        match self {
            BadShape::Zero => FormatError::ZeroDimension { place, tensor, shape },
            BadShape::Overflow => FormatError::ShapeOverflow { place, tensor, shape },
            BadShape::PartialBlock { row, block } => {
                FormatError::PartialBlock { place, tensor, found: row, expected: block }
            }
        }
    }
}

impl From<DType> for TensorType {
    fn from(dtype: DType) -> Self {
        TensorType(dtype.id())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use rz_quant::Matrix;

    use super::*;

    #[test]
    fn the_table_agrees_with_the_formats_that_are_computed_with() {
        for &dtype in DType::ALL {
            let found = TensorType::from_id(dtype.id()).unwrap();
            assert_eq!(found, TensorType::from(dtype));
            assert_eq!(found.dtype(), Some(dtype));
            assert_eq!(found.name(), dtype.name());
            assert_eq!(found.block_elements(), dtype.block_elements());
            assert_eq!(found.block_bytes(), dtype.block_bytes());
        }
    }

    #[test]
    fn numbers_out_of_use_are_no_types() {
        assert_eq!(TensorType::look_up(4), Err(NoType::Removed("Q4_2")));
        assert_eq!(TensorType::look_up(38), Err(NoType::Removed("IQ4_NL_8_8")));
        assert_eq!(TensorType::look_up(43), Err(NoType::Unknown));
        assert_eq!(TensorType::look_up(u32::MAX), Err(NoType::Unknown));
        assert_eq!(TensorType::all().count(), 43 - 8);
    }

    #[test]
    fn types_of_safetensors_are_found_by_their_names() {
        for at in 0..SAFETENSORS.len() {
            let tensor_type = TensorType::of_safetensors(at);
            assert_eq!(TensorType::from_safetensors(tensor_type.name()), Some(tensor_type));
            assert_eq!(tensor_type.safetensors_order(), Some(at));
            let gguf = TensorType::all().find(|other| other.name() == tensor_type.name());
            assert_eq!(gguf, TensorType::from_id(tensor_type.id()), "{tensor_type}");
        }
        let computed: Vec<_> =
            (0..SAFETENSORS.len()).filter_map(|at| TensorType::of_safetensors(at).dtype()).collect();
        assert_eq!(computed, [DType::F16, DType::BF16, DType::F32]);
        assert_eq!(TensorType::from_safetensors("Q4_0"), None);
        assert_eq!(TensorType::from(DType::Q4_0).safetensors_order(), None);
    }

    #[test]
    fn packed_types_take_the_bytes_of_their_panels() {
        let packed = |dtype: &DType| TensorType::packed(*dtype).map(|packed| (*dtype, packed));
        for (dtype, packed) in DType::ALL.iter().filter_map(packed) {
            assert_eq!(TensorType::from_id(packed.id()), Some(packed));
            assert_eq!((packed.packs(), packed.dtype()), (Some(dtype), None));
            assert_eq!(packed.name(), format!("packed {dtype}"));
            assert_eq!(TensorType::from(dtype).packs(), None);
            for (rows, columns) in [(1, 256), (16, 512), (17, 256), (100, 1024)] {
                let expected = Matrix::packed_bytes(dtype, rows, columns).unwrap() as u64;
                let shape = [columns as u64, rows as u64];
                assert_eq!(packed.bytes(&shape).ok(), Some(expected), "{dtype}");
                assert_eq!(packed.bytes(&[shape[0], shape[1], 3]).ok(), Some(3 * expected), "{dtype}");
            }
            assert!(matches!(packed.bytes(&[256, u64::MAX]), Err(BadShape::Overflow)));
        }
        assert_eq!(TensorType::look_up(PACKED + 9), Err(NoType::Unknown));
        assert_eq!(TensorType::look_up(PACKED - 1), Err(NoType::Unknown));
    }

    #[test]
    fn rows_are_whole_blocks() {
        let q4_k = TensorType::from_id(12).unwrap();
        assert_eq!(q4_k.row_bytes(512), Some(288));
        assert_eq!(q4_k.row_bytes(500), None);
        let f64 = TensorType::from_id(28).unwrap();
        assert_eq!(f64.row_bytes(1 << 61), None);
    }
}
