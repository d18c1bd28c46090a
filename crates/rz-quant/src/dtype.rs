//! The list of formats: one row each, from which [`DType`] and its dispatch are made.

use bytemuck::Pod;
use rz_kernels::{PANEL_ROWS, PanelKind};

use crate::formats;

/// What the bytes of one format mean.
///
/// A row of a tensor is a sequence of blocks; a block holds [`ELEMENTS`](Self::ELEMENTS)
/// consecutive elements of that row.
pub trait BlockFormat: 'static {
    /// The block as it lies in a file: plain old data of alignment 1.
    type Block: Pod;

    /// Elements of one block.
    const ELEMENTS: usize;

    /// The panel kind that holds this format's bits, when there is one. A format
    /// without a panel is computed from its blocks as they lie in the file.
    const PANEL: Option<PanelKind> = None;

    /// Expands a block into `out[..ELEMENTS]`. This is the definition of the
    /// format, and the oracle of every other path.
    fn decode(block: &Self::Block, out: &mut [f32]);

    /// Quantizes `x[..ELEMENTS]`: the reference quantizer.
    fn encode(x: &[f32]) -> Self::Block;

    /// Writes one block of each of sixteen rows as a panel block (or several). Only for
    /// formats that have a [`PANEL`](Self::PANEL). Marked `#[inline(always)]`, so that it
    /// is compiled for the instruction set it is called on.
    fn pack(blocks: &[&Self::Block; PANEL_ROWS], out: &mut [u8]) {
        let _ = (blocks, out);
        unreachable!("a format without a panel kind is never packed")
    }

    /// As [`pack`](Self::pack) for as many blocks of each row as the panel has.
    ///
    /// # Panics
    /// When the rows are not of one length.
    #[inline(always)]
    fn pack_rows(rows: &[&[Self::Block]; PANEL_ROWS], out: &mut [u8]) {
        let len = rows[0].len();
        let rows: [&[Self::Block]; PANEL_ROWS] = std::array::from_fn(|lane| &rows[lane][..len]);
        for (i, out) in out.chunks_exact_mut(out.len() / len).enumerate() {
            Self::pack(&std::array::from_fn(|lane| &rows[lane][i]), out);
        }
    }

    /// Reads row `lane` back: the exact inverse of [`pack`](Self::pack).
    fn unpack(panel: &[u8], lane: usize) -> Self::Block {
        let _ = (panel, lane);
        unreachable!("a format without a panel kind is never unpacked")
    }
}

macro_rules! formats {
    ($($name:ident = $id:literal => $format:ty),* $(,)?) => {
        /// Element type of a tensor, by the name that GGUF files use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum DType { $($name),* }

        impl DType {
            /// Every format, in the order of their ids.
            pub const ALL: &'static [DType] = &[$(DType::$name),*];

            /// The type's number in a GGUF file.
            pub const fn id(self) -> u32 {
                match self { $(DType::$name => $id),* }
            }

            /// The format with this number, if it is supported.
            pub const fn from_id(id: u32) -> Option<DType> {
                match id { $($id => Some(DType::$name),)* _ => None }
            }

            /// The type's name, such as `Q4_0`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$name => stringify!($name)),* }
            }

            /// The name of the type of tensors that hold its panels, such as `packed Q4_0`.
            pub const fn packed_name(self) -> &'static str {
                match self { $(DType::$name => concat!("packed ", stringify!($name))),* }
            }

            /// Elements of one block.
            pub const fn block_elements(self) -> usize {
                match self { $(DType::$name => <$format as BlockFormat>::ELEMENTS),* }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(DType::$name => size_of::<<$format as BlockFormat>::Block>()),* }
            }

            /// The panel kind that holds this format's bits, if there is one.
            pub const fn panel(self) -> Option<PanelKind> {
                match self { $(DType::$name => <$format as BlockFormat>::PANEL),* }
            }

            /// Runs `op` with the format's type.
            pub fn visit<V: FormatVisitor>(self, visitor: V) -> V::Output {
                match self { $(DType::$name => visitor.visit::<$format>()),* }
            }
        }
    };
}

/// An operation that is generic over the format; see [`DType::visit`].
pub trait FormatVisitor {
    /// What the operation returns.
    type Output;
    /// Runs the operation for format `F`.
    fn visit<F: BlockFormat>(self) -> Self::Output;
}

formats! {
    F32 = 0 => formats::F32,
    F16 = 1 => formats::F16,
    Q4_0 = 2 => formats::Q4_0,
    Q4_1 = 3 => formats::Q4_1,
    Q5_0 = 6 => formats::Q5_0,
    Q5_1 = 7 => formats::Q5_1,
    Q8_0 = 8 => formats::Q8_0,
    Q2_K = 10 => formats::Q2_K,
    Q3_K = 11 => formats::Q3_K,
    Q4_K = 12 => formats::Q4_K,
    Q5_K = 13 => formats::Q5_K,
    Q6_K = 14 => formats::Q6_K,
    IQ4_NL = 20 => formats::IQ4_NL,
    IQ4_XS = 23 => formats::IQ4_XS,
    BF16 = 30 => formats::BF16,
    MXFP4 = 39 => formats::MXFP4,
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl DType {
    /// Bytes of a row of `elements` elements, or `None` when they do not fill
    /// whole blocks or the size overflows.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Expands `bytes`, whole blocks of this format, into `out`.
    ///
    /// # Panics
    /// When `bytes` is not the blocks of exactly `out.len()` elements.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        struct Decode<'a>(&'a [u8], &'a mut [f32]);
        impl FormatVisitor for Decode<'_> {
            type Output = ();
            fn visit<F: BlockFormat>(self) {
                let blocks: &[F::Block] = bytemuck::cast_slice(self.0);
                for (block, out) in blocks.iter().zip(self.1.chunks_exact_mut(F::ELEMENTS)) {
                    F::decode(block, out);
                }
            }
        }
        assert_eq!(self.row_bytes(out.len()), Some(bytes.len()), "{self} blocks of {} elements", out.len());
        self.visit(Decode(bytes, out));
    }

    /// Quantizes `x` and appends the blocks to `out`.
    ///
    /// # Panics
    /// When `x` does not fill whole blocks.
    pub fn encode(self, x: &[f32], out: &mut Vec<u8>) {
        struct Encode<'a>(&'a [f32], &'a mut Vec<u8>);
        impl FormatVisitor for Encode<'_> {
            type Output = ();
            fn visit<F: BlockFormat>(self) {
                for x in self.0.chunks_exact(F::ELEMENTS) {
                    self.1.extend_from_slice(bytemuck::bytes_of(&F::encode(x)));
                }
            }
        }
        assert!(x.len().is_multiple_of(self.block_elements()), "{self} blocks of {} elements", x.len());
        self.visit(Encode(x, out));
    }
}
