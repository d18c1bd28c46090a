//! Blocks of keys and values: shared, copied, saved, restored; how many there are.

mod common;

use common::{load, tiny_file};
use rz_model::arch::describe;
use rz_model::{
    Batch, CpuModel, Forward, KV_BLOCK, KvGroup, KvRoom, KvType, LoadOptions, ModelError, NO_BLOCK, Output,
    Want,
};
use rz_testkit::committed;
use rz_testkit::gguf::{Random, TinyLlama};

fn tokens(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 37 + salt) % 128).collect()
}

/// A model in which some layers have a window of 32 positions and others see all.
fn windowed(kv_type: KvType) -> CpuModel {
    let options = LoadOptions {
        context: 200,
        kv_room: KvRoom::Sequences(4),
        kv_type,
        max_batch: 64,
        activations: None,
        exact: false,
    };
    let model = load(&committed("archs/gemma3-dense.gguf"), 2, options);
    let mut windows: Vec<_> = model.kv_groups().iter().map(|group| group.window).collect();
    windows.sort();
    assert_eq!(windows, [None, Some(32)]);
    model
}

/// The logits of tokens that follow `start` others of the sequence with these tables.
fn feed(
    model: &mut CpuModel,
    tables: &[Vec<u32>],
    start: usize,
    tokens: &[u32],
) -> Result<Vec<f32>, ModelError> {
    let (mut all, mut out) = (Vec::new(), Output::default());
    for (i, tokens) in tokens.chunks(64).enumerate() {
        let first = (start + 64 * i) as u32;
        let positions: Vec<u32> = (first..).take(tokens.len()).collect();
        let batch = Batch {
            tokens,
            positions: &positions,
            sequences: &vec![0; tokens.len()],
            tables: &tables.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            outputs: &vec![Want::Logits; tokens.len()],
        };
        let layers = 0..model.layers();
        model.forward(&batch, layers, &mut out)?;
        all.extend_from_slice(&out.logits);
    }
    Ok(all)
}

/// A sequence that begins with blocks of another, of which it copies the one that it goes on
/// writing in, and one in another model that was filled with the same blocks' bytes.
#[test]
fn a_prefix_is_shared_and_restored() {
    for &(_, kv_type) in KvType::ALL {
        let mut model = windowed(kv_type);
        let vocabulary = model.vocabulary();
        let (first, rest, other) = (tokens(100, 1), tokens(50, 5), tokens(40, 9));
        let original: Vec<Vec<u32>> = vec![vec![4, 0, 3, 1, 5]; 2];
        let expected =
            feed(&mut model, &vec![vec![9, 8, 7, 6]; 2], 0, &[&first[..80], &other].concat()).unwrap();
        let whole = feed(&mut model, &original, 0, &[&first[..], &rest].concat()).unwrap();

        // Of the first 80 tokens, the third block holds the last 16.
        let groups = model.kv_groups().to_vec();
        let mut shared = original.clone();
        let mut saved: Vec<Vec<u8>> = Vec::new();
        for (index, (group, table)) in groups.iter().zip(&mut shared).enumerate() {
            model.copy_block(index, table[2], 10);
            *table = vec![table[0], table[1], 10, 11];
            let needed = group.first_needed(80);
            assert_eq!(needed, if group.window.is_some() { 1 } else { 0 });
            for (place, block) in table[..3].iter_mut().enumerate() {
                let mut bytes = vec![7];
                model.read_block(index, *block, &mut bytes);
                assert_eq!((bytes.len(), bytes[0]), (1 + group.block_bytes, 7));
                saved.push(bytes.split_off(1));
                if place < needed {
                    *block = NO_BLOCK;
                }
            }
            assert!(group.holds(table, 80));
        }
        assert_eq!(feed(&mut model, &shared, 80, &other).unwrap(), expected[80 * vocabulary..]);
        // The original goes on as if nothing had happened.
        assert_eq!(feed(&mut model, &original, 100, &rest).unwrap(), whole[100 * vocabulary..]);

        let mut restored = windowed(kv_type);
        for (index, group) in groups.iter().enumerate() {
            for (place, bytes) in saved[3 * index..][..3].iter().enumerate() {
                restored.write_block(index, 2 + place as u32, bytes).unwrap();
                let short = restored.write_block(index, 2, &bytes[1..]).unwrap_err().to_string();
                assert!(short.contains(&format!("{} bytes", group.block_bytes - 1)), "{short}");
                assert!(short.contains(&format!("expected {}", group.block_bytes)), "{short}");
            }
        }
        let tables = vec![vec![2, 3, 4, 0]; 2];
        assert_eq!(feed(&mut restored, &tables, 80, &other).unwrap(), expected[80 * vocabulary..]);
    }
}

#[test]
fn a_block_within_the_window_cannot_be_missing() {
    let mut model = windowed(KvType::F16);
    let groups = model.kv_groups().to_vec();
    let good: Vec<Vec<u32>> = vec![(0..7).collect(); 2];
    feed(&mut model, &good, 0, &tokens(200, 1)).unwrap();
    for (index, group) in groups.iter().enumerate() {
        for missing in 0..6 {
            let mut tables = good.clone();
            tables[index][missing] = NO_BLOCK;
            let result = feed(&mut model, &tables, 191, &[3]);
            // Position 191 sees 160 and what follows.
            match group.window.is_some() && missing < 5 {
                true => drop(result.unwrap()),
                false => {
                    let why = result.unwrap_err().to_string();
                    assert!(
                        why.contains("position 191") && why.contains(&format!("entry {missing}")),
                        "{why}"
                    );
                }
            }
        }
    }
    let why = feed(&mut model, &good[..1], 0, &[3]).unwrap_err().to_string();
    assert!(why.contains("1 block tables, expected 2"), "{why}");
}

#[test]
fn how_many_blocks_there_are() {
    let gguf = rz_formats::Gguf::open(committed("archs/gemma3-dense.gguf")).unwrap();
    let spec = describe(&gguf).unwrap().spec;
    let groups = |context, max_batch, kv_room| {
        let options = LoadOptions { context, max_batch, kv_room, ..LoadOptions::default() };
        options.kv_groups(&spec)
    };
    let of =
        |groups: &[KvGroup], window: bool| *groups.iter().find(|g| g.window.is_some() == window).unwrap();
    let one = groups(1000, 16, KvRoom::Sequences(1)).unwrap();
    assert_eq!((of(&one, false).blocks, of(&one, true).blocks), (32, 3));
    let elements: usize = spec.layers.iter().map(|layer| layer.attention.kv_heads * 2 * 64).sum();
    assert!(
        spec.layers.iter().all(|layer| (layer.attention.key_size, layer.attention.value_size) == (64, 64))
    );
    assert_eq!(one.iter().map(|group| group.block_bytes).sum::<usize>(), elements * KV_BLOCK * 2);

    let three = groups(1000, 16, KvRoom::Sequences(3)).unwrap();
    assert_eq!((of(&three, false).blocks, of(&three, true).blocks), (96, 9));
    // A short context needs less than the window.
    let short = groups(40, 16, KvRoom::Sequences(1)).unwrap();
    assert_eq!((of(&short, false).blocks, of(&short, true).blocks), (2, 2));

    let bytes =
        |groups: &[KvGroup]| groups.iter().map(|group| group.blocks * group.block_bytes).sum::<usize>();
    assert_eq!(groups(1000, 16, KvRoom::Bytes(bytes(&one))).unwrap(), one);
    assert_eq!(groups(1000, 16, KvRoom::Bytes(bytes(&three))).unwrap(), three);
    let between = groups(1000, 16, KvRoom::Bytes(bytes(&one) * 5 / 2)).unwrap();
    assert_eq!((of(&between, false).blocks, of(&between, true).blocks), (80, 7));
    let why = groups(1000, 16, KvRoom::Bytes(bytes(&one) - 1)).unwrap_err().to_string();
    assert!(why.contains("1000 tokens takes") && why.contains(&bytes(&one).to_string()), "{why}");
}

/// Bytes and scales are those of tensors of that type.
#[test]
fn bytes_are_rounded_as_in_tensors() {
    use rz_kernels::{Arena, KvFormat, Q8_0, write_head};
    let (keys, all) = (Q8_0::key_bytes(64), Q8_0::key_bytes(64) + Q8_0::value_bytes(64));
    let group = keys / 2;
    for runtime in common::every_runtime(1) {
        let mut random = Random::new(17);
        let mut part = Arena::new(all).unwrap();
        for slot in 0..KV_BLOCK {
            let size = 10f32.powi(slot as i32 % 7 - 4);
            let mut numbers = || -> Vec<f32> { (0..64).map(|_| size * random.normal()).collect() };
            let (key, mut value) = (numbers(), numbers());
            value[32..].fill(if slot == 3 { 0.0 } else { size });
            write_head::<Q8_0>(runtime.kernels, &mut part[..all], slot, &key, &value);
            for (x, start, across, along) in [(&key, 0, KV_BLOCK, 1), (&value, keys, 1, 32)] {
                let mut expected = Vec::new();
                rz_quant::DType::Q8_0.encode(x, &mut expected);
                for (g, expected) in expected.chunks_exact(34).enumerate() {
                    let got = &part[start + g * group..][..group];
                    let numbers: Vec<u8> = (0..32).map(|d| got[d * across + slot * along]).collect();
                    assert_eq!(numbers, expected[2..], "slot {slot}");
                    assert_eq!(got[1024 + 2 * slot..][..2], expected[..2], "slot {slot}");
                }
            }
        }
    }
}

#[test]
fn one_group_where_no_layer_has_a_window() {
    let gguf = tiny_file(&TinyLlama { tokenizer: false, ..TinyLlama::default() });
    let spec = describe(&gguf).unwrap().spec;
    let groups = LoadOptions { context: 100, ..LoadOptions::default() }.kv_groups(&spec).unwrap();
    // Two layers of two heads, keys and values of 16, in two bytes each.
    assert_eq!(groups, [KvGroup { window: None, blocks: 4, block_bytes: 2 * 2 * 2 * 16 * 2 * KV_BLOCK }]);
}
