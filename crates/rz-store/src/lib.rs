//! Model references, a catalogue, verified downloads and a local store.
