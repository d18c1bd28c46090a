//! Any header with a seal that fits it is a packed file or an error of one line, and no
//! tensor of it is smaller than what a product reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rz_formats::Gguf;
use rz_quant::{Matrix, PACKED_LAYOUT};

fuzz_target!(|data: &[u8]| {
    // The first two bytes say where the header ends.
    let Some((cut, file)) = data.split_first_chunk::<2>() else { return };
    let header = usize::from(u16::from_le_bytes(*cut)).min(file.len());
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for chunk in file[..header].chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
    }
    let mut bytes = file.to_vec();
    bytes.extend_from_slice(b"rzpacked");
    bytes.extend_from_slice(&u64::from(PACKED_LAYOUT).to_le_bytes());
    bytes.extend_from_slice(&(header as u64).to_le_bytes());
    bytes.extend_from_slice(&sum.to_le_bytes());
    let model = match Gguf::from_bytes("fuzz", bytes) {
        Ok(model) => model,
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1);
            return;
        }
    };
    for tensor in model.tensors() {
        let Some(dtype) = tensor.tensor_type().packs() else { continue };
        assert_eq!(tensor.dtype(), None);
        let columns = tensor.shape()[0] as usize;
        let rows = tensor.shape().get(1).map_or(1, |&rows| rows as usize);
        let matrices: u64 = tensor.shape().iter().skip(2).product();
        let one = Matrix::packed_bytes(dtype, rows, columns).expect("a size that was checked");
        assert_eq!(tensor.bytes().len(), one * matrices as usize);
    }
});
