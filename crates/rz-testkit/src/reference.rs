//! A transformer's forward pass by its definition: in `f64`, one position after the
//! other, with nothing merged, packed, cached or rounded. What engines are held against.
//!
//! It shares no code with them but the formats' own `decode`, which golden values pin.
//! What families differ in is a field of [`Reference`] and its parts; a family is a
//! function that fills them, such as [`Reference::llama`].

mod parts;

use rz_formats::Gguf;

pub use parts::{Activation, FeedForward, Linear, Norm, NormKind};
use parts::{add, capped, dot};

/// A decoder-only transformer, weights and all.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Rows of the vocabulary, which become the residual stream.
    pub embedding: Linear,
    /// What embeddings are multiplied with: 1 in most families.
    pub embedding_scale: f64,
    /// Learned positions: rows that are added to the embeddings.
    pub positions: Option<Linear>,
    /// First to last.
    pub layers: Vec<Layer>,
    /// Before the output.
    pub output_norm: Norm,
    /// To the logits; `None`: the embedding, turned round.
    pub output: Option<Linear>,
    /// Logits `x` become `cap * tanh(x / cap)`.
    pub logit_cap: Option<f64>,
}

/// One layer. The residual stream `x` becomes `x + attention`, and that plus the
/// feed-forward network of it; or, in parallel, `x + attention + feed-forward of x`.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Before attention; `None`: it reads the stream as it is.
    pub attention_norm: Option<Norm>,
    /// Attention.
    pub attention: Attention,
    /// After attention, before it is added.
    pub attention_post_norm: Option<Norm>,
    /// Whether the feed-forward network reads the stream from before attention.
    pub parallel: bool,
    /// Before the feed-forward network. `None`: it reads what attention reads when in
    /// parallel, and else the stream as it is.
    pub feed_forward_norm: Option<Norm>,
    /// The feed-forward network.
    pub feed_forward: FeedForward,
    /// After the feed-forward network, before it is added.
    pub feed_forward_post_norm: Option<Norm>,
}

/// Causal attention in heads (Vaswani et al. 2017), of which several may read the same
/// keys and values (Ainslie et al. 2023).
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: query head `h` reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// To the queries of all heads.
    pub query: Linear,
    /// To the keys of all KV heads.
    pub key: Linear,
    /// To the values of all KV heads.
    pub value: Linear,
    /// From the gathered values of all heads.
    pub output: Linear,
    /// Of queries, before rotation: of each head, or of all together, whichever its
    /// weight is as long as.
    pub query_norm: Option<Norm>,
    /// Of keys, likewise.
    pub key_norm: Option<Norm>,
    /// How queries and keys turn; `None`: they do not.
    pub rope: Option<Rope>,
    /// What products of queries and keys are multiplied with.
    pub scale: f64,
    /// Scores `x` become `cap * tanh(x / cap)`.
    pub score_cap: Option<f64>,
    /// How many positions a query sees, its own included; `None`: all before it.
    pub window: Option<usize>,
}

/// Rotary positions (Su et al. 2021): pair `i` turns by `position * frequencies[i]`.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Which components are pair `i`.
    pub pairs: Pairs,
    /// In radians per position. Components beyond the pairs stay.
    pub frequencies: Vec<f64>,
    /// What turned components are multiplied with: 1 but in some families of long context.
    pub magnitude: f64,
}

/// Which components of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `2i` and `2i + 1`.
    Neighbours,
    /// `i` and `i + n`, for `n` pairs.
    Halves,
}

impl Reference {
    /// The model of the `llama` family in a file.
    ///
    /// # Panics
    /// When the file does not hold one.
    pub fn llama(gguf: &Gguf) -> Reference {
        let metadata = gguf.metadata();
        let size = |key: &str| metadata.u64(&format!("llama.{key}")).expect(key).map(|size| size as usize);
        let number = |key: &str| metadata.f32(&format!("llama.{key}")).expect(key).map(f64::from);
        let heads = size("attention.head_count").expect("a number of heads");
        let width = size("embedding_length").expect("a width");
        let key_size = size("attention.key_length").unwrap_or(width / heads);
        let epsilon = number("attention.layer_norm_rms_epsilon").expect("an epsilon");
        let factors = vector(gguf, "rope_freqs.weight");
        let turning = size("rope.dimension_count").unwrap_or(key_size);
        let scaling = number("rope.scaling.factor").or(number("rope.scale_linear")).filter(|x| *x != 0.0);
        let mut frequencies = rope_frequencies(number("rope.freq_base").unwrap_or(10_000.0), turning);
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            *frequency /= scaling.unwrap_or(1.0) * factors.as_ref().map_or(1.0, |factors| factors[i]);
        }
        let rms = |name: &str| norm(gguf, name, NormKind::Rms, epsilon);
        let layer = |index: usize| {
            let name = |part: &str| format!("blk.{index}.{part}");
            Layer {
                attention_norm: Some(rms(&name("attn_norm"))),
                attention: Attention {
                    heads,
                    kv_heads: size("attention.head_count_kv").unwrap_or(heads),
                    query: linear(gguf, &name("attn_q")),
                    key: linear(gguf, &name("attn_k")),
                    value: linear(gguf, &name("attn_v")),
                    output: linear(gguf, &name("attn_output")),
                    query_norm: None,
                    key_norm: None,
                    rope: Some(Rope {
                        pairs: Pairs::Neighbours,
                        frequencies: frequencies.clone(),
                        magnitude: 1.0,
                    }),
                    scale: 1.0 / (key_size as f64).sqrt(),
                    score_cap: None,
                    window: None,
                },
                attention_post_norm: None,
                parallel: false,
                feed_forward_norm: Some(rms(&name("ffn_norm"))),
                feed_forward: FeedForward {
                    gate: Some(linear(gguf, &name("ffn_gate"))),
                    up: linear(gguf, &name("ffn_up")),
                    down: linear(gguf, &name("ffn_down")),
                    activation: Activation::Silu,
                },
                feed_forward_post_norm: None,
            }
        };
        Reference {
            embedding: linear(gguf, "token_embd"),
            embedding_scale: 1.0,
            positions: None,
            layers: (0..size("block_count").expect("a number of layers")).map(layer).collect(),
            output_norm: rms("output_norm"),
            output: gguf.tensor("output.weight").map(|_| linear(gguf, "output")),
            logit_cap: None,
        }
    }

    /// The logits of every token of a sequence that starts at position 0, row after row.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        let rows = self.hidden(tokens).into_iter().flat_map(|x| output.apply(&x));
        rows.map(|logit| capped(logit, self.logit_cap) as f32).collect()
    }

    /// The normalised hidden state of every token after the last layer.
    pub fn hidden(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let embed = |(position, &token): (usize, &u32)| {
            let row = self.embedding.row(token as usize).iter().map(|x| x * self.embedding_scale);
            match &self.positions {
                Some(positions) => row.zip(positions.row(position)).map(|(x, p)| x + p).collect(),
                None => row.collect::<Vec<f64>>(),
            }
        };
        let mut stream: Vec<Vec<f64>> = tokens.iter().enumerate().map(embed).collect();
        for layer in &self.layers {
            layer.apply(&mut stream);
        }
        stream.iter().map(|x| self.output_norm.apply(x)).collect()
    }
}

impl Layer {
    fn apply(&self, stream: &mut [Vec<f64>]) {
        let read = |norm: &Option<Norm>, x: &[f64]| norm.as_ref().map_or_else(|| x.to_vec(), |n| n.apply(x));
        let inputs: Vec<Vec<f64>> = stream.iter().map(|x| read(&self.attention_norm, x)).collect();
        let attended = self.attention.apply(&inputs);
        for ((x, input), attended) in stream.iter_mut().zip(&inputs).zip(attended) {
            let attended = read(&self.attention_post_norm, &attended);
            let before = x.clone();
            add(x, &attended);
            let input = match (self.parallel, &self.feed_forward_norm) {
                (true, None) => input.clone(),
                (true, norm) => read(norm, &before),
                (false, norm) => read(norm, x),
            };
            add(x, &read(&self.feed_forward_post_norm, &self.feed_forward.apply(&input)));
        }
    }
}

impl Attention {
    fn apply(&self, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let turned = |linear: &Linear, heads: usize, norm: &Option<Norm>| -> Vec<Vec<Vec<f64>>> {
            let rows = inputs.iter().enumerate();
            rows.map(|(position, x)| self.heads_of(&linear.apply(x), heads, norm, position)).collect()
        };
        let queries = turned(&self.query, self.heads, &self.query_norm);
        let keys = turned(&self.key, self.kv_heads, &self.key_norm);
        let values: Vec<Vec<f64>> = inputs.iter().map(|x| self.value.apply(x)).collect();
        let value_size = self.value.rows() / self.kv_heads;
        let mut results = Vec::new();
        for position in 0..inputs.len() {
            let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let mut gathered = Vec::new();
            for head in 0..self.heads {
                let kv_head = head / (self.heads / self.kv_heads);
                let score = |seen: usize| {
                    let product = dot(&queries[position][head], &keys[seen][kv_head]);
                    capped(product * self.scale, self.score_cap)
                };
                let weights = softmax(&(first..=position).map(score).collect::<Vec<f64>>());
                gathered.extend((kv_head * value_size..(kv_head + 1) * value_size).map(|component| {
                    let seen = values[first..=position].iter().zip(&weights);
                    seen.map(|(value, weight)| weight * value[component]).sum::<f64>()
                }));
            }
            results.push(self.output.apply(&gathered));
        }
        results
    }

    // The heads of a query or a key, normalised and turned to their position.
    fn heads_of(&self, x: &[f64], heads: usize, norm: &Option<Norm>, position: usize) -> Vec<Vec<f64>> {
        let size = x.len() / heads;
        let (of_all, of_each) = match norm {
            None => (None, None),
            Some(norm) if norm.weight.len() == x.len() => (Some(norm), None),
            Some(norm) => (None, Some(norm)),
        };
        let whole = of_all.map_or_else(|| x.to_vec(), |norm| norm.apply(x));
        let head = |head: &[f64]| {
            let head = of_each.map_or_else(|| head.to_vec(), |norm| norm.apply(head));
            match &self.rope {
                Some(rope) => rope.turned(head, position),
                None => head,
            }
        };
        whole.chunks_exact(size).map(head).collect()
    }
}

impl Rope {
    fn turned(&self, mut head: Vec<f64>, position: usize) -> Vec<f64> {
        let count = self.frequencies.len();
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (a, b) = match self.pairs {
                Pairs::Neighbours => (2 * i, 2 * i + 1),
                Pairs::Halves => (i, i + count),
            };
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (x, y) = (head[a] * self.magnitude, head[b] * self.magnitude);
            (head[a], head[b]) = (x * cos - y * sin, x * sin + y * cos);
        }
        head
    }
}

/// The matrix `stem.weight` of a file, with `stem.bias` where there is one.
///
/// # Panics
/// When there is no such matrix.
pub fn linear(gguf: &Gguf, stem: &str) -> Linear {
    let name = format!("{stem}.weight");
    let tensor = gguf.tensor(&name).unwrap_or_else(|| panic!("no {name}"));
    Linear {
        weight: vector(gguf, &name).expect("it was just there"),
        columns: tensor.shape()[0] as usize,
        bias: vector(gguf, &format!("{stem}.bias")),
    }
}

/// The norm `stem.weight` of a file, with `stem.bias` where there is one.
///
/// # Panics
/// When there is no such norm.
pub fn norm(gguf: &Gguf, stem: &str, kind: NormKind, epsilon: f64) -> Norm {
    let weight = vector(gguf, &format!("{stem}.weight")).unwrap_or_else(|| panic!("no {stem}.weight"));
    Norm { kind, weight, bias: vector(gguf, &format!("{stem}.bias")), epsilon }
}

/// All elements of a tensor of a file, where it has one of this name.
///
/// # Panics
/// When the tensor's type is not supported.
pub fn vector(gguf: &Gguf, name: &str) -> Option<Vec<f64>> {
    let tensor = gguf.tensor(name)?;
    let mut values = vec![0.0; tensor.elements() as usize];
    tensor.dtype().expect("a supported type").decode(tensor.bytes(), &mut values);
    Some(values.into_iter().map(f64::from).collect())
}

/// `base^(-2i / size)` for each of the `size / 2` pairs.
pub fn rope_frequencies(base: f64, size: usize) -> Vec<f64> {
    (0..size / 2).map(|i| base.powf(-2.0 * i as f64 / size as f64)).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Random, TinyLlama};

    fn tiny() -> Reference {
        let tiny = TinyLlama { tied: false, ..TinyLlama::default() };
        Reference::llama(&Gguf::from_bytes("tiny", tiny.to_bytes()).unwrap())
    }

    fn tokens(count: usize) -> Vec<u32> {
        let mut random = Random::new(2);
        (0..count).map(|_| random.below(320) as u32).collect()
    }

    fn with_layers(change: impl Fn(&mut Layer)) -> Reference {
        let mut reference = tiny();
        reference.layers.iter_mut().for_each(change);
        reference
    }

    // The largest difference of two rows of logits.
    fn distance(a: &Reference, b: &Reference) -> f32 {
        let (a, b) = (a.logits(&tokens(20)), b.logits(&tokens(20)));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_token_sees_nothing_after_it() {
        let reference = tiny();
        let (short, long) = (reference.logits(&tokens(5)), reference.logits(&tokens(9)));
        assert_eq!(short, long[..short.len()]);
    }

    /// Pairs of halves are pairs of neighbours with the rows of queries and keys in another order.
    #[test]
    fn both_kinds_of_pairs_are_one_up_to_order() {
        let halves = with_layers(|layer| {
            let attention = &mut layer.attention;
            attention.rope.as_mut().unwrap().pairs = Pairs::Halves;
            for linear in [&mut attention.query, &mut attention.key] {
                let from = linear.clone();
                for (at, row) in linear.weight.chunks_exact_mut(from.columns).enumerate() {
                    let (head, i) = (at / 16 * 16, at % 16);
                    row.copy_from_slice(from.row(head + if i < 8 { 2 * i } else { 2 * (i - 8) + 1 }));
                }
            }
        });
        assert!(distance(&halves, &tiny()) < 1e-6);
        assert!(distance(&with_layers(|l| l.attention.rope = None), &tiny()) > 1e-3);
        let magnified = with_layers(|layer| {
            layer.attention.rope.as_mut().unwrap().magnitude = 2.0;
            layer.attention.scale /= 4.0;
        });
        assert!(distance(&magnified, &tiny()) < 1e-6);
    }

    /// Each option at the value that leaves it without effect, and at one that does not.
    #[test]
    fn options_do_something_and_only_when_set() {
        let base = tiny();
        let same = |other: Reference| assert!(distance(&other, &base) < 1e-5);
        let differs = |other: Reference| assert!(distance(&other, &base) > 1e-4);
        same(with_layers(|layer| layer.attention.window = Some(20)));
        differs(with_layers(|layer| layer.attention.window = Some(19)));
        same(with_layers(|layer| layer.attention.score_cap = Some(1e6)));
        differs(with_layers(|layer| layer.attention.score_cap = Some(0.5)));
        same(Reference { logit_cap: Some(1e6), ..base.clone() });
        differs(Reference { logit_cap: Some(1.0), ..base.clone() });
        differs(Reference { embedding_scale: 8.0, ..base.clone() });
        differs(with_layers(|layer| layer.parallel = true));
        differs(with_layers(|layer| layer.feed_forward.gate = None));
        differs(with_layers(|layer| layer.feed_forward.activation = Activation::Gelu));
        differs(with_layers(|layer| layer.attention_norm = None));
        let norm = |size| Norm { kind: NormKind::Rms, weight: vec![1.0; size], bias: None, epsilon: 0.0 };
        differs(with_layers(|layer| layer.attention_post_norm = Some(norm(64))));
        differs(with_layers(|layer| layer.feed_forward_post_norm = Some(norm(64))));
        let (by_head, whole) = (
            with_layers(|layer| layer.attention.key_norm = Some(norm(16))),
            with_layers(|layer| layer.attention.key_norm = Some(norm(32))),
        );
        assert!(distance(&by_head, &whole) > 1e-4);
        differs(by_head);
        let positions = |x: f64| Linear { weight: vec![x; 64 * 20], columns: 64, bias: None };
        same(Reference { positions: Some(positions(0.0)), ..base.clone() });
        differs(Reference { positions: Some(positions(0.1)), ..base.clone() });
    }

    /// In parallel, a norm of its own that equals attention's changes nothing.
    #[test]
    fn parallel_layers_share_a_norm_or_have_two() {
        let shared = with_layers(|layer| (layer.parallel, layer.feed_forward_norm) = (true, None));
        let twice = with_layers(|layer| {
            layer.parallel = true;
            layer.feed_forward_norm = layer.attention_norm.clone();
        });
        assert!(distance(&shared, &twice) < 1e-6);
    }
}
