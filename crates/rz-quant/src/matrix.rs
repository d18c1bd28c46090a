//! Matrices of any format and their products.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use rz_kernels::{
    Activations, Columns, Kernels, PANEL_ROWS, PanelRef, Split, Team, dot_rows, float_panel_product,
    panel_product,
};

use crate::{BlockFormat, DType, FormatVisitor};

/// A weight matrix: `rows` rows of `columns` elements, in the bits of its file.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    columns: usize,
    storage: Storage,
    /// Whether products are computed in `f32` throughout.
    exact: bool,
}

enum Storage {
    /// Sixteen rows interleaved: the fast path.
    Panels { memory: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize> },
    /// Blocks as they lie in the file, with activations in `f32`.
    Blocks(Box<dyn AsRef<[u8]> + Send + Sync>),
}

/// The bytes of a tensor are not those of the matrix that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows} x {columns} elements of {dtype} do not take {bytes} bytes")]
pub struct ShapeError {
    /// The element type.
    pub dtype: DType,
    /// Rows asked for.
    pub rows: usize,
    /// Columns asked for.
    pub columns: usize,
    /// Bytes found.
    pub bytes: usize,
}

impl ShapeError {
    pub(crate) fn check(dtype: DType, rows: usize, columns: usize, bytes: usize) -> Result<(), ShapeError> {
        let expected = dtype.row_bytes(columns).and_then(|row| row.checked_mul(rows));
        if rows == 0 || columns == 0 || expected != Some(bytes) {
            return Err(ShapeError { dtype, rows, columns, bytes });
        }
        Ok(())
    }
}

impl Matrix {
    /// What the addresses of packed matrices are multiples of.
    pub const PANEL_ALIGN: usize = 64;

    /// A matrix whose blocks stay where they are: mapped from a file, say.
    ///
    /// # Errors
    /// When `blocks` is not `rows * columns` elements of `dtype`.
    pub fn from_blocks(
        dtype: DType,
        rows: usize,
        columns: usize,
        blocks: Box<dyn AsRef<[u8]> + Send + Sync>,
    ) -> Result<Matrix, ShapeError> {
        ShapeError::check(dtype, rows, columns, (*blocks).as_ref().len())?;
        Ok(Matrix { dtype, rows, columns, storage: Storage::Blocks(blocks), exact: false })
    }

    /// A matrix that [`pack`](crate::pack) has written to `range` of `memory`, now or for a file.
    ///
    /// # Panics
    /// When `dtype` has no panel kind, the range has not the size of the packed matrix, or it
    /// is not aligned to [`PANEL_ALIGN`](Self::PANEL_ALIGN).
    pub fn from_panels(
        dtype: DType,
        rows: usize,
        columns: usize,
        memory: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: Range<usize>,
    ) -> Matrix {
        let start = (*memory).as_ref()[range.clone()].as_ptr();
        assert!(start.addr().is_multiple_of(Matrix::PANEL_ALIGN), "panels at an address of their alignment");
        let matrix =
            Matrix { dtype, rows, columns, storage: Storage::Panels { memory, range }, exact: false };
        // Checks the size.
        let _ = matrix.panels();
        matrix
    }

    /// The same matrix, whose products expand its rows and meet the activations as they are:
    /// slow, and the same bits as those of [`from_blocks`](Self::from_blocks).
    pub fn exactly(self) -> Matrix {
        Matrix { exact: true, ..self }
    }

    /// Bytes that [`pack`](crate::pack) writes for a matrix, or `None` when the type has no panel kind.
    pub fn packed_bytes(dtype: DType, rows: usize, columns: usize) -> Option<usize> {
        dtype.panel()?.matrix_bytes(rows, columns)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: the length of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the length of an operand.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Panels { range, .. } => range.len(),
            Storage::Blocks(blocks) => (**blocks).as_ref().len(),
        }
    }

    /// Whether a product reads the quantized activations of its [`Input`].
    pub fn reads_quantized(&self) -> bool {
        self.panels().is_some_and(|panels| !panels.kind().is_float())
    }

    /// Expands row `index` into `out`: an embedding's look-up.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `columns` long.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows && out.len() == self.columns, "row {index} of {}", self.rows);
        match &self.storage {
            Storage::Blocks(blocks) => {
                let bytes = (**blocks).as_ref();
                let size = bytes.len() / self.rows;
                self.dtype.decode(&bytes[index * size..][..size], out);
            }
            Storage::Panels { memory, range } => {
                let panel = range.len() / self.rows.div_ceil(PANEL_ROWS);
                let panel = &(**memory).as_ref()[range.clone()][index / PANEL_ROWS * panel..][..panel];
                self.dtype.visit(UnpackRow { panel, lane: index % PANEL_ROWS, out });
            }
        }
    }

    fn panels(&self) -> Option<PanelRef<'_>> {
        let Storage::Panels { memory, range } = &self.storage else { return None };
        if self.exact {
            return None;
        }
        let kind = self.dtype.panel().expect("only types with a panel kind are packed");
        Some(PanelRef::new(kind, self.rows, self.columns, &(**memory).as_ref()[range.clone()]))
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix({} x {}, {})", self.rows, self.columns, self.dtype)
    }
}

struct UnpackRow<'a> {
    panel: &'a [u8],
    lane: usize,
    out: &'a mut [f32],
}

impl FormatVisitor for UnpackRow<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        let panel_block = self.panel.len() / (self.out.len() / F::ELEMENTS);
        let panel = self.panel.chunks_exact(panel_block);
        for (panel, out) in panel.zip(self.out.chunks_exact_mut(F::ELEMENTS)) {
            F::decode(&F::unpack(panel, self.lane), out);
        }
    }
}

/// The operand of products: rows of activations, as they are and quantized.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Tokens x columns. May be empty where all matrices read the quantized ones.
    pub values: &'a [f32],
    /// The same rows quantized; only read by matrices for which
    /// [`Matrix::reads_quantized`] holds.
    pub quantized: &'a Activations,
}

impl Input<'_> {
    /// Tokens, as a matrix reads them.
    pub(crate) fn tokens(&self, matrix: &Matrix) -> usize {
        if self.values.is_empty() && matrix.reads_quantized() {
            return self.quantized.tokens();
        }
        assert!(self.values.len().is_multiple_of(matrix.columns), "whole rows of {matrix:?}'s columns");
        self.values.len() / matrix.columns
    }
}

/// The products of several matrices with the same tokens, in one parallel region:
/// `out[t * rows + r]` becomes the dot product of row `r` with token `t`.
///
/// A token's result depends neither on the tokens beside it nor on the threads.
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul<const N: usize>(
    kernels: Kernels,
    team: &Team<'_>,
    input: Input<'_>,
    products: [(&Matrix, &mut [f32]); N],
) {
    let mut matrices = [None; N];
    let mut index = 0;
    let splits = products.map(|(matrix, data)| {
        let tokens = input.tokens(matrix);
        assert_eq!(data.len(), tokens * matrix.rows, "output of {matrix:?} for {tokens} tokens");
        matrices[index] = Some(matrix);
        index += 1;
        Split { data, columns: matrix.rows, grain: PANEL_ROWS }
    });
    let block = block_tokens(team, matrices.iter().flatten().copied(), input);
    team.blocks(block, splits, |which, mut out| {
        let matrix = matrices[which].expect("one matrix for each output");
        product(kernels, matrix, input, &mut out);
    });
}

/// Fills a share of the product of `matrix` with `input`.
pub(crate) fn product(kernels: Kernels, matrix: &Matrix, input: Input<'_>, out: &mut Columns<'_>) {
    let rows = out.first_row()..out.first_row() + out.rows();
    let values = || &input.values[rows.start * matrix.columns..rows.end * matrix.columns];
    match matrix.panels() {
        Some(panels) if panels.kind().is_float() => float_panel_product(kernels, panels, values(), out),
        Some(panels) => panel_product(kernels, panels, input.quantized, out),
        None => block_product(kernels, matrix, values(), out),
    }
}

/// How many tokens of several meet all panels before the next do. Where each thread has enough
/// of them to make up for reading all weights, threads take tokens of their own, which lie in
/// their own caches before and after the product; and no more at a time than there is room for.
pub(crate) fn block_tokens<'m>(
    team: &Team<'_>,
    matrices: impl Iterator<Item = &'m Matrix> + Clone,
    input: Input<'_>,
) -> usize {
    // Of panel products with every instruction set.
    const TILE: usize = 8;
    const ENOUGH: usize = 4 * TILE;
    let Some(first) = matrices.clone().next() else { return usize::MAX };
    let own = input.tokens(first).div_ceil(team.threads());
    let packed = matrices.clone().all(|matrix| matrix.panels().is_some());
    if own < ENOUGH || !packed {
        return usize::MAX;
    }
    let floats = matrices.clone().any(|matrix| !matrix.reads_quantized());
    let room = team.cache() / 2 / (first.columns * if floats { 4 } else { 3 });
    own.div_ceil(own.div_ceil(room.max(ENOUGH))).next_multiple_of(TILE)
}

// Rows are expanded four at a time and meet every token before the next four.
fn block_product(kernels: Kernels, matrix: &Matrix, x: &[f32], out: &mut Columns<'_>) {
    thread_local! {
        static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    const GROUP: usize = 4;
    let width = matrix.columns;
    ROWS.with_borrow_mut(|scratch| {
        if scratch.len() < GROUP * width {
            scratch.resize(GROUP * width, 0.0);
        }
        let columns = out.columns();
        for first in columns.clone().step_by(GROUP) {
            let count = (columns.end - first).min(GROUP);
            for (i, row) in scratch.chunks_exact_mut(width).take(count).enumerate() {
                matrix.row(first + i, row);
            }
            let mut rows = [&[][..]; GROUP];
            rows.iter_mut().zip(scratch.chunks_exact(width)).for_each(|(row, scratch)| *row = scratch);
            for (token, x) in x.chunks_exact(width).enumerate() {
                let at = first - columns.start;
                dot_rows(kernels, &rows[..count], x, &mut out.row(token)[at..at + count]);
            }
        }
    });
}
