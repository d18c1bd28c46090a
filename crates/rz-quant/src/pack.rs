//! Packing: rows of blocks, as they lie in a file, into panels.

use std::hint::black_box;
use std::marker::PhantomData;

use bytemuck::Zeroable;
use rz_kernels::{Isa, Kernels, PANEL_ROWS, SimdOp, Team};

use crate::matrix::ShapeError;
use crate::{BlockFormat, DType, FormatVisitor, Matrix};

/// The version of the packed layout. Files that hold panels carry it: whoever changes what
/// [`pack`] writes, of any format, counts it up.
pub const PACKED_LAYOUT: u32 = 1;

/// Interleaves the rows of a matrix in file order into panels, on all threads. The bits
/// are the same in another order: [`BlockFormat::unpack`] is the inverse.
///
/// # Errors
/// When `blocks` is not `rows * columns` elements of `dtype`.
///
/// # Panics
/// When `out` is not [`Matrix::packed_bytes`] long.
pub fn pack(
    kernels: Kernels,
    team: &Team<'_>,
    dtype: DType,
    rows: usize,
    columns: usize,
    blocks: &[u8],
    out: &mut [u8],
) -> Result<(), ShapeError> {
    ShapeError::check(dtype, rows, columns, blocks.len())?;
    assert_eq!(Some(out.len()), Matrix::packed_bytes(dtype, rows, columns), "size of the packed matrix");
    let panel = out.len() / rows.div_ceil(PANEL_ROWS);
    let source = PANEL_ROWS * (blocks.len() / rows);
    team.rows(out, panel, |first, panels| {
        let start = first * source;
        let end = (start + panels.len() / panel * source).min(blocks.len());
        pack_panels(kernels, dtype, columns, &blocks[start..end], panels);
    });
    Ok(())
}

/// As [`pack`] for some rows of a matrix, from a panel's first row on, on this thread.
///
/// # Panics
/// When `blocks` is not whole rows, or `out` not as long as their panels.
pub fn pack_panels(kernels: Kernels, dtype: DType, columns: usize, blocks: &[u8], out: &mut [u8]) {
    let row = dtype.row_bytes(columns).expect("whole blocks");
    let rows = blocks.len() / row;
    assert!(blocks.len().is_multiple_of(row), "{rows} rows of {columns} elements");
    assert_eq!(Some(out.len()), Matrix::packed_bytes(dtype, rows, columns), "size of the packed rows");
    let panel = out.len() / rows.div_ceil(PANEL_ROWS).max(1);
    for (blocks, panel) in blocks.chunks(PANEL_ROWS * row).zip(out.chunks_exact_mut(panel)) {
        dtype.visit(PackPanel { kernels, row, blocks, panel });
    }
}

/// Packs the rows of one panel, of which the last of a matrix may have fewer than sixteen.
struct PackPanel<'a> {
    kernels: Kernels,
    /// Bytes of a row.
    row: usize,
    blocks: &'a [u8],
    panel: &'a mut [u8],
}

impl FormatVisitor for PackPanel<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        let PackPanel { kernels, row, blocks, panel } = self;
        let mut rows = blocks.chunks_exact(row).map(bytemuck::cast_slice);
        match blocks.len() / row {
            PANEL_ROWS => {
                // Sixteen places are read from in turns. Going through them in order first
                // has them fetched as quickly as memory can.
                black_box(blocks.iter().step_by(64).fold(0, |all, byte| all ^ byte));
                let rows = std::array::from_fn(|_| rows.next().expect("sixteen rows"));
                kernels.run(PackRows::<F> { rows, out: panel, format: PhantomData });
            }
            _ => {
                let absent = vec![F::Block::zeroed(); row / size_of::<F::Block>()];
                let rows = std::array::from_fn(|_| rows.next().unwrap_or(&absent));
                kernels.run(PackRows::<F> { rows, out: panel, format: PhantomData });
            }
        }
    }
}

struct PackRows<'a, F: BlockFormat> {
    rows: [&'a [F::Block]; PANEL_ROWS],
    out: &'a mut [u8],
    format: PhantomData<F>,
}

impl<F: BlockFormat> SimdOp for PackRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        F::pack_rows(&self.rows, self.out);
    }
}
