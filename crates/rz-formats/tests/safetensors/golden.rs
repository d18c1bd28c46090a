//! Files made by other programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rz_formats::{ModelFolder, Safetensors, SafetensorsWriter};
use rz_testkit::committed;
use serde_json::Value;

/// What the Python package reads in the file of this name.
fn expected(name: &str) -> Value {
    let all = fs::read(committed("safetensors/expected.json")).unwrap();
    serde_json::from_slice::<Value>(&all).unwrap()[name].take()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares what is in a file with what the Python package reads there.
fn check(name: &str, found: &Safetensors) {
    let expected = expected(name);
    let texts = |value: &Value| value.as_str().unwrap().to_owned();
    let metadata: BTreeMap<String, String> = expected["metadata"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), texts(value)))
        .collect();
    assert_eq!(found.metadata(), &metadata);

    let tensors = expected["tensors"].as_object().unwrap();
    assert_eq!(found.tensors().len() + found.empty_tensors().len(), tensors.len());
    for (name, expected) in tensors {
        let mut shape: Vec<u64> =
            expected["shape"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
        if shape.contains(&0) {
            assert!(found.empty_tensors().any(|empty| empty == name), "{name}");
            assert!(found.tensor(name).is_none(), "{name}");
            continue;
        }
        shape.reverse();
        if shape.is_empty() {
            shape.push(1);
        }
        let tensor = found.tensor(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(tensor.name(), name);
        assert_eq!(tensor.tensor_type().name(), expected["dtype"].as_str().unwrap(), "{name}");
        assert_eq!(tensor.shape(), shape, "{name}");
        assert_eq!(hex(tensor.bytes()), expected["data"].as_str().unwrap(), "{name}");
    }
    let order: Vec<String> = expected["order"].as_array().unwrap().iter().map(texts).collect();
    let order = order.iter().filter(|name| found.tensor(name).is_some());
    assert!(found.tensors().map(|tensor| tensor.name()).eq(order));
}

#[test]
fn a_file_of_every_type_of_the_python_package() {
    let found = Safetensors::open(committed("safetensors/types.safetensors")).unwrap();
    check("types.safetensors", &found);
    found.check_unchanged().unwrap();
    let computed: Vec<_> =
        found.tensors().filter_map(|tensor| tensor.dtype()).map(|dtype| dtype.name()).collect();
    assert_eq!(computed, ["F32", "F32", "F32", "F32", "BF16", "F16"]);
}

/// Scalars, tensors without data, any order in the header, data at any byte.
#[test]
fn a_file_of_what_writers_seldom_do() {
    let found = Safetensors::open(committed("safetensors/odd.safetensors")).unwrap();
    check("odd.safetensors", &found);
    assert!(found.empty_tensors().eq(["escaped/🦀", "none", "none at the end"]));
    assert_eq!(found.tensor("scalar").unwrap().shape(), [1]);
    assert!(!found.tensor("last").unwrap().range().start.is_multiple_of(4), "no float is aligned");
}

#[test]
fn shards_of_the_python_package() {
    let folder = committed("safetensors/folder");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let parts = shards.map(|shard| {
        let found = Safetensors::open(folder.join(shard)).unwrap();
        check(&format!("folder/{shard}"), &found);
        found
    });
    // The folder and its index give the tensors of both.
    for path in [folder.clone(), folder.join("model.safetensors.index.json")] {
        let whole = Safetensors::open(path).unwrap();
        let files: Vec<&Path> = whole.files().map(|file| file.file()).collect();
        assert_eq!(files, shards.map(|shard| folder.join(shard)));
        assert_eq!(whole.metadata(), parts[0].metadata());
        assert_eq!(whole.tensors().len(), 4);
        for (tensor, part) in whole.tensors().zip(parts.iter().flat_map(Safetensors::tensors)) {
            assert_eq!(format!("{tensor:?}"), format!("{part:?}"));
            assert_eq!(tensor.bytes(), part.bytes());
            assert_eq!(whole.tensor(tensor.name()).unwrap().range(), tensor.range());
        }
        whole.check_unchanged().unwrap();
    }
    let up = parts[0].tensor("model.layers.0.mlp.up_proj.weight").unwrap();
    assert_eq!(up.shape(), [4, 5], "five rows of four");
}

#[test]
fn values_of_the_three_types_to_compute_with() {
    let model = Safetensors::open(committed("safetensors/folder")).unwrap();
    // fixtures/safetensors/make.py counts up in eighths.
    for (name, start) in [
        ("model.embed_tokens.weight", 0),
        ("model.layers.0.mlp.up_proj.weight", 3),
        ("model.layers.0.input_layernorm.weight", 5),
        ("model.norm.weight", 7),
    ] {
        let tensor = model.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.elements() as usize];
        tensor.dtype().unwrap().decode(tensor.bytes(), &mut values);
        let expected = (start..).map(|i| i as f32 / 8.0 - 1.0).take(values.len());
        assert!(values.iter().copied().eq(expected), "{name}: {values:?}");
    }
}

#[test]
fn a_whole_folder() {
    let model = ModelFolder::open(committed("safetensors/folder")).unwrap();
    assert_eq!(model.path(), committed("safetensors/folder"));
    assert_eq!(model.tensors().tensors().len(), 4);
    let config = model.config();
    assert_eq!(model.config_path(), committed("safetensors/folder/config.json"));
    assert!(config.keys().take(3).eq(["architectures", "model_type", "hidden_size"]));
    assert_eq!(config["hidden_size"], 4);
    assert_eq!(config["rope_scaling"]["factor"], 8.0);
    assert_eq!(model.generation_config().unwrap()["do_sample"], true);
    assert_eq!(model.tokenizer_config().unwrap()["bos_token"], "<s>");
    assert!(fs::read(model.tokenizer_json().unwrap()).unwrap().starts_with(b"{"));
    assert_eq!(model.chat_template(), Some("{{ messages }}"));
    assert_eq!(model.chat_templates()["tool_use"], "{{ tools }}");
}

/// What the writer makes of files that the Python package wrote is those files, byte for byte.
#[test]
fn the_writer_agrees_with_the_python_package() {
    for name in ["types", "folder/model-00001-of-00002", "folder/model-00002-of-00002"] {
        let path = committed(&format!("safetensors/{name}.safetensors"));
        let model = Safetensors::open(&path).unwrap();
        let mut writer = SafetensorsWriter::new();
        for (key, value) in model.metadata() {
            writer.metadata(key, value);
        }
        let mut tensors: Vec<_> = model.tensors().collect();
        tensors.reverse();
        for tensor in tensors {
            writer.tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes()).unwrap();
        }
        assert!(writer.to_bytes().unwrap() == fs::read(path).unwrap(), "{name}");
    }
}
