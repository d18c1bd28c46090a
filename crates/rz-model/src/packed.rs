//! Writes a model whose matrices are packed already, so that later starts pack nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use rz_formats::{Gguf, GgufWriter, Tensor, TensorType};
use rz_kernels::{PANEL_ROWS, Runtime};
use rz_quant::{DType, Matrix, pack};

use crate::arch::{self, Description};
use crate::{ModelError, weights};

/// The key under which a packed file names what it was made of: the source's SHA-256.
pub const PACKED_SOURCE: &str = "rz.packed.source";

/// Progress of packing: bytes of tensors that are written, of how many. `Break` ends it.
pub type PackProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Where tensors start: at pages of every system in use, short of those of 16 KiB and more,
/// which only means that neighbours share one.
const ALIGNMENT: u32 = 4096;

/// Writes the model of `gguf` to `path` with the matrices packed that products read. The
/// file appears when it is whole. Metadata and the other tensors are kept as they are;
/// `source` is recorded as what the file was made of.
///
/// # Errors
/// When the model is not supported, or writing fails: with [`io::ErrorKind::Interrupted`]
/// when `progress` says so.
pub fn write_packed(
    gguf: &Gguf,
    runtime: &Runtime,
    path: &Path,
    source: Option<&str>,
    progress: PackProgress<'_>,
) -> Result<(), ModelError> {
    let Description { spec, .. } = arch::read(gguf)?;
    let plan = weights::plan(gguf, &spec)?.0;
    // A tensor that several matrices share is packed as a whole, where they start with panels.
    let mut packed: HashMap<&str, bool> = HashMap::new();
    for planned in plan.iter().filter(|planned| !planned.rows_only && planned.dtype.panel().is_some()) {
        let starts = planned.piece.rows.as_ref().is_none_or(|rows| rows.start.is_multiple_of(PANEL_ROWS));
        *packed.entry(planned.piece.tensor.name()).or_insert(true) &= starts;
    }
    let mut metadata = gguf.metadata().clone();
    metadata.insert("general.alignment", ALIGNMENT);
    if let Some(source) = source {
        metadata.insert(PACKED_SOURCE, source);
    }
    let total = gguf.tensors().map(|tensor| tensor.bytes().len() as u64).sum();
    let report = RefCell::new((0, progress));
    let report = &|bytes: usize| {
        let (done, progress) = &mut *report.borrow_mut();
        *done += bytes as u64;
        match progress(*done, total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(io::Error::from(io::ErrorKind::Interrupted)),
        }
    };
    let mut writer = GgufWriter::new(metadata);
    for tensor in gguf.tensors() {
        let wanted = packed.get(tensor.name()).copied().unwrap_or(false);
        match tensor.dtype().filter(|_| wanted).and_then(|dtype| Some((dtype, TensorType::packed(dtype)?))) {
            Some((dtype, packed)) => {
                writer.tensor_from(tensor.name(), tensor.shape(), packed, move |out| {
                    write_panels(tensor, dtype, runtime, out, report)
                })?
            }
            None => writer.tensor_from(tensor.name(), tensor.shape(), tensor.tensor_type(), move |out| {
                out.write_all(tensor.bytes())?;
                tensor.release();
                report(tensor.bytes().len())
            })?,
        };
    }
    Ok(writer.write(path)?)
}

/// Packs a matrix some rows at a time.
fn write_panels(
    tensor: &Tensor,
    dtype: DType,
    runtime: &Runtime,
    out: &mut dyn Write,
    report: &dyn Fn(usize) -> io::Result<()>,
) -> io::Result<()> {
    const PIECE: usize = 16 << 20;
    let columns = tensor.shape()[0] as usize;
    let blocks = tensor.bytes();
    let row = dtype.row_bytes(columns).expect("a checked shape");
    let group = (PIECE / row).next_multiple_of(PANEL_ROWS) * row;
    let mut panels = Vec::new();
    for (index, blocks) in blocks.chunks(group).enumerate() {
        let rows = blocks.len() / row;
        panels.resize(Matrix::packed_bytes(dtype, rows, columns).expect("a type with a panel kind"), 0);
        let packed =
            runtime.pool.step(|team| pack(runtime.kernels, team, dtype, rows, columns, blocks, &mut panels));
        packed.map_err(io::Error::other)?;
        out.write_all(&panels)?;
        let start = tensor.range().start + index * group;
        tensor.mapping().release(start..start + blocks.len());
        report(blocks.len())?;
    }
    Ok(())
}
