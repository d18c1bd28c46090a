//! The packed weight layout, as plain data.
//!
//! A *panel* holds [`PANEL_ROWS`] rows of a matrix, interleaved so that one vector load
//! meets the same columns of sixteen rows. A panel is a sequence of *panel blocks*, each
//! a header with the scales of the sixteen rows and then *bit planes* for every 32
//! columns. In a plane of 64 bytes, bytes `4r..4r + 4` belong to row `r`; byte `4r + i`
//! holds, of columns `c` with `c % 4 == i`,
//!
//! | bits a value | planes for 32 columns | byte `4r + i` of plane `p` |
//! | --- | --- | --- |
//! | 8 | 8 | column `4p + i` |
//! | 4 | 4 | column `4p + i` in the low, `16 + 4p + i` in the high half |
//! | 2 | 2 | columns `16p + 4j + i` for `j` in `0..4`, low bits first |
//! | 1 | 1 | columns `4j + i` for `j` in `0..8`, low bits first |
//!
//! Values of 3, 5 and 6 bits take their low bits in the planes of one width and their
//! high bits in those of another, which follow. See [`PanelKind`] for the headers. Rows
//! that a matrix does not have (its last panel) are those of zeroed blocks.

/// Rows of a matrix that one panel interleaves.
pub const PANEL_ROWS: usize = 16;

/// Columns of a matrix that share planes, and a scale in the plain kinds.
pub const PANEL_COLUMNS: usize = 32;

/// What the four bits of the curved kinds stand for: dense around zero.
pub const CURVED_LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What the four bits of [`PanelKind::Float4`] stand for: twice the floating-point numbers of a
/// sign, two bits of exponent and one of fraction. Of zeros there is one: the negative one is 0, too.
pub const FLOAT_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// How the weights of a panel block are stored, and what they mean. In a header, `16 x`
/// stands for one value of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PanelKind {
    /// 32 columns, `weight = scale * (q - 8)`, 4 bits. Header: 16 x scale (f16).
    Bits4,
    /// 32 columns, `weight = scale * q + minimum`, 4 bits. Header: 16 x scale, 16 x minimum (f16).
    Bits4Min,
    /// As `Bits4` with `q - 16`, 4 + 1 bits.
    Bits5,
    /// As `Bits4Min`, 4 + 1 bits.
    Bits5Min,
    /// As `Bits4` with `q - 128`, 8 bits.
    Bits8,
    /// 256 columns in 16s, `weight = d * scale * q - dmin * min`, 2 bits. Header: 16 x d,
    /// 16 x dmin (f16), then for each 16 columns 16 x (scale | min << 4).
    Super2,
    /// 256 columns in 16s, `weight = d * (scale - 32) * (q - 4)`, 2 + 1 bits. Header: 16 x d
    /// (f16), then 8 times 16 x the low four bits of scales `s` and `s + 8`, then 4 times
    /// 16 x the high two bits of scales `s`, `s + 4`, `s + 8`, `s + 12`.
    Super3,
    /// 256 columns in 32s, `weight = d * scale * q - dmin * min`, 4 bits. Header: 16 x d,
    /// 16 x dmin (f16), then 8 times 16 x scale (a byte), then 8 times 16 x min (a byte).
    Super4,
    /// As `Super4`, 4 + 1 bits.
    Super5,
    /// 256 columns in 16s, `weight = d * scale * (q - 32)`, 4 + 2 bits. Header: 16 x d (f16),
    /// then 16 times 16 x scale (a signed byte).
    Super6,
    /// As `Bits4` with `CURVED_LEVELS[q]` for `q - 8`.
    Curved4,
    /// 256 columns in 32s, `weight = d * scale * CURVED_LEVELS[q]`, 4 bits. Header: 16 x d (f16),
    /// then 8 times 16 x scale (a signed byte).
    SuperCurved4,
    /// 32 columns, `weight = 2^(e - 128) * FLOAT_LEVELS[q]`, 4 bits. Header: 16 x e (a byte).
    Float4,
    /// One column, 16 x f16. No header.
    F16,
    /// One column, 16 x bfloat16. No header.
    Bf16,
    /// One column, 16 x f32. No header.
    F32,
}

impl PanelKind {
    /// Columns of one panel block.
    pub const fn block_columns(self) -> usize {
        match self {
            PanelKind::Bits4
            | PanelKind::Bits4Min
            | PanelKind::Bits5
            | PanelKind::Bits5Min
            | PanelKind::Bits8
            | PanelKind::Curved4
            | PanelKind::Float4 => PANEL_COLUMNS,
            PanelKind::Super2
            | PanelKind::Super3
            | PanelKind::Super4
            | PanelKind::Super5
            | PanelKind::Super6
            | PanelKind::SuperCurved4 => 256,
            PanelKind::F16 | PanelKind::Bf16 | PanelKind::F32 => 1,
        }
    }

    /// Bytes of the header of one panel block.
    pub const fn header_bytes(self) -> usize {
        match self {
            PanelKind::Float4 => 16,
            PanelKind::Bits4 | PanelKind::Bits5 | PanelKind::Bits8 | PanelKind::Curved4 => 32,
            PanelKind::Bits4Min | PanelKind::Bits5Min => 64,
            PanelKind::Super2 => 64 + 256,
            PanelKind::Super3 => 32 + 128 + 64,
            PanelKind::Super4 | PanelKind::Super5 => 64 + 256,
            PanelKind::Super6 => 32 + 256,
            PanelKind::SuperCurved4 => 32 + 128,
            PanelKind::F16 | PanelKind::Bf16 | PanelKind::F32 => 0,
        }
    }

    /// Bits of one weight, the header apart.
    pub const fn bits(self) -> usize {
        match self {
            PanelKind::Super2 => 2,
            PanelKind::Super3 => 3,
            PanelKind::Bits4 | PanelKind::Bits4Min | PanelKind::Super4 => 4,
            PanelKind::Curved4 | PanelKind::SuperCurved4 | PanelKind::Float4 => 4,
            PanelKind::Bits5 | PanelKind::Bits5Min | PanelKind::Super5 => 5,
            PanelKind::Super6 => 6,
            PanelKind::Bits8 => 8,
            PanelKind::F16 | PanelKind::Bf16 => 16,
            PanelKind::F32 => 32,
        }
    }

    /// Bytes of one panel block: 16 rows of [`block_columns`](Self::block_columns).
    pub const fn block_bytes(self) -> usize {
        self.header_bytes() + self.bits() * PANEL_ROWS * self.block_columns() / 8
    }

    /// Whether products read activations as they are, and not the quantized ones.
    pub const fn is_float(self) -> bool {
        matches!(self, PanelKind::F16 | PanelKind::Bf16 | PanelKind::F32)
    }

    /// Bytes of a packed matrix, or `None` when its columns do not fill whole panel
    /// blocks or the size overflows.
    pub const fn matrix_bytes(self, rows: usize, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_columns()) {
            return None;
        }
        match (columns / self.block_columns()).checked_mul(self.block_bytes()) {
            Some(panel) => rows.div_ceil(PANEL_ROWS).checked_mul(panel),
            None => None,
        }
    }
}

/// A packed matrix, borrowed: whole panels of [`PANEL_ROWS`] rows, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct PanelRef<'a> {
    kind: PanelKind,
    rows: usize,
    columns: usize,
    units: &'a [u16],
}

impl<'a> PanelRef<'a> {
    /// Describes `bytes` as the panels of a matrix.
    ///
    /// # Panics
    /// When the size of `bytes` is not [`PanelKind::matrix_bytes`] or it is not
    /// aligned to two bytes: both are decided by whoever packed the matrix.
    pub fn new(kind: PanelKind, rows: usize, columns: usize, bytes: &'a [u8]) -> PanelRef<'a> {
        assert_eq!(
            Some(bytes.len()),
            kind.matrix_bytes(rows, columns),
            "bytes of {rows} x {columns} {kind:?}"
        );
        PanelRef { kind, rows, columns, units: bytemuck::cast_slice(bytes) }
    }

    /// How the weights are stored.
    pub fn kind(self) -> PanelKind {
        self.kind
    }

    /// Rows of the matrix: the length of a product.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Columns of the matrix: the length of an operand.
    pub fn columns(self) -> usize {
        self.columns
    }

    // The panel that holds rows `16 * index..`, in units of 16 bits.
    pub(crate) fn panel(self, index: usize) -> &'a [u16] {
        &self.panels_from(index)[..self.panel_units()]
    }

    // That panel and all after it.
    pub(crate) fn panels_from(self, index: usize) -> &'a [u16] {
        &self.units[index * self.panel_units()..]
    }

    // The panel after that, or nothing after the last one.
    pub(crate) fn next_panel(self, index: usize) -> &'a [u16] {
        let rest = self.panels_from(index + 1);
        &rest[..self.panel_units().min(rest.len())]
    }

    fn panel_units(self) -> usize {
        self.columns / self.kind.block_columns() * self.kind.block_bytes() / 2
    }
}
