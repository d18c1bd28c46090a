//! Hyper-parameters of one family: typed, checked, and noted as read.

use std::cell::RefCell;
use std::collections::HashSet;

use rz_formats::{Array, Metadata, Value};
use rz_kernels::MAX_HEAD;

use crate::ModelError;
use crate::origin::Origin;
use crate::spec::{
    Activation, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm, NormKind, Pairs, Rope,
};

/// Keys that change results wherever they are set. A family that does not read one of
/// them must not be run with it. (Keys not listed here are foreign ones, which
/// converters write by the dozen and which only other families read.)
const CHANGES_RESULTS: &[(&str, Neutral)] = &[
    ("attention.alibi_bias_max", Neutral::Zero),
    ("attention.causal", Neutral::True),
    ("attention.clamp_kqv", Neutral::Zero),
    ("attention.key_length_mla", Neutral::Zero),
    ("attention.kv_lora_rank", Neutral::Zero),
    ("attention.max_alibi_bias", Neutral::Zero),
    ("attention.output_scale", Neutral::ZeroOrOne),
    ("attention.q_lora_rank", Neutral::Zero),
    ("attention.scale", Neutral::Zero),
    ("attention.sliding_window", Neutral::Zero),
    ("attention.temperature_length", Neutral::Zero),
    ("attention.temperature_scale", Neutral::Zero),
    ("attention.value_scale", Neutral::ZeroOrOne),
    ("embedding_scale", Neutral::ZeroOrOne),
    ("expert_count", Neutral::Zero),
    ("interleave_moe_layer_step", Neutral::Zero),
    ("logit_scale", Neutral::ZeroOrOne),
    ("residual_scale", Neutral::ZeroOrOne),
    ("rope.scaling.attn_factor", Neutral::ZeroOrOne),
    ("rope.scaling.factor", Neutral::ZeroOrOne),
    ("rope.scaling.yarn_log_multiplier", Neutral::Zero),
    ("ssm.state_size", Neutral::Zero),
    ("swin_norm", Neutral::Zero),
    ("use_parallel_residual", Neutral::Zero),
];

/// The values that mean "not set"; false counts as 0 and true as 1.
#[derive(Clone, Copy)]
enum Neutral {
    Zero,
    ZeroOrOne,
    True,
}

impl Neutral {
    fn holds(self, value: &Value) -> bool {
        let number = |x: f64| match self {
            Neutral::Zero => x == 0.0,
            Neutral::ZeroOrOne => x == 0.0 || x == 1.0,
            Neutral::True => x == 1.0,
        };
        match value {
            Value::Bool(x) => number(f64::from(u8::from(*x))),
            Value::F32(x) => number(f64::from(*x)),
            Value::F64(x) => number(*x),
            Value::Array(Array::F32(x)) => x.iter().all(|&x| number(f64::from(x))),
            Value::Array(Array::Bool(x)) => x.iter().all(|&x| number(f64::from(u8::from(x)))),
            Value::Array(array) => match array.integers::<i64>() {
                Some(Ok(items)) => items.iter().all(|&x| number(x as f64)),
                _ => false,
            },
            other => other.integer().is_some_and(|x| number(x as f64)),
        }
    }
}

/// The keys of one family in one file.
pub(crate) struct Keys<'a> {
    origin: &'a dyn Origin,
    family: &'static str,
    read: RefCell<HashSet<String>>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(origin: &'a dyn Origin, family: &'static str) -> Keys<'a> {
        Keys { origin, family, read: RefCell::default() }
    }

    /// Whether the file has a tensor.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.origin.has(tensor)
    }

    fn metadata(&self) -> &Metadata {
        self.origin.metadata()
    }

    fn key(&self, name: &str) -> String {
        let key = format!("{}.{name}", self.family);
        self.read.borrow_mut().insert(key.clone());
        key
    }

    /// A whole number of at least 1 and at most `limit`.
    pub(crate) fn size(&self, name: &str, limit: usize) -> Result<usize, ModelError> {
        let value = self.metadata().require_u64(&self.key(name))?;
        self.checked_size(name, value, limit)
    }

    /// As [`size`](Self::size), for a key that may be absent.
    pub(crate) fn size_or(&self, name: &str, limit: usize, default: usize) -> Result<usize, ModelError> {
        match self.metadata().u64(&self.key(name))? {
            Some(value) => self.checked_size(name, value, limit),
            None => Ok(default),
        }
    }

    fn checked_size(&self, name: &str, value: u64, limit: usize) -> Result<usize, ModelError> {
        match usize::try_from(value) {
            Ok(size) if (1..=limit).contains(&size) => Ok(size),
            _ => Err(self.refuse(name, value, format!("a whole number from 1 to {limit}"))),
        }
    }

    // JSON does not tell 50 from 50.0.
    fn number(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let key = self.key(name);
        match self.metadata().get(&key).and_then(Value::integer) {
            Some(whole) => Ok(Some(whole as f32)),
            None => Ok(self.metadata().f32(&key)?),
        }
    }

    /// A positive, finite number; 0 counts as absent.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.number(name)? {
            None | Some(0.0) => Ok(None),
            Some(value) if value > 0.0 && value.is_finite() => Ok(Some(value)),
            Some(value) => Err(self.refuse(name, value, "a positive number")),
        }
    }

    pub(crate) fn refuse(
        &self,
        name: &str,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::Value {
            file: self.metadata().file().to_owned(),
            key: self.origin.key_name(&format!("{}.{name}", self.family)),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The number of layers. A file that has fewer tensors than layers is refused here,
    /// before anything is reserved for them.
    pub(crate) fn layers(&self) -> Result<usize, ModelError> {
        self.size("block_count", self.origin.names().len())
    }

    /// Components of the residual stream.
    pub(crate) fn width(&self) -> Result<usize, ModelError> {
        self.size("embedding_length", 1 << 20)
    }

    // Rows of the embedding, which is `width` wide.
    fn vocabulary(&self, width: usize) -> Result<usize, ModelError> {
        let file = || self.metadata().file().to_owned();
        let tensor = "token_embd.weight".to_owned();
        let Some(piece) = self.origin.tensor(&tensor) else {
            return Err(ModelError::MissingTensor { file: file(), tensor });
        };
        match *piece.shape() {
            [columns, rows] if columns == width as u64 && rows <= u64::from(u32::MAX) => Ok(rows as usize),
            ref shape => Err(ModelError::TensorShape {
                file: file(),
                tensor,
                found: shape.to_owned(),
                expected: vec![width as u64, shape.get(1).copied().unwrap_or(1)],
            }),
        }
    }

    /// A norm, whose epsilon must be there.
    pub(crate) fn norm(&self, kind: NormKind) -> Result<Norm, ModelError> {
        let name = match kind {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let epsilon = match self.number(name)? {
            Some(epsilon) => epsilon,
            None => self.metadata().require_f32(&self.key(name))?,
        };
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(self.refuse(name, epsilon, "a positive number"));
        }
        Ok(Norm { kind, epsilon })
    }

    /// Attention over all positions, with the first of the model's ropes.
    pub(crate) fn attention(&self) -> Result<AttentionSpec, ModelError> {
        const MOST_HEADS: usize = 1 << 16;
        let width = self.width()?;
        let heads = self.size("attention.head_count", MOST_HEADS)?;
        let kv_heads = self.size_or("attention.head_count_kv", MOST_HEADS, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of the {heads} query heads");
            return Err(self.refuse("attention.head_count_kv", kv_heads, expected));
        }
        let key_size = self.head_size("attention.key_length", width, heads)?;
        let value_size = self.head_size("attention.value_length", width, heads)?;
        Ok(AttentionSpec {
            heads,
            kv_heads,
            key_size,
            value_size,
            scale: 1.0 / (key_size as f32).sqrt(),
            score_cap: None,
            rope: Some(0),
            window: None,
            head_norms: false,
            input_bias: self.has("blk.0.attn_q.bias") || self.has("blk.0.attn_qkv.bias"),
            output_bias: self.has("blk.0.attn_output.bias"),
        })
    }

    fn head_size(&self, name: &str, width: usize, heads: usize) -> Result<usize, ModelError> {
        let explicit = self.metadata().contains(&self.key(name));
        if !explicit && !width.is_multiple_of(heads) {
            let expected = format!("a divisor of the width {width}");
            return Err(self.refuse("attention.head_count", heads, expected));
        }
        let size = self.size_or(name, usize::MAX, width / heads)?;
        if !size.is_multiple_of(2) || size > MAX_HEAD {
            return Err(self.refuse(name, size, format!("an even head size of at most {MAX_HEAD}")));
        }
        Ok(size)
    }

    /// The positions that attention sees, where that is limited.
    pub(crate) fn window(&self) -> Result<Option<usize>, ModelError> {
        const LONGEST: u64 = 1 << 30;
        let name = "attention.sliding_window";
        match self.metadata().u64(&self.key(name))? {
            None | Some(0) => Ok(None),
            Some(window) if window <= LONGEST => Ok(Some(window as usize)),
            Some(window) => Err(self.refuse(name, window, format!("a whole number up to {LONGEST}"))),
        }
    }

    /// The feed-forward network.
    pub(crate) fn feed_forward(
        &self,
        activation: Activation,
        gated: bool,
    ) -> Result<FeedForwardSpec, ModelError> {
        let size = self.size("feed_forward_length", 1 << 24)?;
        Ok(FeedForwardSpec { size, activation, gated, bias: self.has("blk.0.ffn_up.bias") })
    }

    /// Rotary positions, with linear scaling and frequency factors where the file has them.
    pub(crate) fn rope(&self, pairs: Pairs, key_size: usize) -> Result<Rope, ModelError> {
        let size = self.rope_size(key_size)?;
        let base = match self.number("rope.freq_base")? {
            None => 10_000.0,
            Some(base) if base > 0.0 && base.is_finite() => base,
            Some(base) => return Err(self.refuse("rope.freq_base", base, "a positive number")),
        };
        let scaling = self.rope_scaling()?;
        let name = "rope_freqs.weight";
        let factors = match self.origin.tensor(name) {
            Some(piece) => crate::weights::vector(&piece, size / 2)?,
            None => match self.metadata().f32s(&self.key("rope.freq_factors"))? {
                Some(factors) if factors.len() == size / 2 => factors.into_owned(),
                Some(factors) => {
                    let found = format!("{} numbers", factors.len());
                    return Err(self.refuse("rope.freq_factors", found, format!("{} numbers", size / 2)));
                }
                None => return Ok(Rope::new(pairs, base, size, scaling, None)),
            },
        };
        if let Some(bad) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
            return Err(ModelError::Value {
                file: self.metadata().file().to_owned(),
                key: name.to_owned(),
                found: bad.to_string(),
                expected: "positive numbers".to_owned(),
            });
        }
        Ok(Rope::new(pairs, base, size, scaling, Some(&factors)))
    }

    /// Components of a head that turn.
    pub(crate) fn rope_size(&self, key_size: usize) -> Result<usize, ModelError> {
        let size = self.size_or("rope.dimension_count", key_size, key_size)?;
        if !size.is_multiple_of(2) {
            return Err(self.refuse("rope.dimension_count", size, "an even number"));
        }
        Ok(size)
    }

    // Writers put a type without a factor, and factors of 0 and 1, where there is no scaling.
    fn rope_scaling(&self) -> Result<f32, ModelError> {
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let Some(factor) = factor.filter(|factor| *factor != 0.0 && *factor != 1.0) else { return Ok(1.0) };
        match self.metadata().str(&self.key("rope.scaling.type"))? {
            None | Some("linear") if factor.is_finite() && factor > 0.0 => Ok(factor),
            None | Some("linear") => Err(self.refuse("rope.scaling.factor", factor, "a positive number")),
            Some("none") => Ok(1.0),
            Some(other) => {
                Err(self.refuse("rope.scaling.type", Value::from(other), "\"linear\" or \"none\""))
            }
        }
    }

    /// Which layers see only their window: the file's own list, or every `period`th
    /// layer sees all.
    pub(crate) fn windowed(&self, layers: usize, period: usize) -> Result<Vec<bool>, ModelError> {
        let name = "attention.sliding_window_pattern";
        let key = self.key(name);
        let list: Vec<bool> = match self.metadata().get(&key) {
            None => return Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(period)).collect()),
            Some(Value::Array(Array::Bool(list))) => list.clone(),
            Some(Value::Array(_)) => self.metadata().require_u32s(&key)?.iter().map(|&x| x != 0).collect(),
            Some(_) => {
                let period = self.size(name, layers.max(1))?;
                (0..layers).map(|layer| !(layer + 1).is_multiple_of(period)).collect()
            }
        };
        if list.len() < layers {
            return Err(self.refuse(
                name,
                format!("{} entries", list.len()),
                format!("one for each of {layers} layers"),
            ));
        }
        Ok(list[..layers].to_vec())
    }

    /// A decoder of equal layers, with everything that most families share.
    pub(crate) fn model(&self, layer: LayerSpec, ropes: Vec<Rope>) -> Result<ModelSpec, ModelError> {
        let width = self.width()?;
        Ok(ModelSpec {
            family: self.family,
            vocabulary: self.vocabulary(width)?,
            width,
            context: self.size("context_length", 1 << 30)?,
            embedding_scale: 1.0,
            learned_positions: false,
            ropes,
            output_norm: layer.norm,
            layers: vec![layer; self.layers()?],
            untied_output: self.has("output.weight"),
            output_bias: self.has("output.bias"),
            logit_cap: None,
        })
    }

    /// Refuses a key that changes results, is set, and was not read.
    pub(crate) fn check_unread(&self) -> Result<(), ModelError> {
        for (name, neutral) in CHANGES_RESULTS {
            let key = format!("{}.{name}", self.family);
            let Some(value) = self.metadata().get(&key) else { continue };
            if !self.read.borrow().contains(&key) && !neutral.holds(value) {
                return Err(ModelError::Ignored {
                    file: self.metadata().file().to_owned(),
                    key: self.origin.key_name(&key),
                    found: value.to_string(),
                    family: self.family,
                });
            }
        }
        Ok(())
    }

    /// The family's keys that the file has and nobody read.
    pub(crate) fn unread(&self) -> Vec<String> {
        let prefix = format!("{}.", self.family);
        let read = self.read.borrow();
        let keys = self.metadata().iter().map(|(key, _)| key);
        keys.filter(|key| key.starts_with(&prefix) && !read.contains(*key)).map(str::to_owned).collect()
    }
}
