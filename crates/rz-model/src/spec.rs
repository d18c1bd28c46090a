//! A transformer, described as data. The forward pass asks these fields and never the
//! name of the family.

use std::sync::Arc;

/// What a model is: everything that the forward pass needs besides the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family that read it, such as `llama`.
    pub family: &'static str,
    /// Rows of the embedding: token ids are below it.
    pub vocabulary: usize,
    /// Components of the residual stream.
    pub width: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// The norm before the output.
    pub output_norm: Norm,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// One layer: attention, then a feed-forward network, each on the normalised residual
/// stream and added back to it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The norm before attention and before the feed-forward network.
    pub norm: Norm,
    /// Attention.
    pub attention: AttentionSpec,
    /// Rows of the feed-forward network's gate: `down(silu(gate x) * up x)`.
    pub feed_forward: usize,
}

/// Attention of one layer. Query head `h` reads KV head `h / (heads / kv_heads)`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Components of a query and of a key.
    pub key_size: usize,
    /// Components of a value.
    pub value_size: usize,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// How positions enter.
    pub rope: Rope,
}

/// Root-mean-square norm with a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Rotary position embedding (Su et al. 2021): pair `i` of the first components, which
/// are neighbours `2i` and `2i + 1`, turns by `position * frequencies[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// One frequency for each pair, in radians per position; shared by the layers.
    pub frequencies: Arc<[f64]>,
}

impl Rope {
    /// `base^(-2i / size)` for each of `size / 2` pairs, over `factors[i]` where there
    /// are factors, and over `scaling` (1 for none).
    pub fn new(base: f32, size: usize, scaling: f32, factors: Option<&[f32]>) -> Rope {
        let frequency = |i: usize| {
            let plain = f64::from(base).powf(-2.0 * i as f64 / size as f64);
            plain / f64::from(scaling) / factors.map_or(1.0, |factors| f64::from(factors[i]))
        };
        Rope { frequencies: (0..size / 2).map(frequency).collect() }
    }

    /// Components of a head that turn; the rest stay.
    pub fn size(&self) -> usize {
        2 * self.frequencies.len()
    }
}

impl ModelSpec {
    /// Elements of keys and values that one position takes in all layers.
    pub fn kv_elements(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| layer.attention.kv_heads * (layer.attention.key_size + layer.attention.value_size))
            .sum()
    }
}
