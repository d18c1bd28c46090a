//! GGUF files for tests: tiny random models, and raw bytes for files that are wrong.

use std::path::{Path, PathBuf};

use rz_formats::{GgufWriter, Metadata, StringArray};
use rz_quant::DType;

/// A random model of the `llama` family, small enough to make in a test.
///
/// The fields may be set to anything, also to what no model can have; what a file
/// cannot hold panics when it is made. The same fields give the same bytes.
///
/// ```
/// use rz_formats::Gguf;
/// use rz_testkit::gguf::TinyLlama;
///
/// let tiny = TinyLlama { layers: 1, ..TinyLlama::default() };
/// let model = Gguf::from_bytes("tiny", tiny.to_bytes())?;
/// assert_eq!(model.tensor("blk.0.attn_k.weight").unwrap().shape(), [64, 32]);
/// # Ok::<(), rz_formats::FormatError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TinyLlama {
    /// Width of the residual stream.
    pub dim: u32,
    /// Number of layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_size: u32,
    /// Width of the feed-forward part.
    pub feed_forward: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Longest context.
    pub context: u32,
    /// Type of the matrices; vectors are always F32.
    pub dtype: DType,
    /// Whether the output uses the embedding table.
    pub tied: bool,
    /// Whether there is a `rope_freqs.weight`, with factors from 1 to 4.
    pub rope_factors: bool,
    /// Whether the file has a tokenizer: SentencePiece-style, with byte tokens
    /// (see [`spm_tokenizer`]). It takes at least 259 entries.
    pub tokenizer: bool,
    /// Different seeds give different weights.
    pub seed: u64,
}

impl Default for TinyLlama {
    /// Two layers of width 64 with grouped heads, F32, a tokenizer of 320 entries.
    fn default() -> Self {
        TinyLlama {
            dim: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_size: 16,
            feed_forward: 96,
            vocab: 320,
            context: 256,
            dtype: DType::F32,
            tied: true,
            rope_factors: false,
            tokenizer: true,
            seed: 1,
        }
    }
}

/// A tensor of a model in the making.
#[derive(Clone, Debug, PartialEq)]
pub struct TinyTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, the contiguous one first.
    pub shape: Vec<u64>,
    /// The type to store it in.
    pub dtype: DType,
    /// Its elements.
    pub values: Vec<f32>,
}

impl TinyLlama {
    /// The keys of the model, those of its tokenizer included.
    pub fn metadata(&self) -> Metadata {
        let mut meta = Metadata::new();
        meta.insert("general.architecture", "llama");
        meta.insert("general.name", "tiny random llama");
        meta.insert("llama.vocab_size", self.vocab);
        meta.insert("llama.context_length", self.context);
        meta.insert("llama.embedding_length", self.dim);
        meta.insert("llama.block_count", self.layers);
        meta.insert("llama.feed_forward_length", self.feed_forward);
        meta.insert("llama.attention.head_count", self.heads);
        meta.insert("llama.attention.head_count_kv", self.kv_heads);
        meta.insert("llama.attention.key_length", self.head_size);
        meta.insert("llama.attention.value_length", self.head_size);
        meta.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        meta.insert("llama.rope.dimension_count", self.head_size);
        meta.insert("llama.rope.freq_base", 10000f32);
        if self.tokenizer {
            for (key, value) in spm_tokenizer(self.vocab).iter() {
                meta.insert(key, value.clone());
            }
        }
        meta
    }

    /// The weights, before they are stored as [`dtype`](Self::dtype).
    pub fn tensors(&self) -> Vec<TinyTensor> {
        let (dim, ff, vocab) = (self.dim.into(), self.feed_forward.into(), self.vocab.into());
        let q = u64::from(self.heads) * u64::from(self.head_size);
        let kv = u64::from(self.kv_heads) * u64::from(self.head_size);
        let mut made = Weights { random: Random::new(self.seed), dtype: self.dtype, tensors: Vec::new() };
        made.matrix("token_embd.weight", dim, vocab);
        made.norm("output_norm.weight", dim);
        if !self.tied {
            made.matrix("output.weight", dim, vocab);
        }
        if self.rope_factors {
            made.factors("rope_freqs.weight", u64::from(self.head_size) / 2);
        }
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            made.norm(&name("attn_norm"), dim);
            made.matrix(&name("attn_q"), dim, q);
            made.matrix(&name("attn_k"), dim, kv);
            made.matrix(&name("attn_v"), dim, kv);
            made.matrix(&name("attn_output"), q, dim);
            made.norm(&name("ffn_norm"), dim);
            made.matrix(&name("ffn_gate"), dim, ff);
            made.matrix(&name("ffn_up"), dim, ff);
            made.matrix(&name("ffn_down"), ff, dim);
        }
        made.tensors
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        gguf_bytes(self.metadata(), &self.tensors())
    }

    /// A file of the keys alone.
    pub fn metadata_only(&self) -> Vec<u8> {
        gguf_bytes(self.metadata(), &[])
    }

    /// Writes the file as `tiny.gguf` into `folder`.
    pub fn write(&self, folder: impl AsRef<Path>) -> PathBuf {
        let path = folder.as_ref().join("tiny.gguf");
        std::fs::write(&path, self.to_bytes()).expect("a tiny model can be written");
        path
    }
}

/// A file of these keys and tensors, each stored as its type.
///
/// # Panics
/// When a file cannot hold them.
pub fn gguf_bytes(metadata: Metadata, tensors: &[TinyTensor]) -> Vec<u8> {
    let mut writer = GgufWriter::new(metadata);
    for tensor in tensors {
        let mut bytes = Vec::new();
        tensor.dtype.encode(&tensor.values, &mut bytes);
        writer
            .tensor(&tensor.name, &tensor.shape, tensor.dtype, bytes)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    writer.to_bytes().unwrap_or_else(|error| panic!("{error}"))
}

/// The keys of a SentencePiece-style tokenizer of `size` entries: `<unk>`, `<s>`, `</s>`, the
/// 256 byte tokens, then the space mark, the letters, and made-up words of falling score.
///
/// # Panics
/// When `size` is below 259.
pub fn spm_tokenizer(size: u32) -> Metadata {
    const NORMAL: i32 = 1;
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const BYTE: i32 = 6;
    assert!(size >= 259, "a tokenizer with byte tokens has at least 259 entries");
    let special = [("<unk>".into(), UNKNOWN), ("<s>".into(), CONTROL), ("</s>".into(), CONTROL)];
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), BYTE));
    let letters = std::iter::once('▁').chain('a'..='z').map(|letter| (letter.to_string(), NORMAL));
    let pairs = "etaoinshrdlu".chars().flat_map(|a| "etaoinshr".chars().map(move |b| format!("{a}{b}")));
    let words = (0u32..).map(|word| format!("▁w{word}"));
    let words = pairs.chain(words).map(|word| (word, NORMAL));
    let all = special.into_iter().chain(bytes).chain(letters).chain(words).take(size as usize);
    let (tokens, types): (Vec<String>, Vec<i32>) = all.unzip();
    let scores: Vec<f32> =
        types.iter().enumerate().map(|(i, &kind)| if kind == NORMAL { -(i as f32) } else { 0.0 }).collect();

    let mut meta = Metadata::new();
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.pre", "default");
    meta.insert("tokenizer.ggml.tokens", tokens.iter().collect::<StringArray>());
    meta.insert("tokenizer.ggml.scores", scores);
    meta.insert("tokenizer.ggml.token_type", types);
    meta.insert("tokenizer.ggml.unknown_token_id", 0u32);
    meta.insert("tokenizer.ggml.bos_token_id", 1u32);
    meta.insert("tokenizer.ggml.eos_token_id", 2u32);
    meta.insert("tokenizer.ggml.add_bos_token", true);
    meta.insert("tokenizer.ggml.add_eos_token", false);
    meta
}

/// Bytes of a GGUF file, put together by hand so that they can be wrong.
///
/// Each method appends; strings and counts may be given lengths that are not theirs.
#[derive(Clone, Debug, Default)]
pub struct RawGguf(pub Vec<u8>);

impl RawGguf {
    /// The start of a file of version 3 that promises these numbers of tensors and keys.
    pub fn new(tensors: u64, keys: u64) -> Self {
        Self::with_version(3, tensors, keys)
    }

    /// The start of a file of any version.
    pub fn with_version(version: u32, tensors: u64, keys: u64) -> Self {
        RawGguf(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    /// Appends bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a number.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a number.
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a string: its length and its bytes.
    pub fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// Appends a key and the number of its value's type; the value is to follow.
    pub fn key(self, key: &str, type_id: u32) -> Self {
        self.string(key).u32(type_id)
    }

    /// Appends a key with a value of type u32.
    pub fn key_u32(self, key: &str, value: u32) -> Self {
        self.key(key, 4).u32(value)
    }

    /// Appends the entry of a tensor; its data is to follow at `offset` of the data.
    pub fn tensor(self, name: &str, shape: &[u64], type_id: u32, offset: u64) -> Self {
        let start = self.string(name).u32(shape.len() as u32);
        shape.iter().fold(start, |raw, &dim| raw.u64(dim)).u32(type_id).u64(offset)
    }

    /// Appends zeros up to a multiple of `alignment`, then `len` bytes of data.
    pub fn data(mut self, alignment: usize, len: usize) -> Self {
        let start = self.0.len().next_multiple_of(alignment);
        self.0.resize(start + len, 0);
        self
    }
}

/// Random numbers of a fixed algorithm (SplitMix64), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; different seeds give different sequences.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// A number from -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// A number of mean 0 and standard deviation 1, close to normally distributed.
    pub fn normal(&mut self) -> f32 {
        // The sum of three: each has a variance of 1/3.
        self.unit() + self.unit() + self.unit()
    }
}

struct Weights {
    random: Random,
    dtype: DType,
    tensors: Vec<TinyTensor>,
}

impl Weights {
    fn matrix(&mut self, name: &str, columns: u64, rows: u64) {
        let deviation = 1.0 / (columns as f32).sqrt();
        let values = (0..columns * rows).map(|_| self.random.normal() * deviation).collect();
        let tensor =
            TinyTensor { name: name.to_owned(), shape: vec![columns, rows], dtype: self.dtype, values };
        self.tensors.push(tensor);
    }

    fn norm(&mut self, name: &str, len: u64) {
        let values = (0..len).map(|_| 1.0 + 0.1 * self.random.normal()).collect();
        self.vector(name, len, values);
    }

    fn factors(&mut self, name: &str, len: u64) {
        let values = (0..len).map(|_| 2.5 + 1.5 * self.random.unit()).collect();
        self.vector(name, len, values);
    }

    fn vector(&mut self, name: &str, len: u64, values: Vec<f32>) {
        self.tensors.push(TinyTensor { name: name.to_owned(), shape: vec![len], dtype: DType::F32, values });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rz_formats::Gguf;

    #[test]
    fn a_tiny_model_holds_its_weights_and_is_always_the_same() {
        let tiny = TinyLlama { dtype: DType::Q8_0, tied: false, rope_factors: true, ..TinyLlama::default() };
        assert_eq!(tiny.to_bytes(), tiny.to_bytes());
        assert_ne!(tiny.to_bytes(), TinyLlama { seed: 2, ..tiny.clone() }.to_bytes());
        let model = Gguf::from_bytes("tiny", tiny.to_bytes()).unwrap();
        assert_eq!(model.metadata(), &tiny.metadata());
        assert_eq!(model.tensors().len(), tiny.tensors().len());
        for (found, made) in model.tensors().zip(tiny.tensors()) {
            assert_eq!((found.name(), found.shape()), (made.name.as_str(), made.shape.as_slice()));
            let mut values = vec![0.0; made.values.len()];
            found.dtype().unwrap().decode(found.bytes(), &mut values);
            assert!(crate::nmse(&values, &made.values) < 1e-4, "{}", made.name);
        }
    }

    #[test]
    fn the_tokenizer_has_as_many_entries_as_the_vocabulary_and_none_twice() {
        for size in [259, 320, 500] {
            let meta = spm_tokenizer(size);
            let tokens = meta.require_strings("tokenizer.ggml.tokens").unwrap();
            assert_eq!(tokens.len(), size as usize);
            assert_eq!(tokens.iter().collect::<std::collections::HashSet<_>>().len(), tokens.len());
            assert_eq!(tokens.get(3 + 255), Some("<0xFF>"));
            assert_eq!(meta.require_f32s("tokenizer.ggml.scores").unwrap().len(), tokens.len());
        }
    }

    #[test]
    fn random_numbers_keep_their_range() {
        let mut random = Random::new(7);
        let units: Vec<f32> = (0..10_000).map(|_| random.unit()).collect();
        assert!(units.iter().all(|unit| (-1.0..=1.0).contains(unit)));
        let mean: f32 = units.iter().sum::<f32>() / units.len() as f32;
        assert!(mean.abs() < 0.02, "{mean}");
        // Known first output of the algorithm for seed 0.
        assert_eq!(Random::new(0).bits(), 0xe220_a839_7b1d_cdaf);
    }
}
