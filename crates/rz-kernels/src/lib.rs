//! SIMD operations, panel products and a worker pool for CPU inference.

mod activations;
#[allow(unsafe_code)]
mod arch;
mod memory;
mod panel;
mod pool;
mod product;
mod runtime;
mod slices;

pub use activations::Activations;
pub use arch::{Isa, IsaKind, Kernels, LANES, SimdOp};
pub use memory::{Arena, read_all};
pub use panel::{PANEL_COLUMNS, PANEL_ROWS, PanelKind, PanelRef};
pub use product::panel_product;
pub use pool::{Pool, Team};
pub use runtime::Runtime;
pub use slices::{Columns, Split};
