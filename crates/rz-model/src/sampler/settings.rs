//! What can be set on the samplers, validated against their rows.

use std::collections::BTreeMap;
use std::fmt;

use super::{SAMPLERS, Sampler};
use crate::ModelError;

/// One setting of a sampler, as data.
pub struct Param {
    /// Name in JSON and in [`Settings`].
    pub name: &'static str,
    /// Names on the command line, without dashes, the preferred one first.
    pub flags: &'static [&'static str],
    /// Type, default and range.
    pub kind: Kind,
    /// What it means, in one line.
    pub doc: &'static str,
}

/// Type, default and inclusive range of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Kind {
    /// A number.
    Float { default: f64, min: f64, max: f64 },
    /// A whole number.
    Int { default: i64, min: i64, max: i64 },
    /// Yes or no.
    Bool { default: bool },
}

/// A value of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Float(f64),
    /// A whole number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
}

/// The settings of a chain: defaults, those that were set, and the order of the samplers.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    order: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings {
    /// Every setting at its default, the samplers in their default order.
    pub fn new() -> Self {
        Self { values: BTreeMap::new(), order: SAMPLERS.iter().map(|s| s.name).collect() }
    }

    /// Sets one value.
    ///
    /// # Errors
    /// When there is no such setting, or the value is of another kind or out of range.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), ModelError> {
        let param = find(name)?;
        self.values.insert(param.name, param.check(value.into())?);
        Ok(())
    }

    /// Sets one value from text, as it comes from a command line or a file.
    ///
    /// # Errors
    /// As for [`set`](Self::set), and when the text is no value.
    pub fn set_text(&mut self, name: &str, text: &str) -> Result<(), ModelError> {
        let param = find(name)?;
        let value = match param.kind {
            Kind::Float { .. } => text.parse().ok().map(Value::Float),
            Kind::Int { .. } => text.parse().ok().map(Value::Int),
            Kind::Bool { .. } => text.parse().ok().map(Value::Bool),
        };
        self.set(name, value.ok_or_else(|| param.refuse(text))?)
    }

    /// Applies these samplers in this order, and no others.
    ///
    /// # Errors
    /// When there is no such sampler, or one is named twice.
    pub fn set_order<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Result<(), ModelError> {
        let mut order = Vec::new();
        for name in names {
            let sampler = SAMPLERS
                .iter()
                .find(|s| s.name == name)
                .ok_or_else(|| unknown("sampler", name, SAMPLERS.iter().map(|s| s.name)))?;
            if order.contains(&sampler.name) {
                return Err(ModelError::SamplerSetting {
                    name: "order".into(),
                    value: format!("`{name}` twice"),
                    expected: "each sampler at most once".into(),
                });
            }
            order.push(sampler.name);
        }
        self.order = order;
        Ok(())
    }

    /// The samplers in their order.
    pub fn order(&self) -> &[&'static str] {
        &self.order
    }

    /// The value of a setting: what was set, or its default.
    pub fn get(&self, param: &Param) -> Value {
        self.values.get(param.name).copied().unwrap_or(param.default())
    }

    /// Whether the value was set rather than left at its default.
    pub fn is_set(&self, param: &Param) -> bool {
        self.values.contains_key(param.name)
    }

    /// The value as a number; yes is 1.
    pub fn float(&self, param: &Param) -> f64 {
        match self.get(param) {
            Value::Float(x) => x,
            Value::Int(x) => x as f64,
            Value::Bool(x) => f64::from(u8::from(x)),
        }
    }

    /// The value as a whole number; yes is 1.
    pub fn int(&self, param: &Param) -> i64 {
        match self.get(param) {
            Value::Float(x) => x as i64,
            Value::Int(x) => x,
            Value::Bool(x) => i64::from(x),
        }
    }

    /// The value as yes or no; every number but zero is yes.
    pub fn bool(&self, param: &Param) -> bool {
        self.float(param) != 0.0
    }

    /// The samplers in their order, after checking that none was set that is not among them.
    pub(super) fn samplers(&self) -> Result<Vec<&'static Sampler>, ModelError> {
        for sampler in SAMPLERS.iter().filter(|s| !self.order.contains(&s.name)) {
            if let Some(param) = sampler.params.iter().find(|p| self.is_set(p)) {
                return Err(ModelError::SamplerSetting {
                    name: param.name.into(),
                    value: self.get(param).to_string(),
                    expected: format!("a place for `{}` in the order of samplers", sampler.name),
                });
            }
        }
        Ok(self.order.iter().filter_map(|name| SAMPLERS.iter().find(|s| s.name == *name)).collect())
    }
}

impl Param {
    /// The value when nothing is set.
    pub fn default(&self) -> Value {
        match self.kind {
            Kind::Float { default, .. } => Value::Float(default),
            Kind::Int { default, .. } => Value::Int(default),
            Kind::Bool { default } => Value::Bool(default),
        }
    }

    /// The value in the setting's own kind, if it is in range. Whole numbers and numbers without a
    /// fraction stand for each other.
    fn check(&self, value: Value) -> Result<Value, ModelError> {
        const WHOLE: f64 = (1u64 << 53) as f64;
        let value = match (self.kind, value) {
            (Kind::Float { .. }, Value::Int(x)) => Value::Float(x as f64),
            (Kind::Int { .. }, Value::Float(x)) if x.fract() == 0.0 && x.abs() < WHOLE => {
                Value::Int(x as i64)
            }
            _ => value,
        };
        let fits = match (self.kind, value) {
            (Kind::Float { min, max, .. }, Value::Float(x)) => (min..=max).contains(&x),
            (Kind::Int { min, max, .. }, Value::Int(x)) => (min..=max).contains(&x),
            (Kind::Bool { .. }, Value::Bool(_)) => true,
            _ => false,
        };
        if fits { Ok(value) } else { Err(self.refuse(&value.to_string())) }
    }

    fn refuse(&self, value: &str) -> ModelError {
        // Text from outside: keep the message one short line.
        let value = value.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
        ModelError::SamplerSetting { name: self.name.into(), value, expected: self.kind.to_string() }
    }
}

fn find(name: &str) -> Result<&'static Param, ModelError> {
    let params = || SAMPLERS.iter().flat_map(|s| s.params);
    params()
        .find(|p| p.name == name)
        .ok_or_else(|| unknown("sampler setting", name, params().map(|p| p.name)))
}

fn unknown<'a>(what: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> ModelError {
    let name = name.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
    ModelError::UnknownSampler { what, name, known: known.collect::<Vec<_>>().join(", ") }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float { min, max, .. } => write!(f, "a number from {min} to {max}"),
            Self::Int { min, max: i64::MAX, .. } => write!(f, "a whole number from {min} up"),
            Self::Int { min, max, .. } => write!(f, "a whole number from {min} to {max}"),
            Self::Bool { .. } => write!(f, "true or false"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(x) => write!(f, "{x}"),
            Self::Int(x) => write!(f, "{x}"),
            Self::Bool(x) => write!(f, "{x}"),
        }
    }
}

impl From<f64> for Value {
    fn from(x: f64) -> Self {
        Self::Float(x)
    }
}

impl From<i64> for Value {
    fn from(x: i64) -> Self {
        Self::Int(x)
    }
}

impl From<i32> for Value {
    fn from(x: i32) -> Self {
        Self::Int(x.into())
    }
}

impl From<bool> for Value {
    fn from(x: bool) -> Self {
        Self::Bool(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sound() {
        let mut names = Vec::new();
        for sampler in SAMPLERS {
            assert!(!sampler.doc.is_empty() && !sampler.doc.contains('\n'));
            names.push(sampler.name.to_owned() + " (sampler)");
            for param in sampler.params {
                assert_eq!(param.check(param.default()).unwrap(), param.default(), "{}", param.name);
                assert!(!param.doc.is_empty() && !param.doc.contains('\n'));
                assert!(!param.flags.is_empty(), "{}", param.name);
                names.push(param.name.to_owned());
                names.extend(param.flags.iter().map(|f| format!("--{f}")));
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "two samplers, settings or flags share a name");
    }

    #[test]
    fn the_defaults_are_those_people_know() {
        let settings = Settings::new();
        let default = |name: &str| settings.float(find(name).unwrap());
        assert_eq!(default("temperature"), 0.8);
        assert_eq!(default("top_k"), 40.0);
        assert_eq!(default("top_p"), 0.95);
        assert_eq!(default("min_p"), 0.05);
        assert_eq!(default("repeat_penalty"), 1.0);
        assert_eq!(default("repeat_last_n"), 64.0);
        assert_eq!(
            settings.order(),
            ["penalties", "frequency", "greedy", "top_k", "top_p", "min_p", "temperature"]
        );
    }

    #[test]
    fn every_setting_refuses_what_is_out_of_its_range() {
        for param in SAMPLERS.iter().flat_map(|s| s.params) {
            let mut settings = Settings::new();
            let outside: Vec<Value> = match param.kind {
                Kind::Float { min, max, .. } => vec![(min - 0.01).into(), (max * 1.01).into(), true.into()],
                Kind::Int { min, .. } => vec![(min - 1).into(), 1.5.into(), 1e300.into(), true.into()],
                Kind::Bool { .. } => vec![1.into(), 0.5.into()],
            };
            let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Value::from);
            for value in outside.into_iter().chain(numbers) {
                let error = settings.set(param.name, value).unwrap_err().to_string();
                assert!(error.contains(param.name) && error.contains(&param.kind.to_string()), "{error}");
                assert_eq!(settings.get(param), param.default());
            }
            for text in ["", "x", "NaN", "inf", "-inf", "1e999", "1 2", "0x10", "a\nb"] {
                let error = settings.set_text(param.name, text).unwrap_err().to_string();
                assert!(!error.contains('\n'), "{error}");
            }
        }
    }

    #[test]
    fn whole_numbers_and_numbers_stand_for_each_other() {
        let mut settings = Settings::new();
        settings.set("temperature", 1).unwrap();
        settings.set("top_k", 5.0).unwrap();
        settings.set_text("min_p", "1e-1").unwrap();
        settings.set_text("greedy", "true").unwrap();
        assert_eq!(settings.get(find("temperature").unwrap()), Value::Float(1.0));
        assert_eq!(settings.get(find("top_k").unwrap()), Value::Int(5));
        assert_eq!(settings.float(find("min_p").unwrap()), 0.1);
        assert!(settings.bool(find("greedy").unwrap()));
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let mut settings = Settings::new();
        let error = settings.set("topk", 3).unwrap_err().to_string();
        assert!(error.starts_with("no sampler setting is called `topk`; there are:"), "{error}");
        assert!(error.contains("top_k") && error.contains("temperature"));
        let error = settings.set_order(["top_k", "mirrorstat"]).unwrap_err().to_string();
        assert!(
            error.starts_with("no sampler is called `mirrorstat`") && error.contains("penalties"),
            "{error}"
        );
    }

    #[test]
    fn an_order_names_each_sampler_once_and_all_that_were_set() {
        let mut settings = Settings::new();
        assert!(settings.set_order(["top_k", "top_k"]).unwrap_err().to_string().contains("once"));
        settings.set_order(["temperature", "top_k"]).unwrap();
        assert_eq!(settings.samplers().unwrap().iter().map(|s| s.name).collect::<Vec<_>>(), settings.order());
        settings.set("min_p", 0.1).unwrap();
        let error = settings.samplers().err().unwrap().to_string();
        assert!(error.contains("min_p") && error.contains("order"), "{error}");
    }
}
