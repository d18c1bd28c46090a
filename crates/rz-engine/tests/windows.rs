//! A model whose layers keep a window of keys and values: going back in the sequence is
//! exact, whether the window survives or everything is computed anew.

use rz_engine::Session;
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, Forward, LoadOptions};
use rz_testkit::committed;

fn session() -> Session<CpuModel> {
    let gguf = Gguf::open(committed("archs/gemma3-dense.gguf")).unwrap();
    let options = LoadOptions { context: 256, max_batch: 16, ..LoadOptions::default() };
    let runtime = Runtime::new(Some(2)).unwrap();
    Session::new(CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).unwrap())
}

fn tokens(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 37 + salt) % 128).collect()
}

#[test]
fn going_back_is_exact() {
    // With a window of 32 and batches of 16, the layers that have it get three blocks of 32.
    let mut used = session();
    used.feed(&tokens(200, 1)).unwrap();
    for (keep, kept) in [(190, 190), (180, 180), (60, 0)] {
        let mut fresh = session();
        fresh.feed(&tokens(200, 1)[..keep]).unwrap();
        let expected = fresh.feed(&tokens(30, 9)).unwrap().to_vec();

        used.truncate(0);
        used.feed(&tokens(200, 1)).unwrap();
        let prompt = [&tokens(200, 1)[..keep], &tokens(30, 9)].concat();
        assert_eq!(used.reuse(&prompt), kept);
        assert_eq!(used.feed(&prompt[kept..]).unwrap(), expected);
    }
}

/// A sequence far longer than the blocks of a window, beside one that never lets a block go.
#[test]
fn blocks_behind_a_window_are_used_again() {
    let gguf = Gguf::open(committed("archs/gemma3-dense.gguf")).unwrap();
    let runtime = Runtime::new(Some(1)).unwrap();
    let scores = |max_batch: usize| {
        let options = LoadOptions { context: 512, max_batch, ..LoadOptions::default() };
        let model = CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).unwrap();
        let blocks: Vec<usize> = model.kv_groups().iter().map(|group| group.blocks).collect();
        let mut session = Session::new(model);
        assert_eq!(session.context(), 512);
        (blocks, session.feed(&tokens(500, 3)).unwrap().to_vec())
    };
    let (all, expected) = scores(512);
    let (few, got) = scores(16);
    assert!(all.iter().all(|&blocks| blocks == 16), "{all:?}");
    assert!(few.contains(&3) && few.contains(&16), "{few:?}");
    assert_eq!(got, expected);
}
