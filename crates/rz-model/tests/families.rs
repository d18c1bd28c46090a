//! What the tiny reference files leave out, for every family: grouped heads, a rotated part
//! of a head, two rope bases, windows shorter than the text, tied outputs, fused Q, K and V.
//! The oracle is the forward pass by its definition in `f64`, described here by hand.

mod common;

use common::{every_runtime, logits};
use rz_formats::{Gguf, Metadata, Value};
use rz_model::{CpuModel, KvType, LoadOptions};
use rz_quant::DType;
use rz_testkit::gguf::{Random, TinyTensor, gguf_bytes};
use rz_testkit::nmse;
use rz_testkit::reference::{
    Activation, Attention, FeedForward, Layer, Linear, Norm, NormKind, Pairs, Reference, Rope,
};

const WIDTH: usize = 48;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD: usize = 20;
const HIDDEN: usize = 64;
const VOCABULARY: usize = 50;
const CONTEXT: usize = 96;
const LAYERS: usize = 4;

/// A file and its description, made together.
struct Maker {
    random: Random,
    tensors: Vec<TinyTensor>,
    metadata: Metadata,
    family: &'static str,
    kind: NormKind,
}

impl Maker {
    fn new(family: &'static str, kind: NormKind) -> Maker {
        let mut maker =
            Maker { random: Random::new(11), tensors: Vec::new(), metadata: Metadata::new(), family, kind };
        maker.metadata.insert("general.architecture", family);
        let epsilon = match kind {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        maker.key(epsilon, EPSILON);
        for (key, size) in [
            ("embedding_length", WIDTH),
            ("block_count", LAYERS),
            ("feed_forward_length", HIDDEN),
            ("context_length", CONTEXT),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.key_length", HEAD),
            ("attention.value_length", HEAD),
        ] {
            maker.key(key, size as u32);
        }
        maker
    }

    fn key(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.insert(format!("{}.{key}", self.family), value);
    }

    fn tensor(&mut self, name: &str, rows: usize, columns: usize, centre: f32) -> Vec<f64> {
        let values: Vec<f32> = (0..rows * columns).map(|_| centre + 0.2 * self.random.normal()).collect();
        let shape = if rows == 1 { vec![columns as u64] } else { vec![columns as u64, rows as u64] };
        let wide = values.iter().map(|&x| f64::from(x)).collect();
        self.tensors.push(TinyTensor { name: name.to_owned(), shape, dtype: DType::F32, values });
        wide
    }

    fn linear(&mut self, stem: &str, rows: usize, columns: usize, bias: bool) -> Linear {
        let weight = self.tensor(&format!("{stem}.weight"), rows, columns, 0.0);
        let bias = bias.then(|| self.tensor(&format!("{stem}.bias"), 1, rows, 0.0));
        Linear { weight, columns, bias }
    }

    fn norm(&mut self, stem: &str, len: usize) -> Norm {
        let weight = self.tensor(&format!("{stem}.weight"), 1, len, 1.0);
        let bias = (self.kind == NormKind::Layer).then(|| self.tensor(&format!("{stem}.bias"), 1, len, 0.0));
        Norm { kind: self.kind, weight, bias, epsilon: f64::from(EPSILON) }
    }

    /// Q, K and V, in one tensor or three.
    fn inputs(&mut self, name: &dyn Fn(&str) -> String, bias: bool, fused: bool) -> [Linear; 3] {
        let rows = [HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD];
        if !fused {
            let stems = ["attn_q", "attn_k", "attn_v"];
            return std::array::from_fn(|i| self.linear(&name(stems[i]), rows[i], WIDTH, bias));
        }
        let all = self.linear(&name("attn_qkv"), rows.iter().sum(), WIDTH, bias);
        let mut start = 0;
        rows.map(|rows| {
            let range = start..start + rows;
            start += rows;
            Linear {
                weight: all.weight[range.start * WIDTH..range.end * WIDTH].to_vec(),
                columns: WIDTH,
                bias: all.bias.as_ref().map(|bias| bias[range].to_vec()),
            }
        })
    }

    /// The model, with what is the same in every layer from `parts`, and `adapt`ed.
    fn model(&mut self, parts: &Parts, adapt: impl Fn(usize, &mut Layer)) -> Reference {
        let embedding = self.linear("token_embd", VOCABULARY, WIDTH, false);
        let positions = parts.learned_positions.then(|| self.linear("position_embd", CONTEXT, WIDTH, false));
        let layers = (0..LAYERS)
            .map(|index| {
                let name = |stem: &str| format!("blk.{index}.{stem}");
                let [query, key, value] = self.inputs(&name, parts.input_bias, parts.fused);
                let mut layer = Layer {
                    attention_norm: Some(self.norm(&name("attn_norm"), WIDTH)),
                    attention: Attention {
                        heads: HEADS,
                        kv_heads: KV_HEADS,
                        query,
                        key,
                        value,
                        output: self.linear(&name("attn_output"), WIDTH, HEADS * HEAD, parts.other_bias),
                        query_norm: parts.head_norms.then(|| self.norm(&name("attn_q_norm"), HEAD)),
                        key_norm: parts.head_norms.then(|| self.norm(&name("attn_k_norm"), HEAD)),
                        rope: parts.rope.clone(),
                        scale: 1.0 / (HEAD as f64).sqrt(),
                        score_cap: None,
                        window: None,
                    },
                    attention_post_norm: parts
                        .post_norms
                        .then(|| self.norm(&name("post_attention_norm"), WIDTH)),
                    parallel: parts.parallel,
                    feed_forward_norm: (!parts.parallel).then(|| self.norm(&name("ffn_norm"), WIDTH)),
                    feed_forward: FeedForward {
                        gate: parts.gated.then(|| self.linear(&name("ffn_gate"), HIDDEN, WIDTH, false)),
                        up: self.linear(&name("ffn_up"), HIDDEN, WIDTH, parts.other_bias),
                        down: self.linear(&name("ffn_down"), WIDTH, HIDDEN, parts.other_bias),
                        activation: parts.activation,
                    },
                    feed_forward_post_norm: parts
                        .post_norms
                        .then(|| self.norm(&name("post_ffw_norm"), WIDTH)),
                };
                adapt(index, &mut layer);
                layer
            })
            .collect();
        Reference {
            embedding,
            embedding_scale: 1.0,
            positions,
            layers,
            output_norm: self.norm("output_norm", WIDTH),
            output: parts.output.map(|bias| self.linear("output", VOCABULARY, WIDTH, bias)),
            logit_cap: None,
        }
    }

    fn check(self, reference: &Reference) {
        let gguf =
            Gguf::from_bytes("made.gguf", gguf_bytes(self.metadata, &self.tensors)).expect("a valid file");
        let tokens: Vec<u32> = (0..75).map(|i| (i * 31 + i * i) % VOCABULARY as u32).collect();
        let expected = reference.logits(&tokens);
        for runtime in every_runtime(2) {
            for (exact, limit) in [(true, 1e-9), (false, 1e-5)] {
                let options = LoadOptions {
                    context: CONTEXT,
                    max_batch: 40,
                    kv_type: KvType::F32,
                    exact,
                    ..LoadOptions::default()
                };
                let mut model =
                    CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).expect("a supported model");
                assert_eq!(model.unused_tensors(), &[] as &[String]);
                let got = logits(&mut model, &tokens, 40);
                let error = nmse(&got, &expected);
                assert!(error <= limit, "{}, {runtime:?}, exact {exact}: NMSE {error}", self.family);
                for chunk in [1, 13] {
                    assert_eq!(logits(&mut model, &tokens, chunk), got, "{}", self.family);
                }
            }
        }
    }
}

const EPSILON: f32 = 1e-5;

/// What all layers of a family share. An `output` of its own may have a bias.
struct Parts {
    rope: Option<Rope>,
    learned_positions: bool,
    head_norms: bool,
    input_bias: bool,
    other_bias: bool,
    fused: bool,
    post_norms: bool,
    parallel: bool,
    gated: bool,
    activation: Activation,
    output: Option<bool>,
}

const LLAMA: Parts = Parts {
    rope: None,
    learned_positions: false,
    head_norms: false,
    input_bias: false,
    other_bias: false,
    fused: false,
    post_norms: false,
    parallel: false,
    gated: true,
    activation: Activation::Silu,
    output: Some(false),
};

fn rope(pairs: Pairs, base: f64, size: usize) -> Rope {
    let frequency = |i: usize| base.powf(-2.0 * i as f64 / size as f64);
    Rope { pairs, frequencies: (0..size / 2).map(frequency).collect(), magnitude: 1.0 }
}

#[test]
fn llama_with_a_window_and_biases() {
    let mut maker = Maker::new("llama", NormKind::Rms);
    maker.key("attention.sliding_window", 24u32);
    let parts = Parts {
        rope: Some(rope(Pairs::Neighbours, 10_000.0, HEAD)),
        input_bias: true,
        output: None,
        ..LLAMA
    };
    let reference = maker.model(&parts, |_, layer| layer.attention.window = Some(24));
    maker.check(&reference);
}

#[test]
fn qwen2_with_grouped_heads() {
    let mut maker = Maker::new("qwen2", NormKind::Rms);
    maker.key("rope.freq_base", 1_000_000.0f32);
    let parts = Parts { rope: Some(rope(Pairs::Halves, 1e6, HEAD)), input_bias: true, output: None, ..LLAMA };
    let reference = maker.model(&parts, |_, _| ());
    maker.check(&reference);
}

#[test]
fn qwen3_with_a_tied_output() {
    let mut maker = Maker::new("qwen3", NormKind::Rms);
    let parts =
        Parts { rope: Some(rope(Pairs::Halves, 10_000.0, HEAD)), head_norms: true, output: None, ..LLAMA };
    let reference = maker.model(&parts, |_, _| ());
    maker.check(&reference);
}

#[test]
fn phi2_turning_a_part_of_each_head() {
    for fused in [false, true] {
        let mut maker = Maker::new("phi2", NormKind::Layer);
        maker.key("rope.dimension_count", 8u32);
        let parts = Parts {
            rope: Some(rope(Pairs::Halves, 10_000.0, 8)),
            input_bias: true,
            other_bias: true,
            fused,
            parallel: true,
            gated: false,
            activation: Activation::GeluTanh,
            output: Some(true),
            ..LLAMA
        };
        let reference = maker.model(&parts, |_, _| ());
        maker.check(&reference);
    }
}

fn gemma() -> Parts {
    Parts { post_norms: true, activation: Activation::GeluTanh, output: None, ..LLAMA }
}

#[test]
fn gemma2_with_caps_and_windows() {
    let mut maker = Maker::new("gemma2", NormKind::Rms);
    maker.key("attention.sliding_window", 10u32);
    maker.key("attn_logit_softcapping", 5.0f32);
    maker.key("final_logit_softcapping", 8.0f32);
    let parts = Parts { rope: Some(rope(Pairs::Halves, 10_000.0, HEAD)), ..gemma() };
    let mut reference = maker.model(&parts, |index, layer| {
        layer.attention.score_cap = Some(5.0);
        layer.attention.window = index.is_multiple_of(2).then_some(10);
    });
    reference.embedding_scale = (WIDTH as f64).sqrt();
    reference.logit_cap = Some(8.0);
    maker.check(&reference);
}

#[test]
fn gemma3_with_two_bases_and_scaling() {
    let mut maker = Maker::new("gemma3", NormKind::Rms);
    maker.key("attention.sliding_window", 17u32);
    maker.key("attention.sliding_window_pattern", 3u32);
    maker.key("attention.scale", 0.3f32);
    maker.key("rope.freq_base", 1_000_000.0f32);
    maker.key("rope.scaling.type", "linear");
    maker.key("rope.scaling.factor", 8.0f32);
    let parts = Parts { head_norms: true, ..gemma() };
    let mut reference = maker.model(&parts, |index, layer| {
        let local = index % 3 != 2;
        let mut global_rope = rope(Pairs::Halves, 1e6, HEAD);
        global_rope.frequencies.iter_mut().for_each(|frequency| *frequency /= 8.0);
        layer.attention.rope = Some(if local { rope(Pairs::Halves, 10_000.0, HEAD) } else { global_rope });
        layer.attention.window = local.then_some(17);
        layer.attention.scale = f64::from(0.3f32);
    });
    reference.embedding_scale = (WIDTH as f64).sqrt();
    maker.check(&reference);
}

#[test]
fn gpt2_with_grouped_heads_in_one_tensor() {
    let mut maker = Maker::new("gpt2", NormKind::Layer);
    let parts = Parts {
        learned_positions: true,
        input_bias: true,
        other_bias: true,
        fused: true,
        gated: false,
        activation: Activation::GeluTanh,
        output: None,
        ..LLAMA
    };
    let reference = maker.model(&parts, |_, _| ());
    maker.check(&reference);
}
