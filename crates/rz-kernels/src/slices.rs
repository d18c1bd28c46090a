//! Disjoint parts of one buffer, written by several threads at once.

use std::marker::PhantomData;
use std::ops::Range;

use crate::Team;

/// Some columns of some rows of a row-major matrix: one thread's share of a product's output.
pub struct Columns<'a> {
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
        // SAFETY: the parts of one matrix cover disjoint columns of disjoint rows, the columns
        // each within the stride (`Team::blocks` makes them so), and the row was checked.
        #[allow(unsafe_code)]
        unsafe {
            let start = self.base.add((self.rows.start + row) * self.stride + self.columns.start);
            std::slice::from_raw_parts_mut(start, self.columns.len())
        }
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
            Part {
                base: Base(m.data.as_mut_ptr()),
                columns: m.columns,
                grain: m.grain,
                units: first..units,
            }
        });
        // Numbered block by block.
        let total = units * all_rows.div_ceil(rows);
        self.units(total, self.least(total), &|mut dealt| {
            while !dealt.is_empty() {
                let block = dealt.start / units;
                let first = block * units;
                let here = dealt.start - first..(dealt.end - first).min(units);
                dealt.start = first + here.end;
                let rows = block * rows..(block * rows).saturating_add(rows).min(all_rows);
                for (which, part) in parts.iter().enumerate() {
                    let own = here.start.max(part.units.start)..here.end.min(part.units.end);
                    if own.is_empty() {
                        continue;
                    }
                    let column = |unit: usize| ((unit - part.units.start) * part.grain).min(part.columns);
                    let columns = column(own.start)..column(own.end);
                    let Base(base) = part.base;
                    let (stride, rows) = (part.columns, rows.clone());
                    task(which, Columns { base, stride, rows, columns, borrow: PhantomData });
                }
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

    /// As [`rows`](Self::rows) over two buffers at once, each of `rows` rows of
    /// `width` elements, of which the last may be shorter.
    ///
    /// # Panics
    /// When the buffers differ in length or do not have `rows` rows.
    pub(crate) fn row_pairs<A: Send, B: Send>(
        &self,
        a: &mut [A],
        b: &mut [B],
        widths: (usize, usize),
        rows: usize,
        task: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        assert!(a.len().div_ceil(widths.0) == rows && b.len().div_ceil(widths.1) == rows, "{rows} rows");
        let lens = (a.len(), b.len());
        let (a, b) = (Unique(a.as_mut_ptr()), Unique(b.as_mut_ptr()));
        self.ranges(rows, 1, |range| {
            let (Unique(a), Unique(b)) = (&a, &b);
            let place = |width: usize, len: usize| (range.start * width, (range.end * width).min(len));
            let (a_start, a_end) = place(widths.0, lens.0);
            let (b_start, b_end) = place(widths.1, lens.1);
            // SAFETY: `ranges` deals disjoint ranges below `rows`, the ends are within
            // the buffers, and the starts are below them since `range` is not empty.
            #[allow(unsafe_code)]
            let (a, b) = unsafe {
                let a = std::slice::from_raw_parts_mut(a.add(a_start), a_end - a_start);
                (a, std::slice::from_raw_parts_mut(b.add(b_start), b_end - b_start))
            };
            task(range.start, a, b);
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
}
