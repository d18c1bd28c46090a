//! Hyper-parameters of one family: typed, checked, and noted as read.

use std::cell::RefCell;
use std::collections::HashSet;

use rz_formats::{Array, Gguf, Value};
use rz_kernels::MAX_HEAD;

use crate::ModelError;
use crate::spec::{AttentionSpec, Norm, Rope};

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
    ("swin_norm", Neutral::False),
    ("use_parallel_residual", Neutral::False),
];

/// The value that means "not set".
#[derive(Clone, Copy)]
enum Neutral {
    Zero,
    ZeroOrOne,
    True,
    False,
}

impl Neutral {
    fn holds(self, value: &Value) -> bool {
        let number = |x: f64| match self {
            Neutral::Zero | Neutral::False => x == 0.0,
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
    gguf: &'a Gguf,
    family: &'static str,
    read: RefCell<HashSet<String>>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(gguf: &'a Gguf, family: &'static str) -> Keys<'a> {
        Keys { gguf, family, read: RefCell::default() }
    }

    pub(crate) fn family(&self) -> &'static str {
        self.family
    }

    fn key(&self, name: &str) -> String {
        let key = format!("{}.{name}", self.family);
        self.read.borrow_mut().insert(key.clone());
        key
    }

    /// A whole number of at least 1 and at most `limit`.
    pub(crate) fn size(&self, name: &str, limit: usize) -> Result<usize, ModelError> {
        let value = self.gguf.metadata().require_u64(&self.key(name))?;
        self.checked_size(name, value, limit)
    }

    /// As [`size`](Self::size), for a key that may be absent.
    pub(crate) fn size_or(&self, name: &str, limit: usize, default: usize) -> Result<usize, ModelError> {
        match self.gguf.metadata().u64(&self.key(name))? {
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

    /// A positive, finite number.
    pub(crate) fn positive(&self, name: &str, default: Option<f32>) -> Result<f32, ModelError> {
        let key = self.key(name);
        let value = match default {
            Some(default) => self.gguf.metadata().f32(&key)?.unwrap_or(default),
            None => self.gguf.metadata().require_f32(&key)?,
        };
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        Err(self.refuse(name, value, "a positive number".to_owned()))
    }

    pub(crate) fn refuse(
        &self,
        name: &str,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::Value {
            file: self.gguf.metadata().file().to_owned(),
            key: format!("{}.{name}", self.family),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The number of layers. A file that has fewer tensors than layers is refused here,
    /// before anything is reserved for them.
    pub(crate) fn block_count(&self) -> Result<usize, ModelError> {
        self.size("block_count", self.gguf.tensors().len())
    }

    /// Rows of the embedding, which is `width` wide.
    pub(crate) fn vocabulary(&self, width: usize) -> Result<usize, ModelError> {
        let file = || self.gguf.metadata().file().to_owned();
        let tensor = "token_embd.weight".to_owned();
        match self.gguf.tensor(&tensor).map(|tensor| tensor.shape()) {
            None => Err(ModelError::MissingTensor { file: file(), tensor }),
            Some(&[columns, rows]) if columns == width as u64 && rows <= u64::from(u32::MAX) => {
                Ok(rows as usize)
            }
            Some(shape) => Err(ModelError::TensorShape {
                file: file(),
                tensor,
                found: shape.to_owned(),
                expected: vec![width as u64, shape.get(1).copied().unwrap_or(1)],
            }),
        }
    }

    /// Root-mean-square norm.
    pub(crate) fn rms_norm(&self) -> Result<Norm, ModelError> {
        Ok(Norm { epsilon: self.positive("attention.layer_norm_rms_epsilon", None)? })
    }

    /// Heads, their sizes and rotary positions over neighbouring pairs.
    pub(crate) fn attention(&self, width: usize) -> Result<AttentionSpec, ModelError> {
        const MOST_HEADS: usize = 1 << 16;
        let heads = self.size("attention.head_count", MOST_HEADS)?;
        let kv_heads = self.size_or("attention.head_count_kv", MOST_HEADS, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of the {heads} query heads");
            return Err(self.refuse("attention.head_count_kv", kv_heads, expected));
        }
        let head = width / heads;
        let key_size = self.head_size("attention.key_length", width, heads, head)?;
        let value_size = self.head_size("attention.value_length", width, heads, head)?;
        let rope = self.rope(key_size)?;
        let scale = 1.0 / (key_size as f32).sqrt();
        Ok(AttentionSpec { heads, kv_heads, key_size, value_size, scale, rope })
    }

    fn head_size(&self, name: &str, width: usize, heads: usize, head: usize) -> Result<usize, ModelError> {
        let explicit = self.gguf.metadata().contains(&self.key(name));
        if !explicit && !width.is_multiple_of(heads) {
            let expected = format!("a divisor of the width {width}");
            return Err(self.refuse("attention.head_count", heads, expected));
        }
        let size = self.size_or(name, MAX_HEAD, head)?;
        if !size.is_multiple_of(2) || size > MAX_HEAD {
            return Err(self.refuse(name, size, format!("an even head size of at most {MAX_HEAD}")));
        }
        Ok(size)
    }

    fn rope(&self, key_size: usize) -> Result<Rope, ModelError> {
        let size = self.size_or("rope.dimension_count", key_size, key_size)?;
        if !size.is_multiple_of(2) {
            return Err(self.refuse("rope.dimension_count", size, "an even number"));
        }
        let base = self.positive("rope.freq_base", Some(10_000.0))?;
        let scaling = self.rope_scaling()?;
        let name = "rope_freqs.weight";
        let Some(tensor) = self.gguf.tensor(name) else { return Ok(Rope::new(base, size, scaling, None)) };
        let factors = crate::weights::vector(self.gguf, tensor, size / 2)?;
        if let Some(bad) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
            return Err(ModelError::Value {
                file: self.gguf.metadata().file().to_owned(),
                key: name.to_owned(),
                found: bad.to_string(),
                expected: "positive numbers".to_owned(),
            });
        }
        Ok(Rope::new(base, size, scaling, Some(&factors)))
    }

    // Writers put a type without a factor, and factors of 0 and 1, where there is no scaling.
    fn rope_scaling(&self) -> Result<f32, ModelError> {
        let metadata = self.gguf.metadata();
        let factor = match metadata.f32(&self.key("rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            None => metadata.f32(&self.key("rope.scale_linear"))?,
        };
        let Some(factor) = factor.filter(|factor| *factor != 0.0 && *factor != 1.0) else { return Ok(1.0) };
        match metadata.str(&self.key("rope.scaling.type"))? {
            None | Some("linear") if factor.is_finite() && factor > 0.0 => Ok(factor),
            None | Some("linear") => Err(self.refuse("rope.scaling.factor", factor, "a positive number")),
            Some("none") => Ok(1.0),
            Some(other) => Err(self.refuse("rope.scaling.type", other, "\"linear\" or \"none\"")),
        }
    }

    /// Refuses a key that changes results, is set, and was not read.
    pub(crate) fn check_unread(&self) -> Result<(), ModelError> {
        let metadata = self.gguf.metadata();
        for (name, neutral) in CHANGES_RESULTS {
            let key = format!("{}.{name}", self.family);
            let Some(value) = metadata.get(&key) else { continue };
            if !self.read.borrow().contains(&key) && !neutral.holds(value) {
                return Err(ModelError::Ignored {
                    file: metadata.file().to_owned(),
                    key,
                    found: short(value),
                    family: self.family,
                });
            }
        }
        Ok(())
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("an array of {}", array.len()),
        Value::Bool(x) => x.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::String(x) => format!("{:?}", x.chars().take(64).collect::<String>()),
        other => other.integer().map_or_else(String::new, |x| x.to_string()),
    }
}
