//! SIMD operations, panel products and a worker pool for CPU inference.

mod panel;

pub use panel::{PANEL_COLUMNS, PANEL_ROWS, PanelKind};
