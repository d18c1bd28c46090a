//! Disjoint parts of one buffer, written by several threads at once.

use std::marker::PhantomData;
use std::ops::Range;

use crate::Team;

/// Some columns of some rows of a row-major matrix: one thread's share of a product's output.
pub struct Columns<'a> {
    /// Of the first element.
    base: *mut f32,
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    borrow: PhantomData<&'a mut [f32]>,
}

impl Columns<'_> {
    /// How many rows this share covers.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The first of the rows that this share covers.
    pub fn first_row(&self) -> usize {
        self.rows.start
    }

    /// The columns that this share covers.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Row `row` of the share, counted from its first.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows.len(), "row {row} of {}", self.rows.len());
        // SAFETY: `base` is the first element of the share, whose rows lie `stride` apart and
        // whose elements nobody else reaches (`of` borrows them all, and the parts of one
        // matrix that `Team::blocks` makes are disjoint), and the row was checked.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(row * self.stride), self.columns.len())
        }
    }
}

impl<'a> Columns<'a> {
    /// A share that is not part of a matrix but lies in a buffer of its own, row by row.
    ///
    /// # Panics
    /// When the buffer has not one element for each column of each row.
    pub fn of(buffer: &'a mut [f32], rows: Range<usize>, columns: Range<usize>) -> Columns<'a> {
        assert_eq!(buffer.len(), rows.len() * columns.len(), "{rows:?} x {columns:?}");
        let stride = columns.len();
        Columns { base: buffer.as_mut_ptr(), stride, rows, columns, borrow: PhantomData }
    }
}

/// A row-major matrix whose columns are shared out to the threads.
pub struct Split<'a> {
    /// Rows x columns.
    pub data: &'a mut [f32],
    /// Columns of the matrix.
    pub columns: usize,
    /// Shares start at multiples of this many columns.
    pub grain: usize,
}

struct Base(*mut f32);
// SAFETY: the pointer is only used to make the disjoint parts of `Columns`.
#[allow(unsafe_code)]
unsafe impl Sync for Base {}

impl Team<'_> {
    /// Shares the columns of several matrices out to the threads in one region:
    /// `task(which, columns)` fills the given columns of matrix `which`.
    ///
    /// # Panics
    /// As [`blocks`](Self::blocks).
    pub fn columns<const N: usize>(
        &self,
        matrices: [Split<'_>; N],
        task: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        self.blocks(usize::MAX, matrices, task);
    }

    /// As [`columns`](Self::columns), one block of `rows` rows after the other: a task fills
    /// columns of one block. Neighbouring blocks are work for the same thread.
    ///
    /// # Panics
    /// When a matrix is not whole rows or they have not equally many, `rows` or a grain is 0,
    /// or a task panics.
    pub fn blocks<const N: usize>(
        &self,
        rows: usize,
        matrices: [Split<'_>; N],
        task: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        struct Part {
            base: Base,
            columns: usize,
            grain: usize,
            units: Range<usize>,
        }
        let count = |m: &Split<'_>| m.data.len() / m.columns;
        let all_rows = matrices.first().map_or(0, count);
        let mut units = 0;
        let parts = matrices.map(|m| {
            assert!(m.columns > 0 && m.data.len().is_multiple_of(m.columns), "a matrix of whole rows");
            assert_eq!(count(&m), all_rows, "matrices of equally many rows");
            let first = units;
            units += m.columns.div_ceil(m.grain);
            Part { base: Base(m.data.as_mut_ptr()), columns: m.columns, grain: m.grain, units: first..units }
        });
        self.by_blocks(units, all_rows, rows, &|rows, units| {
            for (which, part) in parts.iter().enumerate() {
                let own = units.start.max(part.units.start)..units.end.min(part.units.end);
                if own.is_empty() {
                    continue;
                }
                let column = |unit: usize| ((unit - part.units.start) * part.grain).min(part.columns);
                let columns = column(own.start)..column(own.end);
                let Base(base) = part.base;
                let (stride, rows) = (part.columns, rows.clone());
                let base = base.wrapping_add(rows.start * stride + columns.start);
                task(which, Columns { base, stride, rows, columns, borrow: PhantomData });
            }
        });
    }

    /// Shares whole rows out to the threads: `task(first, rows)` works on the rows
    /// from number `first` on.
    ///
    /// # Panics
    /// When `data` is not whole rows of `width`, or a task panics.
    pub fn rows<T: Send>(&self, data: &mut [T], width: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        assert!(width > 0 && data.len().is_multiple_of(width), "a matrix of whole rows");
        let rows = data.len() / width;
        let base = Unique(data.as_mut_ptr());
        self.ranges(rows, 1, |range| {
            let Unique(base) = &base;
            // SAFETY: `ranges` deals disjoint ranges below `rows`, and the buffer
            // holds `rows * width` elements for as long as this call lasts.
            #[allow(unsafe_code)]
            let part =
                unsafe { std::slice::from_raw_parts_mut(base.add(range.start * width), range.len() * width) };
            task(range.start, part);
        });
    }
}

/// A matrix of cells in tiles of rows: `[tile][column][row of the tile]`, the last tile
/// perhaps of fewer rows. A cell is `per_cell` values and a mark; beside each row may lie
/// something else, a row of `side`.
pub(crate) struct Tiled<'a, A, B> {
    pub(crate) values: &'a mut [A],
    pub(crate) per_cell: usize,
    pub(crate) marks: &'a mut [B],
    pub(crate) side: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) tile: usize,
}

/// Some columns of some rows of a [`Tiled`] matrix: one thread's share.
pub(crate) struct Cells<'a, A, B> {
    values: *mut A,
    per_cell: usize,
    marks: *mut B,
    side: *mut f32,
    side_width: usize,
    all_rows: usize,
    all_columns: usize,
    tile: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    borrow: PhantomData<&'a mut ()>,
}

impl<A, B> Cells<'_, A, B> {
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The values and the mark of a cell.
    pub(crate) fn cell(&mut self, row: usize, column: usize) -> (&mut [A], &mut B) {
        assert!(self.rows.contains(&row) && self.columns.contains(&column), "{row}, {column}");
        let first = row / self.tile * self.tile;
        let height = self.tile.min(self.all_rows - first);
        let index = first * self.all_columns + column * height + (row - first);
        // SAFETY: the index is that of a cell of this share, whose cells no other share has
        // (`Team::tiled` makes them so), and both buffers have all cells.
        #[allow(unsafe_code)]
        unsafe {
            let values = self.values.add(index * self.per_cell);
            (std::slice::from_raw_parts_mut(values, self.per_cell), &mut *self.marks.add(index))
        }
    }

    /// What lies beside a row of which this share has all columns.
    pub(crate) fn side(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row) && self.columns == (0..self.all_columns), "{row}");
        // SAFETY: the row is this share's alone, since it has all its columns, and the buffer
        // has all rows.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.side.add(row * self.side_width), self.side_width)
        }
    }
}

impl Team<'_> {
    /// Hands each of `items` the row of `data` that it names: `task(item, row)` for every item,
    /// those of one row in order and on one thread.
    ///
    /// # Panics
    /// When `data` is not whole rows of `width`, an item names a row that there is not, or a
    /// task panics.
    pub fn scatter<T: Send>(
        &self,
        data: &mut [T],
        width: usize,
        items: usize,
        row_of: impl Fn(usize) -> usize + Sync,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(width > 0 && data.len().is_multiple_of(width), "a matrix of whole rows");
        let rows = data.len() / width;
        let base = Unique(data.as_mut_ptr());
        // Neighbouring rows are different threads' business: items often come in their order.
        let shares = if self.threads() == 1 { 1 } else { 4 * self.threads() };
        self.run(shares, &|share| {
            let Unique(base) = &base;
            for item in 0..items {
                let row = row_of(item);
                if row % shares != share {
                    continue;
                }
                assert!(row < rows, "row {row} of {rows}");
                // SAFETY: the row was checked, the buffer holds `rows * width` elements for as
                // long as this call lasts, and rows of different shares are different; within
                // a share, one task borrows a row after the other.
                #[allow(unsafe_code)]
                let row = unsafe { std::slice::from_raw_parts_mut(base.add(row * width), width) };
                task(item, row);
            }
        });
    }

    /// Shares the cells of a matrix out to the threads: as [`blocks`](Self::blocks), blocks of
    /// `block` rows, and `grain` columns that stay together.
    ///
    /// # Panics
    /// When a buffer does not fit, something is 0, or a task panics.
    pub(crate) fn tiled<A: Send, B: Send>(
        &self,
        matrix: Tiled<'_, A, B>,
        block: usize,
        grain: usize,
        task: impl Fn(Cells<'_, A, B>) + Sync,
    ) {
        let Tiled { values, per_cell, marks, side, rows: all_rows, columns: all_columns, tile } = matrix;
        assert_eq!(marks.len(), all_rows * all_columns, "a mark for each cell");
        assert_eq!(values.len(), marks.len() * per_cell, "values for each cell");
        assert!(side.len().is_multiple_of(all_rows.max(1)), "something of each row");
        let side_width = side.len() / all_rows.max(1);
        let (values, marks) = (Unique(values.as_mut_ptr()), Unique(marks.as_mut_ptr()));
        let side = Unique(side.as_mut_ptr());
        let units = all_columns.div_ceil(grain);
        self.by_blocks(units, all_rows, block, &|rows, units| {
            let (Unique(values), Unique(marks), Unique(side)) = (&values, &marks, &side);
            let columns = units.start * grain..(units.end * grain).min(all_columns);
            task(Cells {
                values: *values,
                per_cell,
                marks: *marks,
                side: *side,
                side_width,
                all_rows,
                all_columns,
                tile,
                rows,
                columns,
                borrow: PhantomData,
            });
        });
    }

    // Deals `units` units of each block of `block` rows: `task(rows, units)`, each time those of
    // one block.
    fn by_blocks(
        &self,
        units: usize,
        rows: usize,
        block: usize,
        task: &(dyn Fn(Range<usize>, Range<usize>) + Sync),
    ) {
        // Numbered block by block.
        let total = units * rows.div_ceil(block);
        self.units(total, self.least(total), &|mut dealt| {
            while !dealt.is_empty() {
                let (number, first) = (dealt.start / units, dealt.start / units * units);
                let here = dealt.start - first..(dealt.end - first).min(units);
                dealt.start = first + here.end;
                task(number * block..(number * block).saturating_add(block).min(rows), here);
            }
        });
    }
}

struct Unique<T>(*mut T);
// SAFETY: each thread reaches its own elements only, which are `Send`.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Unique<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn columns_are_filled_once_each() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            let (mut a, mut b) = (vec![0.0; 3 * 100], vec![0.0; 3 * 40]);
            pool.step(|team| {
                let split = |data, columns| Split { data, columns, grain: 16 };
                team.columns([split(&mut a, 100), split(&mut b, 40)], |which, mut part| {
                    for row in 0..part.rows() {
                        let columns = part.columns();
                        for (out, column) in part.row(row).iter_mut().zip(columns) {
                            *out += (1000 * which + 100 * row + column) as f32 + 0.5;
                        }
                    }
                });
            });
            check(&a, &b);
        }
    }

    fn check(a: &[f32], b: &[f32]) {
        for (which, (data, columns)) in [(a, 100), (b, 40)].into_iter().enumerate() {
            for (i, &x) in data.iter().enumerate() {
                assert_eq!(x, (1000 * which + 100 * (i / columns) + i % columns) as f32 + 0.5);
            }
        }
    }

    #[test]
    fn items_reach_the_rows_that_they_name() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            let mut data = vec![0usize; 40 * 3];
            let row_of = |item: usize| item * 7 % 40;
            pool.step(|team| {
                team.scatter(&mut data, 3, 100, row_of, |item, row| {
                    row.iter_mut().for_each(|x| *x = *x * 101 + item + 1);
                });
            });
            let mut expected = vec![0usize; 40 * 3];
            for item in 0..100 {
                let row = &mut expected[row_of(item) * 3..][..3];
                row.iter_mut().for_each(|x| *x = *x * 101 + item + 1);
            }
            assert_eq!(data, expected);
        }
    }

    #[test]
    #[should_panic(expected = "row 40 of 40")]
    fn a_row_beyond_the_end_is_refused() {
        Pool::new(1).unwrap().step(|team| team.scatter(&mut [0u8; 80], 2, 1, |_| 40, |_, _| ()));
    }

    #[test]
    fn blocks_are_filled_once_each() {
        for (threads, rows) in [(1, 1), (3, 1), (3, 2), (2, 4), (3, 5), (2, 6), (3, usize::MAX)] {
            let pool = Pool::new(threads).unwrap();
            let (mut a, mut b) = (vec![0.0; 5 * 100], vec![0.0; 5 * 40]);
            pool.step(|team| {
                let split = |data, columns| Split { data, columns, grain: 16 };
                team.blocks(rows, [split(&mut a, 100), split(&mut b, 40)], |which, mut part| {
                    assert!(part.first_row().is_multiple_of(rows) && part.rows() <= rows);
                    for row in 0..part.rows() {
                        let (number, columns) = (part.first_row() + row, part.columns());
                        for (out, column) in part.row(row).iter_mut().zip(columns) {
                            *out += (1000 * which + 100 * number + column) as f32 + 0.5;
                        }
                    }
                });
            });
            check(&a, &b);
        }
    }

    #[test]
    fn rows_are_visited_once_each() {
        let pool = Pool::new(3).unwrap();
        let mut data = vec![0usize; 37 * 5];
        pool.step(|team| {
            team.rows(&mut data, 5, |first, rows| {
                for (i, row) in rows.chunks_exact_mut(5).enumerate() {
                    row.iter_mut().for_each(|x| *x += first + i + 1);
                }
            });
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i / 5 + 1));
    }

    #[test]
    fn cells_are_visited_once_each() {
        for (threads, tile, block, grain) in [(1, 4, 8, 3), (3, 4, 4, 1), (2, 4, usize::MAX, 2), (3, 8, 8, 5)]
        {
            let (rows, columns) = (11, 5);
            let (mut values, mut marks) = (vec![0usize; rows * columns * 2], vec![0usize; rows * columns]);
            Pool::new(threads).unwrap().step(|team| {
                let side = &mut [];
                let matrix =
                    Tiled { values: &mut values, per_cell: 2, marks: &mut marks, side, rows, columns, tile };
                team.tiled(matrix, block, grain, |mut cells| {
                    for row in cells.rows() {
                        for column in cells.columns() {
                            let (values, mark) = cells.cell(row, column);
                            values[0] += 100 * row + column;
                            values[1] += 1;
                            *mark += 1;
                        }
                    }
                });
            });
            assert!(marks.iter().all(|&mark| mark == 1));
            let mut cells = values.chunks_exact(2);
            for first in (0..rows).step_by(tile) {
                for column in 0..columns {
                    for row in first..(first + tile).min(rows) {
                        assert_eq!(cells.next(), Some(&[100 * row + column, 1][..]));
                    }
                }
            }
        }
    }

    #[test]
    fn what_lies_beside_rows_goes_with_them() {
        let (mut marks, mut side) = (vec![(); 7 * 3], vec![0.0; 7 * 2]);
        Pool::new(3).unwrap().step(|team| {
            let (marks, side) = (&mut marks, &mut side);
            let matrix =
                Tiled { values: &mut [(); 0], per_cell: 0, marks, side, rows: 7, columns: 3, tile: 2 };
            team.tiled(matrix, 2, 3, |mut cells| {
                for row in cells.rows() {
                    cells.side(row).iter_mut().for_each(|x| *x += 1.0 + row as f32);
                }
            });
        });
        assert!(side.iter().enumerate().all(|(i, &x)| x == 1.0 + (i / 2) as f32));
    }
}
