//! Fixtures and tiny models for the tests of this workspace.
