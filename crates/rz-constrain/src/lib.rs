#![doc = include_str!("../README.md")]

mod after;
mod compiler;
mod error;
mod gbnf;
mod matcher;
mod spec;
mod vocabulary;

pub use compiler::Compiler;
pub use error::ConstrainError;
pub use spec::ConstraintSpec;
