//! No file, whatever it promises, makes a reader take memory out of proportion to its size.
//!
//! The one test of this program, because it counts what the whole program allocates.

use rz_formats::{FormatError, Gguf, Safetensors, json_object};
use rz_testkit::fixture;
use rz_testkit::gguf::RawGguf;
use rz_testkit::memory::{self, Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn memory_stays_in_proportion_to_the_file() {
    gguf();
    safetensors();
    json();
}

fn gguf() {
    const ARRAY: u32 = 9;
    let key = |type_id| RawGguf::new(0, 1).key("k", type_id);
    let nested = |depth: usize, len: u64| (0..depth).fold(key(ARRAY), |raw, _| raw.u32(ARRAY).u64(len));

    // Files of a few bytes that promise much.
    let mut small = vec![
        RawGguf::new(1 << 63, 0),
        RawGguf::new(u64::MAX, u64::MAX),
        RawGguf::new(0, 1 << 62),
        key(8).u64(1 << 62),
        RawGguf::new(1, 0).tensor("t", &[1 << 40], 0, 0),
        RawGguf::new(1, 0).string("t").u32(u32::MAX),
        nested(1000, 1),
        nested(8, u64::MAX),
    ];
    for element in 0..14 {
        small.push(key(ARRAY).u32(element).u64(1 << 61));
        small.push(key(ARRAY).u32(element).u64(u64::MAX / 8 + 1));
    }
    for raw in small {
        let bytes = raw.0.clone();
        let peak =
            memory::peak(|| Gguf::from_bytes("small", raw.0).expect_err("a malformed file was accepted")).1;
        assert!(peak < 16 * 1024, "{peak} bytes for a file of {}: {bytes:?}", bytes.len());
    }

    // Larger ones whose counts are as large as their size can excuse.
    const SIZE: usize = 8 << 20;
    let mut large = vec![
        RawGguf::new((SIZE / 33) as u64 - 1, 0).data(32, SIZE),
        RawGguf::new(0, 65536).data(32, SIZE),
        key(8).u64(SIZE as u64 - 1000).data(32, SIZE),
        key(ARRAY).u32(ARRAY).u64(65536).data(32, SIZE),
        // All strings empty: the most of them that a file can have.
        key(ARRAY).u32(8).u64(SIZE as u64 / 8 - 10).data(32, SIZE),
    ];
    for element in [0, 3, 4, 7, 8, 10, 12] {
        large.push(key(ARRAY).u32(element).u64(SIZE as u64 / 8 - 10).bytes(&[1; SIZE]));
    }
    for raw in large {
        let len = raw.0.len();
        let peak = memory::peak(|| Gguf::from_bytes("large", raw.0)).1;
        assert!(peak < 2 * len + 16 * 1024, "{peak} bytes for a file of {len}");
    }

    // The real model: its metadata, not its weights.
    let path = fixture("SmolLM2-135M-Instruct.Q4_1.gguf");
    let peak = memory::peak(|| Gguf::open(path).unwrap()).1;
    assert!(peak < 4 << 20, "{peak} bytes for the real model");
}

/// A safetensors file of this header, and of this many bytes in all.
fn file(length: u64, header: &str, size: usize) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(size.max(bytes.len()), 0);
    bytes
}

fn safetensors() {
    let open = |bytes| Safetensors::from_bytes("file", bytes);
    let whole = |header: &str, size| file(header.len() as u64, header, size);
    let tensor = |shape: &str, end: u64| {
        whole(&format!(r#"{{"t":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#), 0)
    };

    // Files of a few bytes that promise much.
    for bytes in [
        file(1 << 63, "{}", 0),
        file(u64::MAX, "{}", 0),
        file(100_000_000, "{}", 0),
        tensor("[1099511627776]", 1 << 42),
        tensor("[18446744073709551615]", u64::MAX),
        tensor("[0,9223372036854775807]", 0),
        whole(
            r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}}"#,
            0,
        ),
    ] {
        let peak = memory::peak(|| open(bytes).expect_err("a malformed file was accepted")).1;
        assert!(peak < 16 * 1024, "{peak} bytes for a small file");
    }

    // Data costs nothing, however much there is.
    const SIZE: usize = 8 << 20;
    let bytes = whole(r#"{"t":{"dtype":"U8","shape":[8388480],"data_offsets":[0,8388480]}}"#, SIZE);
    let len = bytes.len();
    let peak_of_data = memory::peak(|| open(bytes)).1;
    assert!(peak_of_data < 16 * 1024, "{peak_of_data} bytes for a file of {len}");

    // Headers whose content is as much as their size can hold.
    let list =
        |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let tensors = |dim: u64, end: u64| {
        let entry = |i| {
            format!(
                r#""{i:x}":{{"dtype":"U8","shape":[{dim}],"data_offsets":[{},{}]}}"#,
                end * i as u64,
                end * (i as u64 + 1)
            )
        };
        format!("{{{}}}", list(100_000, &entry))
    };
    let many_texts = format!(r#"{{"__metadata__":{{{}}}}}"#, list(65_536, &|i| format!(r#""{i:x}":"""#)));
    for (header, data) in [
        (tensors(0, 0), 0),
        (tensors(1, 1), 100_000),
        (many_texts, 0),
        // Texts and numbers that are kept for nothing.
        (format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "x".repeat(SIZE)), 0),
        (format!(r#"{{"t":{{"dtype":"{}"}}}}"#, "\\n".repeat(SIZE / 2)), 0),
        (format!(r#"{{"t":{{"{}":1}}}}"#, "\\n".repeat(SIZE / 2)), 0),
        (format!(r#"{{"t":{{"shape":[{}]}}}}"#, "1,".repeat(SIZE / 2)), 0),
        (format!(r#"{{"t":{}"#, "[".repeat(SIZE)), 0),
        (format!(r#"{{"t":{{"shape":"{}"}}}}"#, "x".repeat(SIZE)), 0),
    ] {
        let bytes = whole(&header, header.len() + 8 + data);
        let len = bytes.len();
        let peak = memory::peak(|| open(bytes)).1;
        assert!(peak < 10 * len + 16 * 1024, "{peak} bytes for a file of {len}: {}", &header[..60]);
    }
}

fn json() {
    const SIZE: usize = 8 << 20;
    let whole = |start: &str, item: &str, end: &str| {
        let mut text = start.to_owned();
        text += &item.repeat((SIZE - start.len() - end.len()) / item.len());
        text + end
    };
    let none = |name: &str| Err(FormatError::Empty { file: name.into() });
    // What is many values in few bytes is cut off; that number of values is the bound.
    const VALUES: usize = (1 << 19) * 72 * 3;
    for text in [
        whole("{\"a\":[0", ",0", "]}"),
        whole("{\"a\":[[]", ",[]", "]}"),
        whole("{\"a\":[{}", ",{}", "]}"),
        whole("{\"a\":", "[", ""),
        whole("{\"a\":\"", "x", "\"}"),
        whole("{\"a\":\"", "\\n", "\"}"),
        whole("{\"", "x", "\":1}"),
        whole("{\"weight_map\":{\"", "x", "\":\"a\"}}"),
        whole("{\"weight_map\":{\"a\":\"", "x", "\"}}"),
    ] {
        let peak_of_object = memory::peak(|| json_object("file", text.as_bytes())).1;
        assert!(peak_of_object < 3 * SIZE + VALUES, "{peak_of_object} bytes for {}", &text[..20]);
        let peak_of_index = memory::peak(|| Safetensors::from_index("file", text.as_bytes(), none)).1;
        assert!(peak_of_index < 3 * SIZE + VALUES, "{peak_of_index} bytes for {}", &text[..20]);
    }
    let weights: Vec<String> = (0..200_000).map(|i| format!(r#""{i:x}":"{:x}""#, i % 4096)).collect();
    let text = format!(r#"{{"weight_map":{{{}}}}}"#, weights.join(","));
    let peak = memory::peak(|| Safetensors::from_index("file", text.as_bytes(), none)).1;
    assert!(peak < 10 * text.len(), "{peak} bytes for an index of {}", text.len());
}
