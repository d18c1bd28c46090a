//! A folder as published on Hugging Face, under GGUF's names: `config.json` becomes
//! hyper-parameters, tensors get their canonical names and, where the two conventions
//! differ, their canonical order.

use std::path::Path;

use rz_formats::{Array, Metadata, ModelFolder, Tensor, Value};
use serde_json::{Map, Value as Json};

use crate::ModelError;
use crate::arch::ARCHS;
use crate::layout::{COMMON_KEYS, Differs, Layout};
use crate::origin::{Change, Origin, Piece};

/// Settings that change results and that no family here has, with the values that mean
/// "not set" besides null, false, 0 and absence.
const UNSUPPORTED: &[(&str, &[f64])] = &[
    ("add_cross_attention", &[]),
    ("attention_chunk_size", &[]),
    ("attn_logit_softcapping", &[]),
    ("clip_qkv", &[]),
    ("embedding_multiplier", &[1.0]),
    ("is_encoder_decoder", &[]),
    ("logits_scaling", &[1.0]),
    ("moe_intermediate_size", &[]),
    ("num_experts", &[]),
    ("num_local_experts", &[]),
    ("qk_layernorm", &[]),
    ("quantization_config", &[]),
    ("residual_multiplier", &[1.0]),
    ("scale_attn_by_inverse_layer_idx", &[]),
    ("use_bidirectional_attention", &[]),
];

/// A folder, read.
pub(crate) struct FolderOrigin<'a> {
    folder: &'a ModelFolder,
    metadata: Metadata,
    layout: &'static Layout,
    family: &'static str,
    tied: bool,
}

impl<'a> FolderOrigin<'a> {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the family is not known, or a setting has a value that is not supported.
    pub(crate) fn new(folder: &'a ModelFolder) -> Result<FolderOrigin<'a>, ModelError> {
        let mut config = Config { file: folder.config_path(), values: folder.config().clone() };
        let model_type = config.str("model_type")?.unwrap_or_default().to_owned();
        let model_type = model_type.as_str();
        let arch = ARCHS.iter().find_map(|arch| {
            let layout = arch.folder.as_ref().filter(|layout| layout.model_types.contains(&model_type))?;
            Some((arch.name, layout))
        });
        let Some((family, layout)) = arch else {
            let types =
                ARCHS.iter().filter_map(|arch| arch.folder.as_ref()).flat_map(|layout| layout.model_types);
            return Err(ModelError::Architecture {
                file: config.file.to_owned(),
                found: model_type.chars().take(64).collect(),
                supported: types.copied().collect::<Vec<_>>().join(", "),
            });
        };
        for (of, key, value) in layout.defaults {
            if *of == model_type && !config.values.contains_key(*key) {
                config.values.insert((*key).to_owned(), Json::from(*value));
            }
        }
        config.check_unsupported(layout)?;
        config.check_activation(layout.activations)?;
        let metadata = config.metadata(family, layout)?;
        let tied = config.bool("tie_word_embeddings")?.unwrap_or(layout.tied);
        let origin = FolderOrigin { folder, metadata, layout, family, tied };
        origin.check_vocabulary()?;
        Ok(origin)
    }

    // The two must agree, and an output that is not tied must be there.
    fn check_vocabulary(&self) -> Result<(), ModelError> {
        let file = || self.metadata.file().to_owned();
        if !self.tied && !self.has("output.weight") {
            let tensor = "lm_head.weight".to_owned();
            return Err(ModelError::MissingTensor { file: file(), tensor });
        }
        let stated = self.metadata.u64(&format!("{}.vocab_size", self.family))?;
        let rows = self.tensor("token_embd.weight").and_then(|piece| piece.shape().get(1).copied());
        match (stated, rows) {
            (Some(stated), Some(rows)) if stated != rows => Err(ModelError::Value {
                file: file(),
                key: "vocab_size".to_owned(),
                found: stated.to_string(),
                expected: format!("the {rows} rows of the embedding"),
            }),
            _ => Ok(()),
        }
    }

    // The folder's own name of a canonical tensor, and how it differs.
    fn own(&self, name: &str) -> Option<(String, Differs)> {
        let (stem, kind) = name.rsplit_once('.')?;
        let named = |list: &[(&str, &'static str, Differs)], stem: &str| {
            list.iter().find(|(canonical, _, _)| *canonical == stem).map(|(_, own, differs)| (*own, *differs))
        };
        match stem.strip_prefix("blk.") {
            Some(rest) => {
                let (index, stem) = rest.split_once('.')?;
                let (own, differs) = named(self.layout.layer, stem)?;
                Some((format!("{}.{index}.{own}.{kind}", self.layout.layers), differs))
            }
            None => {
                let (own, differs) = named(self.layout.others, stem)?;
                Some((format!("{own}.{kind}"), differs))
            }
        }
    }

    fn find(&self, name: &str) -> Option<(&Tensor, Differs)> {
        let (own, differs) = self.own(name)?;
        let tensors = self.folder.tensors();
        // Base models are published without the name of the part that holds them.
        let tensor = tensors.tensor(&own).or_else(|| tensors.tensor(own.split_once('.')?.1))?;
        Some((tensor, differs))
    }
}

impl Origin for FolderOrigin<'_> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensor(&self, name: &str) -> Option<Piece> {
        if self.tied && name.starts_with("output.") {
            return None;
        }
        let (tensor, differs) = self.find(name)?;
        let heads = |name: &str| {
            let key = format!("{}.{name}", self.family);
            self.metadata.u64(&key).ok().flatten().and_then(|heads| usize::try_from(heads).ok()).unwrap_or(1)
        };
        let queries = heads("attention.head_count");
        let change = match differs {
            Differs::No => Change::None,
            Differs::QueryRows => Change::PairRows(queries),
            Differs::KeyRows
                if self.metadata.contains(&format!("{}.attention.head_count_kv", self.family)) =>
            {
                Change::PairRows(heads("attention.head_count_kv"))
            }
            Differs::KeyRows => Change::PairRows(queries),
            Differs::Transposed if tensor.shape().len() == 2 => Change::Transpose,
            Differs::Transposed => Change::None,
            Differs::MinusOne => Change::AddOne,
        };
        Some(Piece { tensor: tensor.clone(), change, rows: None })
    }

    fn names(&self) -> Vec<String> {
        self.folder.tensors().tensors().map(|tensor| tensor.name().to_owned()).collect()
    }

    fn tensor_name(&self, name: &str) -> String {
        self.own(name).map_or_else(|| name.to_owned(), |(own, _)| own)
    }

    fn key_name(&self, key: &str) -> String {
        let name = key.split_once('.').map_or(key, |(_, name)| name);
        let keys = self.layout.keys.iter().chain(COMMON_KEYS);
        keys.into_iter().find(|(canonical, _)| *canonical == name).map_or(name, |(_, own)| own).to_owned()
    }
}

/// `config.json`.
struct Config<'a> {
    file: &'a Path,
    values: Map<String, Json>,
}

impl Config<'_> {
    fn refuse(&self, key: &str, found: &Json, expected: impl Into<String>) -> ModelError {
        let found: String = found.to_string().chars().take(80).collect();
        ModelError::Value {
            file: self.file.to_owned(),
            key: key.to_owned(),
            found,
            expected: expected.into(),
        }
    }

    // Null counts as absent.
    fn get(&self, key: &str) -> Option<&Json> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, value, "a string"))
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.refuse(key, value, "true or false"))
    }

    fn check_unsupported(&self, layout: &Layout) -> Result<(), ModelError> {
        for (key, neutral) in UNSUPPORTED {
            if layout.keys.iter().any(|(_, own)| own == key) {
                continue;
            }
            let Some(value) = self.get(key) else { continue };
            let set = match value {
                Json::Bool(set) => *set,
                Json::Number(number) => {
                    number.as_f64().is_none_or(|number| number != 0.0 && !neutral.contains(&number))
                }
                _ => true,
            };
            if set {
                return Err(self.refuse(key, value, "nothing, since no family here has it"));
            }
        }
        match self.bool("scale_attn_weights")? {
            Some(false) => Err(self.refuse("scale_attn_weights", &Json::Bool(false), "true")),
            _ => Ok(()),
        }
    }

    fn check_activation(&self, known: &[&str]) -> Result<(), ModelError> {
        for key in ["hidden_act", "hidden_activation", "activation_function"] {
            if let Some(name) = self.str(key)?
                && !known.contains(&name)
            {
                return Err(self.refuse(key, &self.values[key], known.join(" or ")));
            }
        }
        Ok(())
    }

    fn metadata(&self, family: &str, layout: &Layout) -> Result<Metadata, ModelError> {
        let mut out = Out { family, metadata: Metadata::of_file(self.file) };
        out.metadata.insert("general.architecture", family);
        for (canonical, key) in COMMON_KEYS.iter().chain(layout.keys) {
            if let Some(value) = self.get(key) {
                let value = self.number(key, value)?;
                out.set(canonical, value);
            }
        }
        self.windows(layout.windowed, &mut out)?;
        // One group for all layers, or one for each kind of layer.
        let ropes = self.object("rope_parameters")?;
        match ropes.and_then(|ropes| ropes.get("full_attention")) {
            Some(full) => {
                self.rope(full.as_object(), &mut out)?;
                let local =
                    ropes.and_then(|ropes| ropes.get("sliding_attention")?.get("rope_theta")?.as_f64());
                if let Some(base) = local {
                    out.set("rope.freq_base_swa", Value::F32(base as f32));
                }
            }
            None => self.rope(ropes, &mut out)?,
        }
        Ok(out.metadata)
    }

    fn object(&self, key: &str) -> Result<Option<&Map<String, Json>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.refuse(key, value, "an object"))
    }

    fn number(&self, key: &str, value: &Json) -> Result<Value, ModelError> {
        // Defaults are floating point, sizes too.
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..9e15).contains(x)).map(|x| x as u64)
        });
        match (whole, value.as_f64()) {
            (Some(whole), _) => Ok(Value::U64(whole)),
            (_, Some(number)) => Ok(Value::F32(number as f32)),
            _ => Err(self.refuse(key, value, "a number")),
        }
    }

    fn windows(&self, default: bool, out: &mut Out<'_>) -> Result<(), ModelError> {
        let kinds = match self.get("layer_types") {
            None => None,
            Some(Json::Array(kinds)) => Some(kinds),
            Some(other) => return Err(self.refuse("layer_types", other, "a list")),
        };
        for kind in kinds.into_iter().flatten() {
            if !["full_attention", "sliding_attention"].iter().any(|known| kind == known) {
                return Err(self.refuse("layer_types", kind, "full_attention or sliding_attention"));
            }
        }
        let windowed = kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind == "sliding_attention"));
        let used = self.bool("use_sliding_window")?.unwrap_or(default) && windowed;
        if let Some(window) = self.get("sliding_window").filter(|_| used) {
            out.set("attention.sliding_window", self.number("sliding_window", window)?);
            if let Some(kinds) = kinds {
                let list = kinds.iter().map(|kind| kind == "sliding_attention").collect();
                out.set("attention.sliding_window_pattern", Value::Array(Array::Bool(list)));
            } else if let Some(period) = self.get("sliding_window_pattern") {
                let period = self.number("sliding_window_pattern", period)?;
                out.set("attention.sliding_window_pattern", period);
            }
        }
        if let Some(scalar) = self.get("query_pre_attn_scalar").and_then(Json::as_f64) {
            out.set("attention.scale", Value::F32((1.0 / scalar.sqrt()) as f32));
        }
        Ok(())
    }

    // Older files have the parts at the top, newer ones in one object.
    fn rope(&self, group: Option<&Map<String, Json>>, out: &mut Out<'_>) -> Result<(), ModelError> {
        let inner = |key: &str| group.and_then(|group| group.get(key)).filter(|value| !value.is_null());
        let either = |key: &str| inner(key).or_else(|| self.get(key));
        if let Some(base) = either("rope_theta").and_then(Json::as_f64) {
            out.set("rope.freq_base", Value::F32(base as f32));
        }
        let head = match (
            out.size("attention.key_length"),
            out.size("embedding_length"),
            out.size("attention.head_count"),
        ) {
            (Some(head), _, _) => head,
            (None, Some(width), Some(heads)) if heads > 0 => width / heads,
            _ => 0,
        };
        let mut rotated = head;
        if let Some(part) = either("partial_rotary_factor") {
            let factor = part.as_f64().filter(|factor| (0.0..=1.0).contains(factor));
            let factor =
                factor.ok_or_else(|| self.refuse("partial_rotary_factor", part, "a number from 0 to 1"))?;
            rotated = (head as f64 * factor) as u64;
            out.set("rope.dimension_count", Value::U64(rotated));
        }
        let scaling = match self.object("rope_scaling")? {
            Some(scaling) => scaling,
            None => match group {
                Some(group) => group,
                None => return Ok(()),
            },
        };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).filter(|kind| !kind.is_null());
        let number = |key: &str| {
            let value = scaling.get(key).unwrap_or(&Json::Null);
            let number = value.as_f64().filter(|number| *number > 0.0);
            number.ok_or_else(|| self.refuse(&format!("rope_scaling.{key}"), value, "a positive number"))
        };
        match kind.and_then(Json::as_str) {
            None | Some("default") => {}
            Some("linear") => out.set("rope.scaling.factor", Value::F32(number("factor")? as f32)),
            Some("llama3") => {
                let base = out.metadata.f32(&format!("{}.rope.freq_base", out.family))?.unwrap_or(10_000.0);
                let factors = Llama3 {
                    factor: number("factor")?,
                    low: number("low_freq_factor")?,
                    high: number("high_freq_factor")?,
                    context: number("original_max_position_embeddings")?,
                };
                let list = (0..rotated / 2).map(|i| factors.of_pair(f64::from(base), i, rotated)).collect();
                out.set("rope.freq_factors", Value::Array(Array::F32(list)));
            }
            Some(_) => {
                let kind = kind.unwrap_or(&Json::Null);
                return Err(self.refuse("rope_scaling.rope_type", kind, "default, linear or llama3"));
            }
        }
        Ok(())
    }
}

/// The hyper-parameters that are being made.
struct Out<'a> {
    family: &'a str,
    metadata: Metadata,
}

impl Out<'_> {
    fn set(&mut self, name: &str, value: Value) {
        self.metadata.insert(format!("{}.{name}", self.family), value);
    }

    fn size(&self, name: &str) -> Option<u64> {
        self.metadata.u64(&format!("{}.{name}", self.family)).ok().flatten()
    }
}

/// Llama 3.1's scaling: long waves are stretched, short ones kept, those between mixed.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    context: f64,
}

impl Llama3 {
    // What the frequency of a pair is divided by.
    fn of_pair(&self, base: f64, pair: u64, size: u64) -> f32 {
        let wave = 2.0 * std::f64::consts::PI * base.powf(2.0 * pair as f64 / size as f64);
        let turns = self.context / wave;
        let factor = if turns > self.high {
            1.0
        } else if turns < self.low {
            self.factor
        } else {
            let mix = (turns - self.low) / (self.high - self.low);
            1.0 / ((1.0 - mix) / self.factor + mix)
        };
        factor as f32
    }
}
