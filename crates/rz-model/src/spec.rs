//! A transformer, described as data. The forward pass asks these fields and never the
//! name of the family.

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
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// Whether a learned vector is added for each position; there are `context` of them.
    pub learned_positions: bool,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// The norm before the output.
    pub output_norm: Norm,
    /// Whether the output has a matrix of its own, and not the embedding's.
    pub untied_output: bool,
    /// Whether the output has a bias.
    pub output_bias: bool,
    /// `logit = cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
}

/// One layer: attention and a feed-forward network, each on the normalised residual
/// stream and added back to it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The norms of this layer.
    pub norm: Norm,
    /// Attention.
    pub attention: AttentionSpec,
    /// The feed-forward network.
    pub feed_forward: FeedForwardSpec,
    /// In which order the two are added.
    pub residual: Residual,
    /// Whether the results of both are normalised before they are added.
    pub post_norms: bool,
}

/// How attention and the feed-forward network meet the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// The feed-forward network reads, through a norm of its own, what attention has
    /// been added to.
    Sequential,
    /// Both read the same normalised input.
    Parallel,
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
    /// What scores are multiplied with.
    pub scale: f32,
    /// `score = cap * tanh(score / cap)` before the softmax.
    pub score_cap: Option<f32>,
    /// The rotary embedding, an index into [`ModelSpec::ropes`].
    pub rope: Option<usize>,
    /// A position sees itself and the `window - 1` before it; all where there is none.
    pub window: Option<usize>,
    /// Whether each head's query and key are normalised before they are rotated.
    pub head_norms: bool,
    /// Whether queries, keys and values have biases.
    pub input_bias: bool,
    /// Whether the result has a bias.
    pub output_bias: bool,
}

/// A feed-forward network of one hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForwardSpec {
    /// Components of the hidden layer.
    pub size: usize,
    /// The activation function `f`.
    pub activation: Activation,
    /// `down(f(gate x) * up x)` where there is a gate, else `down(f(up x))`.
    pub gated: bool,
    /// Whether its maps have biases.
    pub bias: bool,
}

pub use rz_kernels::{Activation, ActivationType};

/// A norm over a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub epsilon: f32,
}

/// The kinds of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Over the root mean square, with a weight.
    Rms,
    /// Minus the mean, over the standard deviation, with a weight and a bias.
    Layer,
}

/// Rotary position embedding (Su et al. 2021): pair `i` of the first components of a
/// head turns by `position * frequencies[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which components make a pair.
    pub pairs: Pairs,
    /// One frequency for each pair, in radians per position.
    pub frequencies: Vec<f64>,
}

/// Which components of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `2i` and `2i + 1`.
    Neighbours,
    /// `i` and `i + n` of `2n` components that turn.
    Halves,
}

impl Rope {
    /// `base^(-2i / size)` for each of `size / 2` pairs, over `factors[i]` where there
    /// are factors, and over `scaling` (1 for none).
    pub fn new(pairs: Pairs, base: f32, size: usize, scaling: f32, factors: Option<&[f32]>) -> Rope {
        let frequency = |i: usize| {
            let plain = f64::from(base).powf(-2.0 * i as f64 / size as f64);
            plain / f64::from(scaling) / factors.map_or(1.0, |factors| f64::from(factors[i]))
        };
        Rope { pairs, frequencies: (0..size / 2).map(frequency).collect() }
    }

    /// Components of a head that turn; the rest stay.
    pub fn size(&self) -> usize {
        2 * self.frequencies.len()
    }
}

impl ModelSpec {
    /// The type of activations that suits a model of this size, unless somebody asks for
    /// another: two bytes up to half a billion weights in the layers, one byte above, with fewer scales where
    /// most of the weights are in super-blocks.
    ///
    /// Rounding to one byte shows in the logits of small models, and their products are
    /// cheap; large models are worth the time that it saves.
    /// See `docs/adr/0002-activations-in-16-bits.md`.
    pub fn activation_type(&self, super_blocks: bool) -> ActivationType {
        const SMALL: usize = 500_000_000;
        match (self.layer_weights() <= SMALL, super_blocks) {
            (true, _) => ActivationType::I16,
            (false, true) => ActivationType::I8Long,
            (false, false) => ActivationType::I8,
        }
    }

    /// Weights in the matrices of all layers.
    pub fn layer_weights(&self) -> usize {
        let weights = |layer: &LayerSpec| {
            let AttentionSpec { heads, kv_heads, key_size, value_size, .. } = layer.attention;
            let attention = heads * (key_size + value_size) + kv_heads * (key_size + value_size);
            let maps = if layer.feed_forward.gated { 3 } else { 2 };
            self.width.saturating_mul(attention + maps * layer.feed_forward.size)
        };
        self.layers.iter().map(weights).fold(0, usize::saturating_add)
    }

    /// Elements of keys and values that a token reads which has `positions` before it.
    pub fn kv_elements(&self, positions: usize) -> usize {
        let elements = |layer: &LayerSpec| {
            let AttentionSpec { kv_heads, key_size, value_size, window, .. } = layer.attention;
            kv_heads * (key_size + value_size) * window.map_or(positions, |window| positions.min(window))
        };
        self.layers.iter().map(elements).sum()
    }
}
