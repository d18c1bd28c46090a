//! Memory-mapped, validated readers and writers of model files.

/// Placeholder until the reader lands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[error("format error")]
pub struct FormatError;
