//! Every format against other implementations: bytes and values made by
//! `fixtures/quant/make.py`, which says where they come from.

use rz_quant::DType;
use rz_testkit::committed;
use serde_json::Value;

fn read(name: &str) -> Vec<u8> {
    let path = committed(&format!("quant/{name}"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn summary() -> Value {
    serde_json::from_slice(&read("errors.json")).expect("errors.json is JSON")
}

/// The data sets of `input.f32` after its first part, which holds edge cases.
fn data_sets() -> Vec<(String, Vec<f32>)> {
    let (summary, input) = (summary(), floats(&read("input.f32")));
    let number = |key: &str| summary[key].as_u64().expect("a number") as usize;
    let names = summary["sets"].as_array().expect("a list of names");
    let sets = input[number("edges")..].chunks_exact(number("length"));
    assert_eq!(sets.len(), names.len());
    names.iter().zip(sets).map(|(name, x)| (name.as_str().expect("a name").to_owned(), x.to_vec())).collect()
}

fn round_trip(dtype: DType, x: &[f32]) -> Vec<f32> {
    let (mut blocks, mut back) = (Vec::new(), vec![0.0; x.len()]);
    dtype.encode(x, &mut blocks);
    dtype.decode(&blocks, &mut back);
    back
}

fn rms(x: &[f32], y: &[f32]) -> f64 {
    let squares: f64 = x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    (squares / x.len() as f64).sqrt()
}

#[test]
fn decode_gives_the_recorded_bits() {
    for &dtype in DType::ALL {
        let golden = read(&format!("{}.decode", dtype.name().to_lowercase()));
        let count = golden.len() / (dtype.block_bytes() + 4 * dtype.block_elements());
        let (blocks, values) = golden.split_at(count * dtype.block_bytes());
        let expected = floats(values);
        let mut actual = vec![0.0; expected.len()];
        dtype.decode(blocks, &mut actual);
        for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            assert_eq!(
                actual.to_bits(),
                expected.to_bits(),
                "{dtype}[{i}]: {actual:e}, recorded {expected:e}"
            );
        }
    }
}

/// Formats whose quantizer is fixed by convention give the same bytes everywhere;
/// the others, whose scales are searched for, must not err more than llama.cpp.
#[test]
fn encode_gives_the_recorded_bytes_or_a_smaller_error() {
    let (input, errors) = (floats(&read("input.f32")), &summary()["errors"]);
    for &dtype in DType::ALL {
        if dtype.name().ends_with("_K") || dtype.name().starts_with("IQ") {
            for (name, x) in data_sets() {
                let peer = errors[dtype.name()][&name].as_f64().expect("a recorded error");
                let ours = rms(&x, &round_trip(dtype, &x));
                println!("{dtype} {name}: {ours:.6}, llama.cpp {peer:.6}, ratio {:.4}", ours / peer);
                assert!(ours <= peer, "{dtype} on {name}: RMS error {ours}, llama.cpp {peer}");
            }
        } else {
            let expected = if dtype == DType::F32 {
                read("input.f32")
            } else {
                read(&format!("{}.encode", dtype.name().to_lowercase()))
            };
            let mut actual = Vec::new();
            dtype.encode(&input, &mut actual);
            assert_eq!(actual.len(), expected.len(), "{dtype}");
            for (i, (actual, expected)) in
                actual.chunks(dtype.block_bytes()).zip(expected.chunks(dtype.block_bytes())).enumerate()
            {
                let x = &input[i * dtype.block_elements()..][..dtype.block_elements()];
                assert_eq!(actual, expected, "{dtype}, block {i}: {x:?}");
            }
        }
    }
}

/// llama.cpp's own test bounds the root of the sum of squares over the number of
/// elements, on 4096 elements of this wave.
#[test]
fn the_round_trip_keeps_within_the_bounds_of_llama_cpp() {
    let wave: Vec<f32> = (0..4096).map(|i| 0.1 + 2.0 * (i as f32).cos()).collect();
    for &dtype in DType::ALL {
        let bound = match dtype {
            DType::Q2_K => 0.0075,
            DType::Q3_K => 0.004,
            DType::MXFP4 => 0.003,
            _ => 0.002,
        };
        let error = rms(&wave, &round_trip(dtype, &wave)) / (wave.len() as f64).sqrt();
        assert!(error <= bound, "{dtype}: {error}, bound {bound}");
    }
}
