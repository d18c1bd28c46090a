//! Weights on their way into memory: a layer at a time, in order of use, by a thread in the
//! background as long as nobody waits for them, and then by the pass that does.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rz_kernels::{Arena, ArenaPart, Kernels, PANEL_ROWS, Runtime, Team};
use rz_quant::{Matrix, pack_panels};

use crate::origin::{Change, Origin, Piece};
use crate::weights::{self, Place, Planned, Weights};
use crate::{ModelError, ModelSpec};

/// Progress of loading: bytes of weights that are ready, of how many.
pub type LoadProgress<'a> = &'a mut dyn FnMut(usize, usize);

/// Where weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Compute with the panels of a packed file where they lie in it. Otherwise they are
    /// copied into large pages, which are read faster, and the file's are given back. Weights
    /// that are not packed in the file always have memory of their own.
    pub in_place: bool,
    /// Keep the system from ever moving the weights to disk.
    pub locked: bool,
}

/// Loads the weights that `spec` asks for. Those with a panel kind (unless all is `exact`)
/// are still to be packed, or copied: until then, rows can be looked up and nothing else.
/// Returns the names of the file's tensors that the model does not read, too.
pub(crate) fn load(
    origin: &dyn Origin,
    spec: &ModelSpec,
    runtime: &Runtime,
    exact: bool,
    placement: Placement,
) -> Result<(Weights<Matrix>, Loading, Vec<String>), ModelError> {
    let (plan, unused) = weights::plan(origin, spec)?;
    let moves = |planned: &Planned| planned.moves(exact, placement);
    let lens: Vec<usize> = plan.iter().filter(|planned| moves(planned)).map(Planned::packed_bytes).collect();
    let total = Arena::bytes_of_parts(&lens);
    let purpose = "the packed weights";
    let arena = Arena::new(total).map_err(|cause| ModelError::Memory { bytes: total, purpose, cause })?;
    if placement.locked && total > 0 {
        arena.lock().map_err(|cause| ModelError::Lock { bytes: total, cause })?;
    }
    let mut parts = arena.into_parts(&lens).into_iter();
    let mut units: Vec<Unit> = (0..=spec.layers.len()).map(|_| Unit::default()).collect();
    let mut files = HashSet::new();
    let mut slots = vec![0; units.len()];
    let weights = weights::load(origin, spec, &mut |planned| {
        let unit = match planned.place {
            Place::Layer(index) => index,
            _ => spec.layers.len(),
        };
        let slot = slots[unit];
        slots[unit] += usize::from(!planned.rows_only);
        if !moves(&planned) {
            if placement.locked && files.insert(planned.piece.tensor.mapping().file().to_owned()) {
                let mapping = planned.piece.tensor.mapping();
                mapping.lock().map_err(|cause| ModelError::Lock { bytes: mapping.bytes().len(), cause })?;
            }
            return planned.in_file(exact);
        }
        let item = Item { slot, part: parts.next().expect("a part for each matrix that moves"), planned };
        if item.planned.piece.change != Change::None {
            // Changed copies are large: one at a time, and gone at once.
            return Ok(runtime.pool.step(|team| item.place(runtime.kernels, team)).1);
        }
        let file = item.planned.in_file(false)?;
        units[unit].items.push(item);
        Ok(file)
    })?;
    Ok((weights, Loading::new(units), unused))
}

/// Weights that are not ready yet, in the hands of the model.
pub(crate) struct Loading {
    shared: Arc<Shared>,
}

/// Gets a model's weights ready in the background: see [`CpuModel::loader`](crate::CpuModel::loader).
pub struct Loader {
    shared: Arc<Shared>,
    runtime: Runtime,
}

struct Shared {
    work: Mutex<Work>,
    /// Set by a pass that wants the work for itself.
    wanted: AtomicBool,
    ready: AtomicUsize,
    total: usize,
}

/// What is still to be done, and what was done and not taken yet.
pub(crate) struct Work {
    pending: Vec<Unit>,
    ready: Vec<Vec<(usize, Matrix)>>,
}

/// The matrices of a layer or, last, of the output.
#[derive(Default)]
struct Unit {
    items: Vec<Item>,
}

/// A matrix and the memory for it.
struct Item {
    planned: Planned,
    /// Its place among the matrices of the unit.
    slot: usize,
    part: ArenaPart,
}

impl Loader {
    /// Gets the weights ready, on all threads, until all are or a pass begins; the pass
    /// takes the rest over.
    pub fn run(&self, progress: LoadProgress<'_>) {
        let Runtime { kernels, pool } = &self.runtime;
        let count = self.shared.lock().pending.len();
        for index in 0..count {
            {
                let mut work = self.shared.lock();
                if self.shared.wanted.load(Ordering::Acquire) {
                    return;
                }
                if !work.pending[index].items.is_empty() {
                    pool.step(|team| work.prepare(index, *kernels, team, &self.shared));
                }
            }
            let (ready, total) = self.progress();
            progress(ready, total);
        }
    }

    /// Bytes of weights that are ready, of how many.
    pub fn progress(&self) -> (usize, usize) {
        (self.shared.ready.load(Ordering::Relaxed), self.shared.total)
    }
}

impl Loading {
    fn new(units: Vec<Unit>) -> Loading {
        let total = units.iter().flat_map(|unit| &unit.items).map(|item| item.part.len()).sum();
        let ready = units.iter().map(|_| Vec::new()).collect();
        let work = Mutex::new(Work { pending: units, ready });
        let shared = Shared { work, wanted: AtomicBool::new(false), ready: AtomicUsize::new(0), total };
        Loading { shared: Arc::new(shared) }
    }

    /// Who gets the weights ready in the background.
    pub(crate) fn loader(&self, runtime: &Runtime) -> Loader {
        Loader { shared: self.shared.clone(), runtime: runtime.clone() }
    }

    /// Takes the work over for a pass, from whoever does it now.
    pub(crate) fn take_over(&self) -> TakenOver<'_> {
        self.shared.wanted.store(true, Ordering::Release);
        TakenOver { work: self.shared.lock(), shared: &self.shared }
    }
}

/// The work in the hands of a pass.
pub(crate) struct TakenOver<'a> {
    work: MutexGuard<'a, Work>,
    shared: &'a Shared,
}

impl TakenOver<'_> {
    /// Puts the matrices of a unit into their places; those that are not ready are made so.
    pub(crate) fn finish<'m>(
        &mut self,
        index: usize,
        matrices: impl Iterator<Item = &'m mut Matrix>,
        kernels: Kernels,
        team: &Team<'_>,
    ) {
        if !self.work.pending[index].items.is_empty() {
            self.work.prepare(index, kernels, team, self.shared);
        }
        let mut ready = std::mem::take(&mut self.work.ready[index]);
        for (slot, place) in matrices.enumerate() {
            if let Some(at) = ready.iter().position(|(of, _)| *of == slot) {
                *place = ready.swap_remove(at).1;
            }
        }
    }

    /// Whether nothing is left to do or to take.
    pub(crate) fn is_done(&self) -> bool {
        let Work { pending, ready } = &*self.work;
        pending.iter().all(|unit| unit.items.is_empty()) && ready.iter().all(Vec::is_empty)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().expect("packing what was checked does not panic")
    }
}

impl Work {
    fn prepare(&mut self, index: usize, kernels: Kernels, team: &Team<'_>, shared: &Shared) {
        // The disk is to be ahead of the processor by this many units.
        const AHEAD: usize = 3;
        let first = if index == 0 { 1 } else { AHEAD };
        let ahead = (first..=AHEAD).filter_map(|ahead| self.pending.get(index + ahead));
        ahead.flat_map(|unit| &unit.items).for_each(|item| item.planned.piece.tensor.prefetch());
        for item in std::mem::take(&mut self.pending[index].items) {
            let bytes = item.part.len();
            self.ready[index].push(item.place(kernels, team));
            shared.ready.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Planned {
    /// Whether the matrix gets memory of its own.
    fn moves(&self, exact: bool, placement: Placement) -> bool {
        let in_place = self.piece.is_packed() && placement.in_place && self.is_aligned();
        !exact && !self.rows_only && self.dtype.panel().is_some() && !in_place
    }

    /// Bytes of the panels of a matrix that has a panel kind.
    fn packed_bytes(&self) -> usize {
        let bytes = Matrix::packed_bytes(self.dtype, self.rows, self.columns);
        bytes.expect("a type with a panel kind, in whole blocks")
    }

    /// Where its panels lie in the tensor.
    fn panels(&self) -> std::ops::Range<usize> {
        let first = self.piece.rows.as_ref().map_or(0, |rows| rows.start) / PANEL_ROWS;
        let bytes = self.packed_bytes();
        let start = first * (bytes / self.rows.div_ceil(PANEL_ROWS));
        start..start + bytes
    }

    // What is mapped is; bytes in memory may lie anywhere.
    fn is_aligned(&self) -> bool {
        self.piece.tensor.bytes().as_ptr().addr().is_multiple_of(Matrix::PANEL_ALIGN)
            && self.panels().start.is_multiple_of(Matrix::PANEL_ALIGN)
    }

    /// The matrix as it lies in the file.
    fn in_file(&self, exact: bool) -> Result<Matrix, ModelError> {
        let Planned { piece, dtype, rows, columns, .. } = self;
        let (dtype, rows, columns) = (*dtype, *rows, *columns);
        if !piece.is_packed() {
            return Ok(Matrix::from_blocks(dtype, rows, columns, Box::new(piece.bytes(dtype, columns)))?);
        }
        let matrix = if self.is_aligned() {
            Matrix::from_panels(dtype, rows, columns, Arc::new(piece.tensor.clone()), self.panels())
        } else {
            let bytes = &piece.tensor.bytes()[self.panels()];
            let mut arena = Arena::new(bytes.len()).map_err(|cause| ModelError::Memory {
                bytes: bytes.len(),
                purpose: "a packed matrix",
                cause,
            })?;
            arena[..bytes.len()].copy_from_slice(bytes);
            Matrix::from_panels(dtype, rows, columns, Arc::new(arena), 0..bytes.len())
        };
        Ok(if exact { matrix.exactly() } else { matrix })
    }
}

impl Item {
    /// Packs or copies the matrix into its memory, and gives the file's back meanwhile.
    fn place(mut self, kernels: Kernels, team: &Team<'_>) -> (usize, Matrix) {
        let Planned { piece, dtype, rows, columns, .. } = &self.planned;
        let (dtype, rows, columns) = (*dtype, *rows, *columns);
        let len = self.part.len();
        let panel = len / rows.div_ceil(PANEL_ROWS);
        if piece.is_packed() {
            let source = self.planned.panels();
            team.rows(&mut self.part, panel, |first, out| {
                let start = source.start + first * panel;
                let range = start..start + out.len();
                out.copy_from_slice(&piece.tensor.bytes()[range.clone()]);
                release(piece, range);
            });
        } else {
            let source = piece.bytes(dtype, columns);
            let blocks = source.as_ref();
            let group = PANEL_ROWS * (blocks.len() / rows);
            let offset = piece.rows.as_ref().map_or(0, |rows| rows.start) * (blocks.len() / rows);
            team.rows(&mut self.part, panel, |first, out| {
                let start = first * group;
                let end = (start + out.len() / panel * group).min(blocks.len());
                pack_panels(kernels, dtype, columns, &blocks[start..end], out);
                if piece.change == Change::None {
                    release(piece, offset + start..offset + end);
                }
            });
            if piece.change != Change::None {
                piece.tensor.release();
            }
        }
        let matrix = Matrix::from_panels(dtype, rows, columns, Arc::new(self.part), 0..len);
        (self.slot, matrix)
    }
}

/// Gives back the memory of bytes `range` of a tensor.
fn release(piece: &Piece, range: std::ops::Range<usize>) {
    let start = piece.tensor.range().start;
    piece.tensor.mapping().release(start + range.start..start + range.end);
}
