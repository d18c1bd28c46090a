//! Any bytes are a safetensors file, an index, a JSON file, or an error of one line; a file
//! that is read can be written, and reads back the same.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rz_formats::{FormatError, Mapping, Safetensors, SafetensorsWriter, json_object};

fuzz_target!(|data: &[u8]| {
    match Safetensors::from_bytes("fuzz", data.to_vec()) {
        Ok(model) => written_and_read_again(&model),
        Err(error) => check(&error),
    }
    if let Err(error) = json_object("fuzz", data) {
        check(&error);
    }
    // Every file of an index has the one tensor "t".
    let opened = Safetensors::from_index("fuzz", data, |name| {
        assert_eq!(Path::new(name).file_name().expect("a file name"), name);
        let header = br#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        Ok(Mapping::from_bytes(name, bytes))
    });
    match opened {
        Ok(model) => assert!(model.tensors().map(|tensor| tensor.name()).eq(["t"])),
        Err(error) => check(&error),
    }
});

fn check(error: &FormatError) {
    let message = error.to_string();
    assert!(!message.contains(char::is_control), "{message:?}");
}

fn written_and_read_again(model: &Safetensors) {
    let mut writer = SafetensorsWriter::new();
    for (key, value) in model.metadata() {
        writer.metadata(key, value);
    }
    for tensor in model.tensors() {
        writer
            .tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes())
            .expect("a tensor that was read can be written");
    }
    let bytes = writer.to_bytes().expect("what was read can be written");
    let again = Safetensors::from_bytes("again", bytes).expect("what was written can be read");
    assert_eq!(again.metadata(), model.metadata());
    assert_eq!(again.tensors().len(), model.tensors().len());
    for a in model.tensors() {
        let b = again.tensor(a.name()).expect("the same tensors");
        assert_eq!((a.shape(), a.tensor_type()), (b.shape(), b.tensor_type()));
        assert!(a.bytes() == b.bytes());
    }
}
