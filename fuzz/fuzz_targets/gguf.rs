//! Any bytes are a GGUF file or an error of one line; a file that is read can be
//! written, and reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rz_formats::{Gguf, GgufWriter};

fuzz_target!(|data: &[u8]| {
    let model = match Gguf::from_bytes("fuzz", data.to_vec()) {
        Ok(model) => model,
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1);
            return;
        }
    };
    let mut writer = GgufWriter::new(model.metadata().clone());
    for tensor in model.tensors() {
        writer
            .tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes())
            .expect("a tensor that was read can be written");
    }
    let bytes = writer.to_bytes().expect("what was read can be written");
    let again = Gguf::from_bytes("again", bytes).expect("what was written can be read");
    assert_eq!(again.tensors().len(), model.tensors().len());
    for (a, b) in again.tensors().zip(model.tensors()) {
        assert_eq!((a.name(), a.shape(), a.tensor_type()), (b.name(), b.shape(), b.tensor_type()));
        assert!(a.bytes() == b.bytes());
    }
    // Compared as text, because NaN is not equal to itself.
    let own = |key: &str| ["split.no", "split.count", "split.tensors.count"].contains(&key);
    let kept = model.metadata().iter().filter(|(key, _)| !own(key)).map(|entry| format!("{entry:?}"));
    assert!(again.metadata().iter().map(|entry| format!("{entry:?}")).eq(kept));
});
