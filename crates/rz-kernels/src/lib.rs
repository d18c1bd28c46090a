//! SIMD operations, panel products and a worker pool for CPU inference.

mod activations;
#[allow(unsafe_code)]
mod arch;
mod attention;
mod memory;
mod ops;
mod panel;
mod peak;
mod pool;
mod processors;
mod product;
mod runtime;
mod slices;

pub use activations::{ActivationShare, ActivationType, Activations};
pub use arch::{Isa, IsaKind, Kernels, LANES, SimdOp};
pub use attention::{
    KV_BLOCK, KvFormat, KvView, MAX_HEAD, Q8_0, QUERIES, Query, SPAN, attend, attend_span, merge_spans,
    span_row, write_head,
};
pub use memory::{Arena, ArenaPart, last_level_cache, read_all};
pub use ops::{
    Activation, activate, add_assign, dot_rows, layer_norm, rms_norm, rotate_halves, rotate_neighbours,
    soft_cap,
};
pub use panel::{CURVED_LEVELS, FLOAT_LEVELS, PANEL_COLUMNS, PANEL_ROWS, PanelKind, PanelRef};
pub use peak::dot_peak;
pub use pool::{Pool, Team};
pub use processors::Processors;
pub use product::{float_panel_product, panel_product};
pub use runtime::Runtime;
pub use slices::{Columns, Split};

// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
