//! How an answer is generated: the settings that all API families share.

use rz_model::sampler::{Kind, Param, SAMPLERS, Settings, Value as Setting};
use serde_json::{Map, Value};

use crate::backend::ConstraintSpec;
use crate::fields::{Fields, whole, wrong};
use crate::{ApiError, Config, ids};

/// The most stop strings of a request, and the most characters of one.
pub(crate) const STOPS: (usize, usize) = (64, 4096);
/// The most tokens whose scores a request may change, and the most digits of one.
pub(crate) const BIASES: (usize, usize) = (4096, 9);
/// The most alternatives whose log-probabilities are given.
pub(crate) const MOST_LOGPROBS: i64 = 20;
/// The largest number of tokens that can be asked for: more than any context holds, so that what is larger is a mistake.
pub(crate) const MOST_TOKENS: i64 = 100_000_000;
/// From the smallest seed to the largest: as many on both sides, so that all that floating point rounds to a number
/// beyond them is beyond them.
pub(crate) const SEEDS: (i64, i64) = (-i64::MAX, i64::MAX);
/// From the lowest priority to the highest.
pub(crate) const PRIORITIES: (i64, i64) = (-1000, 1000);
/// The largest number of a slot.
pub(crate) const MOST_SLOT: i64 = 65_536;

/// How an answer is generated, whatever API it was asked for by.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    pub(crate) settings: Settings,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: u64,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: bool,
    pub(crate) min_tokens: usize,
    pub(crate) logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) cache_prompt: bool,
    /// The slot that the request is to have.
    pub(crate) slot: Option<usize>,
    pub(crate) constraint: Option<ConstraintSpec>,
    pub(crate) priority: i32,
}

impl Sampling {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            settings: Settings::new(),
            logit_bias: Vec::new(),
            seed: ids::seed(),
            max_tokens: config.max_tokens,
            stop: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            logprobs: None,
            prompt_logprobs: None,
            cache_prompt: true,
            slot: None,
            constraint: None,
            priority: 0,
        }
    }

    /// Takes the settings of samplers that a request names: those of rz by their own names, and what
    /// others call them.
    pub(crate) fn take_settings(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        for param in SAMPLERS.iter().flat_map(|sampler| sampler.params) {
            if let Some(value) = fields.value(param.name) {
                self.set(param, value, &fields.path(param.name))?;
            }
        }
        for (name, own) in OTHER_NAMES {
            if let Some(value) = fields.value(name) {
                let path = fields.path(name);
                match param(own) {
                    Some(param) => self.set(param, value, &path)?,
                    None => return Err(ApiError::unsupported(&path, format!("'{path}' is not supported"))),
                }
            }
        }
        for (name, off) in IDLE {
            // Samplers that are not there are as good as turned off.
            if param(name).is_none()
                && let Some(value) = fields.value(name)
                && value.as_f64() != Some(*off)
            {
                let path = fields.path(name);
                let message = format!("'{path}' is not supported: leave it out or give {off}");
                return Err(ApiError::unsupported(path, message));
            }
        }
        Ok(())
    }

    /// Sets one setting to what a request has for it.
    fn set(&mut self, param: &Param, value: Value, path: &str) -> Result<(), ApiError> {
        let expected = || param.kind.to_string();
        let setting = match (param.kind, &value) {
            (Kind::Bool { .. }, Value::Bool(value)) => Setting::Bool(*value),
            (Kind::Int { .. }, value) => {
                Setting::Int(whole(value).ok_or_else(|| wrong(path, value, &expected()))?)
            }
            (Kind::Float { .. }, Value::Number(number)) => {
                Setting::Float(number.as_f64().unwrap_or(f64::NAN))
            }
            (_, value) => return Err(wrong(path, value, &expected())),
        };
        self.settings.set(param.name, setting).map_err(|_| wrong(path, &value, &expected()))
    }

    pub(crate) fn take_stop(&mut self, fields: &mut Fields, name: &str) -> Result<(), ApiError> {
        let path = fields.path(name);
        let Some(stop) = fields.strings(name)? else { return Ok(()) };
        let (most, longest) = STOPS;
        if stop.len() > most {
            return Err(ApiError::invalid(
                &path,
                format!("'{path}' has {} strings: give at most {most}", stop.len()),
            ));
        }
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::invalid(&path, format!("a string of '{path}' is empty: leave it out")));
        }
        if stop.iter().any(|text| text.chars().count() > longest) {
            let message =
                format!("a string of '{path}' has more than {longest} characters: give a shorter one");
            return Err(ApiError::invalid(path, message));
        }
        self.stop = stop;
        Ok(())
    }

    /// Takes the number of tokens, bounded by what the server allows.
    pub(crate) fn take_max_tokens(
        &mut self,
        fields: &mut Fields,
        name: &str,
        least: i64,
    ) -> Result<bool, ApiError> {
        let Some(tokens) = fields.integer(name, least, MOST_TOKENS)? else { return Ok(false) };
        self.limit(tokens as usize);
        Ok(true)
    }

    /// The same in the words of llama.cpp and Ollama: -1 until the model ends, -2 until the context is full, which is
    /// where it ends anyway.
    pub(crate) fn take_most_tokens(&mut self, fields: &mut Fields, name: &str) -> Result<(), ApiError> {
        let Some(value) = fields.value(name) else { return Ok(()) };
        match whole(&value) {
            Some(-2 | -1) => {}
            Some(tokens @ 1..=MOST_TOKENS) => self.limit(tokens as usize),
            _ => {
                let expected = format!("a whole number from 1 to {MOST_TOKENS}, or -1 for no limit");
                return Err(wrong(&fields.path(name), &value, &expected));
            }
        }
        Ok(())
    }

    fn limit(&mut self, tokens: usize) {
        self.max_tokens = Some(self.max_tokens.map_or(tokens, |most| most.min(tokens)));
    }

    /// Takes a seed; any whole number is one.
    pub(crate) fn take_seed(&mut self, fields: &mut Fields, random: Option<i64>) -> Result<(), ApiError> {
        let (least, most) = SEEDS;
        if let Some(seed) = fields.integer("seed", least, most)?
            && Some(seed) != random
        {
            self.seed = seed as u64;
        }
        Ok(())
    }

    /// OpenAI's map from token ids to what is added to their scores.
    pub(crate) fn take_logit_bias(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let Some(map) = fields.object("logit_bias")? else { return Ok(()) };
        let map: Map<String, Value> = map.into_rest();
        let (most, digits) = BIASES;
        if map.len() > most {
            let message = format!("'logit_bias' has {} entries: give at most {most}", map.len());
            return Err(ApiError::invalid("logit_bias", message));
        }
        for (key, value) in map {
            let path = format!("logit_bias.{}", crate::error::shown(&key));
            let plain = key.len() <= digits && key.bytes().all(|byte| byte.is_ascii_digit());
            let id = key.parse::<u32>().ok().filter(|_| plain).ok_or_else(|| {
                let message =
                    format!("'{path}' is not a token id: give a whole number of at most {digits} digits");
                ApiError::invalid(&path, message)
            })?;
            let bias = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
            let bias = bias.ok_or_else(|| wrong(&path, &value, "a number from -100 to 100"))?;
            self.logit_bias.push((id, bias as f32));
        }
        self.logit_bias.sort_by_key(|(id, _)| *id);
        Ok(())
    }

    /// What several servers take beside OpenAI's parameters.
    pub(crate) fn take_extensions(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        self.ignore_eos = fields.bool("ignore_eos")?.unwrap_or(false);
        self.min_tokens = fields.integer("min_tokens", 0, MOST_TOKENS)?.unwrap_or(0) as usize;
        if self.max_tokens.is_some_and(|most| self.min_tokens > most) {
            let message = "'min_tokens' is more than the most tokens: give less";
            return Err(ApiError::invalid("min_tokens", message));
        }
        self.cache_prompt = fields.bool("cache_prompt")?.unwrap_or(true);
        self.slot = fields.integer("id_slot", -1, MOST_SLOT)?.and_then(|id| usize::try_from(id).ok());
        let (lowest, highest) = PRIORITIES;
        self.priority = fields.integer("priority", lowest, highest)?.unwrap_or(0) as i32;
        let path = fields.path("guided_regex");
        if let Some(regex) = fields.string("guided_regex")? {
            self.constrain(ConstraintSpec::Regex(regex), &path)?;
        }
        let path = fields.path("guided_grammar");
        if let Some(grammar) = fields.string("guided_grammar")? {
            self.constrain(grammar_of(grammar), &path)?;
        }
        let path = fields.path("guided_choice");
        if let Some(choices) = fields.strings("guided_choice")? {
            self.constrain(ConstraintSpec::Choice(choices), &path)?;
        }
        let path = fields.path("guided_json");
        if let Some(schema) = fields.value("guided_json") {
            self.constrain(ConstraintSpec::JsonSchema(schema), &path)?;
        }
        self.take_structured_outputs(fields)
    }

    /// The same as `guided_...`, in one object.
    fn take_structured_outputs(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let Some(mut outputs) = fields.object("structured_outputs")? else { return Ok(()) };
        if let Some(schema) = outputs.value("json") {
            self.constrain(ConstraintSpec::JsonSchema(schema), &outputs.path("json"))?;
        }
        if outputs.bool("json_object")?.unwrap_or(false) {
            self.constrain(ConstraintSpec::JsonObject, &outputs.path("json_object"))?;
        }
        if let Some(regex) = outputs.string("regex")? {
            self.constrain(ConstraintSpec::Regex(regex), &outputs.path("regex"))?;
        }
        if let Some(choices) = outputs.strings("choice")? {
            self.constrain(ConstraintSpec::Choice(choices), &outputs.path("choice"))?;
        }
        if let Some(grammar) = outputs.string("grammar")? {
            self.constrain(grammar_of(grammar), &outputs.path("grammar"))?;
        }
        outputs.finish()
    }

    /// Takes OpenAI's `response_format`.
    pub(crate) fn take_response_format(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let Some(mut format) = fields.object("response_format")? else { return Ok(()) };
        match format.word("type", &[("text", 0), ("json_object", 1), ("json_schema", 2)])? {
            None => return Err(format.missing("type")),
            Some(0) => {}
            // Some clients put a schema beside `json_object`.
            Some(1) => match format.value("schema") {
                None => self.constrain(ConstraintSpec::JsonObject, "response_format")?,
                Some(schema) => {
                    self.constrain(ConstraintSpec::JsonSchema(schema), "response_format.schema")?;
                }
            },
            Some(_) => {
                let mut schema =
                    format.object("json_schema")?.ok_or_else(|| format.missing("json_schema"))?;
                self.take_schema(&mut schema)?;
                schema.finish()?;
            }
        }
        format.finish()
    }

    /// Takes a schema with its name, as OpenAI writes it.
    pub(crate) fn take_schema(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        fields.string("name")?;
        fields.string("description")?;
        // The answer follows the schema in any case.
        fields.bool("strict")?;
        let path = fields.path("schema");
        let schema = fields.value("schema").ok_or_else(|| fields.missing("schema"))?;
        self.constrain(ConstraintSpec::JsonSchema(schema), &path)
    }

    /// Sets what the answer must be. Two of them contradict each other.
    pub(crate) fn constrain(&mut self, spec: ConstraintSpec, path: &str) -> Result<(), ApiError> {
        let refuse = |message: String| Err(ApiError::invalid(path, message));
        if self.constraint.is_some() {
            return refuse(format!(
                "'{path}' and another parameter both say what the answer must be: give one"
            ));
        }
        if let ConstraintSpec::JsonSchema(schema) = &spec
            && !matches!(schema, Value::Object(_) | Value::Bool(_))
        {
            return Err(wrong(path, schema, "a JSON schema"));
        }
        if let Err(error) = spec.check() {
            return refuse(format!("'{path}': {error}"));
        }
        self.constraint = Some(spec);
        Ok(())
    }
}

/// What other servers call settings of ours.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("repetition_penalty", "repeat_penalty"),
    ("typ_p", "typical_p"),
    ("typical", "typical_p"),
    ("top_n_sigma", "top_n_sigma"),
];

/// Settings that clients send with the value that turns them off.
const IDLE: &[(&str, f64)] = &[
    ("frequency_penalty", 0.0),
    ("presence_penalty", 0.0),
    ("typical_p", 1.0),
    ("tfs_z", 1.0),
    ("mirostat", 0.0),
    ("xtc_probability", 0.0),
    ("dry_multiplier", 0.0),
    ("dynatemp_range", 0.0),
];

/// The setting with this name.
pub(crate) fn param(name: &str) -> Option<&'static Param> {
    SAMPLERS.iter().flat_map(|sampler| sampler.params).find(|param| param.name == name)
}

/// A grammar in whichever notation it is written.
fn grammar_of(text: String) -> ConstraintSpec {
    if text.contains("::=") { ConstraintSpec::Gbnf(text) } else { ConstraintSpec::Lark(text) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(body: Value) -> Result<Sampling, ApiError> {
        let mut fields = Fields::of_body(body, None).unwrap();
        let mut sampling = Sampling::new(&Config::default());
        sampling.take_settings(&mut fields)?;
        sampling.take_stop(&mut fields, "stop")?;
        sampling.take_max_tokens(&mut fields, "max_tokens", 1)?;
        sampling.take_seed(&mut fields, None)?;
        sampling.take_logit_bias(&mut fields)?;
        sampling.take_response_format(&mut fields)?;
        sampling.take_extensions(&mut fields)?;
        fields.finish()?;
        Ok(sampling)
    }

    #[test]
    fn settings_arrive_at_the_samplers() {
        let sampling = take(json!({
            "temperature": 0, "top_k": 3.0, "repetition_penalty": 1.5, "stop": "x", "max_tokens": 7, "seed": -1,
            "logit_bias": {"5": -100, "3": 1.5}
        }))
        .unwrap();
        let float = |name| sampling.settings.float(param(name).unwrap());
        assert_eq!((float("temperature"), float("top_k"), float("repeat_penalty")), (0.0, 3.0, 1.5));
        assert_eq!((sampling.stop, sampling.max_tokens), (vec!["x".to_owned()], Some(7)));
        assert_eq!(sampling.seed, u64::MAX);
        assert_eq!(sampling.logit_bias, [(3, 1.5), (5, -100.0)]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (body, name) in [
            (json!({"temperature": -1}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"temperature": 1e308}), "temperature"),
            // The number above 100, which is not rounded to it.
            (serde_json::from_str(r#"{"temperature": 100.00000000000001}"#).unwrap(), "temperature"),
            (json!({"top_p": [0.5]}), "top_p"),
            (json!({"top_k": 1.5}), "top_k"),
            (json!({"max_tokens": -1}), "max_tokens"),
            (json!({"max_tokens": 1_000_000_000_000_i64}), "max_tokens"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"seed": 0.5}), "seed"),
            (json!({"stop": ""}), "stop"),
            (json!({"stop": ["a", 1]}), "stop"),
            (json!({"stop": vec!["a"; 65]}), "stop"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias"),
            (json!({"logit_bias": [1]}), "logit_bias"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}), "schema"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_regex": "a", "guided_grammar": "b"}), "guided_grammar"),
            (json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "structured_outputs.choice"),
            (json!({"structured_outputs": {"xml": "a"}}), "structured_outputs.xml"),
            (json!({"mirostat": 2}), "mirostat"),
            (json!({"invented": 2}), "invented"),
        ] {
            let error = take(body.clone()).expect_err(&body.to_string());
            assert_eq!(error.status(), 400);
            assert!(error.message().contains(name), "{body}: {error}");
        }
        let deep = (0..100).fold(json!({}), |inner, _| json!({ "items": inner }));
        assert!(take(json!({ "guided_json": deep })).unwrap_err().message().contains("levels"));
    }
}
