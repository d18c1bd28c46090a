//! Fixtures and tiny models for the tests of this workspace.

pub mod gguf;
pub mod memory;
pub mod reference;

use std::path::{Path, PathBuf};

/// Path of a large fixture, kept outside the repository in `fixtures/cache/`.
///
/// # Panics
///
/// When the file is absent: a test never skips silently.
pub fn fixture(name: &str) -> PathBuf {
    existing(fixtures().join("cache").join(name), "run `cargo xtask fixtures` to fetch it")
}

/// Path of a small fixture committed to the repository, given relative to `fixtures/`.
///
/// # Panics
///
/// When the file is absent.
pub fn committed(relative: &str) -> PathBuf {
    existing(fixtures().join(relative), "it belongs to the repository: restore it with git")
}

/// Normalised mean squared error of `actual` against `expected`: the energy of the difference over
/// the energy of `expected`, accumulated in `f64`.
///
/// Zero when both are equal, infinite when only `expected` is all zero, NaN when a NaN is involved,
/// so that `nmse(..) <= limit` fails on it.
///
/// # Panics
///
/// When the lengths differ.
pub fn nmse(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "nmse compares slices of one length");
    let (mut error, mut energy) = (0f64, 0f64);
    for (&a, &e) in actual.iter().zip(expected) {
        error += (f64::from(a) - f64::from(e)).powi(2);
        energy += f64::from(e).powi(2);
    }
    if error == 0.0 { 0.0 } else { error / energy }
}

fn fixtures() -> PathBuf {
    // crates/rz-testkit/../../fixtures
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies two folders below the workspace")
        .join("fixtures")
}

fn existing(path: PathBuf, advice: &str) -> PathBuf {
    assert!(path.exists(), "fixture {} is absent: {advice}", path.display());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nmse_is_relative_to_the_expected_energy() {
        assert_eq!(nmse(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(nmse(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert_eq!(nmse(&[3.0, 5.0], &[3.0, 4.0]), 1.0 / 25.0);
        assert_eq!(nmse(&[1.0], &[0.0]), f64::INFINITY);
        assert!(nmse(&[f32::NAN], &[1.0]).is_nan());
    }

    #[test]
    fn a_committed_fixture_is_found() {
        assert!(committed("references/smollm2_ref.json").is_file());
    }

    #[test]
    #[should_panic(expected = "run `cargo xtask fixtures`")]
    fn an_absent_fixture_says_how_to_get_it() {
        fixture("no-such-fixture");
    }
}
