//! How the folders of a family differ from GGUF: names of settings and tensors, and the
//! order of what is in them.

/// How a family's folders are read: a part of its row.
pub(crate) struct Layout {
    /// `model_type` in `config.json`.
    pub(crate) model_types: &'static [&'static str],
    /// Keys: GGUF's name without the family, and the name in `config.json`.
    pub(crate) keys: &'static [(&'static str, &'static str)],
    /// The activation function, by the names that mean the family's.
    pub(crate) activations: &'static [&'static str],
    /// What transformers takes where `config.json` says nothing, which it does where the
    /// two agree: a `model_type`, a key and its value.
    pub(crate) defaults: &'static [(&'static str, &'static str, f64)],
    /// Whether a window in `config.json` is used when it does not say.
    pub(crate) windowed: bool,
    /// Whether the output is tied to the embedding when `config.json` does not say.
    pub(crate) tied: bool,
    /// What comes before a layer's number.
    pub(crate) layers: &'static str,
    /// Tensors of a layer: GGUF's name and the folder's, without `.weight` and `.bias`.
    pub(crate) layer: &'static [(&'static str, &'static str, Differs)],
    /// Other tensors.
    pub(crate) others: &'static [(&'static str, &'static str, Differs)],
}

/// How the tensor of a folder differs from GGUF's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Differs {
    /// Not at all.
    No,
    /// Rows of query heads are in the order of halves, GGUF's in that of neighbours.
    QueryRows,
    /// The same for key heads.
    KeyRows,
    /// Stored with inputs as rows.
    Transposed,
    /// Stored as the difference from 1.
    MinusOne,
}

/// The tensors that Llama's many relatives have by the same names.
pub(crate) const LLAMA_OTHERS: &[(&str, &str, Differs)] = &[
    ("token_embd", "model.embed_tokens", Differs::No),
    ("output_norm", "model.norm", Differs::No),
    ("output", "lm_head", Differs::No),
];

/// The keys that most families have by the same names.
pub(crate) const COMMON_KEYS: &[(&str, &str)] = &[
    ("vocab_size", "vocab_size"),
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("context_length", "max_position_embeddings"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.value_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
];
