//! The packed weight layout, as plain data.
//!
//! A *panel* holds [`PANEL_ROWS`] rows of a matrix, interleaved so that one
//! 64-byte vector load meets the same four columns of sixteen rows. A panel is a
//! sequence of *panel blocks*, one for every [`PANEL_COLUMNS`] columns:
//!
//! | kind | bytes of a panel block, in order |
//! | --- | --- |
//! | `Bits4` | 16 scales (f16), then 4 groups of 64 bytes of 4-bit values |
//! | `Bits4Min` | 16 scales (f16), 16 minimums (f16), then 4 groups of 64 bytes |
//! | `Bits8` | 16 scales (f16), then 8 groups of 64 bytes |
//!
//! Group `g` of an 8-bit kind holds, for row `r`, columns `4g..4g + 4` at bytes
//! `4r..4r + 4`. Group `g` of a 4-bit kind holds columns `4g..4g + 4` in the low
//! and columns `16 + 4g..16 + 4g + 4` in the high halves of the same bytes.
//! Rows that a matrix does not have (its last panel) are zero bytes.

/// Rows of a matrix that one panel interleaves.
pub const PANEL_ROWS: usize = 16;

/// Columns of a matrix that one panel block covers.
pub const PANEL_COLUMNS: usize = 32;

/// How the weights of a panel block are stored, and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PanelKind {
    /// `weight = scale * (q - 8)` with `q` in `0..16`.
    Bits4,
    /// `weight = scale * q + minimum` with `q` in `0..16`.
    Bits4Min,
    /// `weight = scale * (q - 128)` with `q` in `0..256`.
    Bits8,
}

impl PanelKind {
    /// Bytes of one panel block: 16 rows of 32 columns.
    pub const fn block_bytes(self) -> usize {
        match self {
            PanelKind::Bits4 => 32 + 256,
            PanelKind::Bits4Min => 64 + 256,
            PanelKind::Bits8 => 32 + 512,
        }
    }

    /// Bytes of a packed matrix, or `None` when its columns do not fill whole panel
    /// blocks or the size overflows.
    pub fn matrix_bytes(self, rows: usize, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(PANEL_COLUMNS) {
            return None;
        }
        let panel = (columns / PANEL_COLUMNS).checked_mul(self.block_bytes())?;
        rows.div_ceil(PANEL_ROWS).checked_mul(panel)
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
        let size = self.columns / PANEL_COLUMNS * self.kind.block_bytes() / 2;
        &self.units[index * size..][..size]
    }
}
