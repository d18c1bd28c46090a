//! The description of a model, for people and for programs.

use rz_model::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual};
use serde_json::{Value, json};

/// What there is to say, each a name and a text.
pub(crate) fn lines(spec: &ModelSpec) -> Vec<(&'static str, String)> {
    let ModelSpec { layers, width, vocabulary, context, .. } = spec;
    let mut lines = vec![(
        "model",
        format!("{} layers of width {width}, vocabulary {vocabulary}, context {context}", layers.len()),
    )];
    let Some(layer) = layers.first() else { return lines };
    lines.push(("attention", attention(layer)));
    lines.push(("positions", positions(spec)));
    let windows: Vec<usize> = layers.iter().filter_map(|layer| layer.attention.window).collect();
    if let Some(window) = windows.first() {
        lines.push(("window", format!("{window} positions in {} of {} layers", windows.len(), layers.len())));
    }
    lines.push(("feed-forward", feed_forward(layer)));
    lines.push(("norms", norms(layer)));
    lines.push(("output", output(spec)));
    lines
}

fn attention(layer: &LayerSpec) -> String {
    let AttentionSpec { heads, kv_heads, key_size, value_size, scale, .. } = layer.attention;
    let mut text = format!("{heads} heads ({kv_heads} for keys and values) of size {key_size}");
    if value_size != key_size {
        text += &format!(", values of size {value_size}");
    }
    if (scale * (key_size as f32).sqrt() - 1.0).abs() > 1e-6 {
        text += &format!(", scores times {scale}");
    }
    if let Some(cap) = layer.attention.score_cap {
        text += &format!(", scores capped at {cap}");
    }
    if layer.attention.input_bias {
        text += ", biases on Q, K and V";
    }
    if layer.attention.output_bias {
        text += ", bias on the result";
    }
    text
}

fn positions(spec: &ModelSpec) -> String {
    if spec.learned_positions {
        return "learned".to_owned();
    }
    let head = spec.layers.first().map_or(0, |layer| layer.attention.key_size);
    let rope = |rope: &rz_model::Rope| {
        let pairs = match rope.pairs {
            Pairs::Neighbours => "neighbours",
            Pairs::Halves => "halves",
        };
        format!("rotary over {pairs}, {} of {head} components", rope.size())
    };
    match &spec.ropes[..] {
        [] => "none".to_owned(),
        [one] => rope(one),
        [first, ..] => format!("{}; {} sets of frequencies", rope(first), spec.ropes.len()),
    }
}

fn feed_forward(layer: &LayerSpec) -> String {
    let spec = layer.feed_forward;
    let mut text = format!("{}, {}", spec.size, activation(spec.activation));
    if spec.gated {
        text += ", gated";
    }
    if spec.bias {
        text += ", biases";
    }
    if layer.residual == Residual::Parallel {
        text += ", beside attention";
    }
    text
}

fn norms(layer: &LayerSpec) -> String {
    let mut text = format!("{}, epsilon {}", norm(layer.norm.kind), layer.norm.epsilon);
    if layer.post_norms {
        text += ", also of results";
    }
    if layer.attention.head_norms {
        text += ", also of each query and key";
    }
    text
}

fn output(spec: &ModelSpec) -> String {
    let mut text =
        if spec.untied_output { "a matrix of its own" } else { "the embedding's matrix" }.to_owned();
    if spec.output_bias {
        text += ", with a bias";
    }
    if let Some(cap) = spec.logit_cap {
        text += &format!(", logits capped at {cap}");
    }
    if spec.embedding_scale != 1.0 {
        text += &format!("; embeddings times {}", spec.embedding_scale);
    }
    text
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu (tanh)",
    }
}

fn norm(kind: NormKind) -> &'static str {
    match kind {
        NormKind::Rms => "root mean square",
        NormKind::Layer => "layer norm",
    }
}

/// All of it, as JSON.
pub(crate) fn as_json(spec: &ModelSpec) -> Value {
    let layer = spec.layers.first();
    let attention = layer.map(|layer| &layer.attention);
    json!({
        "family": spec.family,
        "layers": spec.layers.len(),
        "width": spec.width,
        "vocabulary": spec.vocabulary,
        "context": spec.context,
        "heads": attention.map(|attention| attention.heads),
        "kv_heads": attention.map(|attention| attention.kv_heads),
        "key_size": attention.map(|attention| attention.key_size),
        "value_size": attention.map(|attention| attention.value_size),
        "score_scale": attention.map(|attention| attention.scale),
        "score_cap": attention.and_then(|attention| attention.score_cap),
        "head_norms": attention.map(|attention| attention.head_norms),
        "input_bias": attention.map(|attention| attention.input_bias),
        "rotated": spec.ropes.iter().map(rz_model::Rope::size).collect::<Vec<_>>(),
        "learned_positions": spec.learned_positions,
        "windows": spec.layers.iter().map(|layer| layer.attention.window).collect::<Vec<_>>(),
        "feed_forward": layer.map(|layer| layer.feed_forward.size),
        "activation": layer.map(|layer| activation(layer.feed_forward.activation)),
        "gated": layer.map(|layer| layer.feed_forward.gated),
        "norm": layer.map(|layer| norm(layer.norm.kind)),
        "epsilon": layer.map(|layer| layer.norm.epsilon),
        "parallel_residual": layer.map(|layer| layer.residual == Residual::Parallel),
        "post_norms": layer.map(|layer| layer.post_norms),
        "embedding_scale": spec.embedding_scale,
        "tied_output": !spec.untied_output,
        "logit_cap": spec.logit_cap,
    })
}
