//! Which pipelines of `tokenizer.json` run on the tokenizers of this crate, and how.

use serde_json::{Map, Value};

use super::read::TokenizerJson;
use crate::pretokenizer::{GPT2, NUMERIC, Pretokenizer, find_patterns};
use crate::spm::SPACE;

/// How a pipeline runs.
pub(super) struct Plan {
    pub(super) normalizer: Normalizer,
    pub(super) core: Core,
}

/// What is done to a text between added tokens.
#[derive(Clone, Copy, Default)]
pub(super) struct Normalizer {
    /// Composes characters (NFC).
    pub(super) compose: bool,
    /// Puts a `▁` before the text.
    pub(super) prepend: bool,
    /// Writes `▁` for each space.
    pub(super) escape: bool,
}

/// How normalized text is cut into words, and what they are made of.
pub(super) enum Core {
    /// Bytes.
    Bytes(&'static Pretokenizer),
    /// Characters, with `▁` for spaces.
    Chars {
        /// Writes `▁` for spaces and puts one before the text.
        metaspace: Option<Metaspace>,
        /// Whether a space at the start of a text is taken away when tokens become text.
        strips: bool,
    },
}

/// How a `▁` gets to the start of a text, and whether each starts a word.
#[derive(Clone, Copy)]
pub(super) struct Metaspace {
    pub(super) prepend: Prepend,
    pub(super) split: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepend {
    Never,
    /// Only where the whole text starts.
    First,
    /// Also after each added token.
    Always,
}

/// What cannot be mapped: the part of the file, and what stands there.
pub(super) struct Unmapped {
    pub(super) part: &'static str,
    pub(super) found: String,
}

impl Plan {
    /// How the pipeline of a file runs here, if it does so exactly.
    pub(super) fn of(file: &TokenizerJson) -> Result<Plan, Unmapped> {
        model(&file.model.settings)?;
        let normalizer = Normalizer::of(&file.normalizer)?;
        let core = match kinds(&file.decoder, "decoders").as_slice() {
            ["ByteLevel"] => Core::Bytes(bytes(file, normalizer)?),
            ["Replace", "ByteFallback", "Fuse", rest @ ..] => chars(file, normalizer, rest)?,
            _ => return Err(unmapped("decoder", &file.decoder)),
        };
        Ok(Plan { normalizer, core })
    }
}

impl Normalizer {
    fn of(value: &Value) -> Result<Self, Unmapped> {
        let mut normalizer = Normalizer::default();
        for step in steps(value, "normalizers") {
            match kind(step) {
                "NFC" => normalizer.compose = true,
                // Two of them would put two.
                "Prepend" if step["prepend"] == SPACE && !normalizer.prepend => normalizer.prepend = true,
                "Replace" if replaces(step, " ", SPACE) => normalizer.escape = true,
                _ => return Err(unmapped("normalizer", step)),
            }
        }
        Ok(normalizer)
    }
}

/// The settings of the model that have to be as they usually are.
fn model(settings: &Map<String, Value>) -> Result<(), Unmapped> {
    let kind = settings.get("type").unwrap_or(&Value::Null);
    // Old files do not say.
    if !kind.is_null() && kind != "BPE" {
        return Err(unmapped("model", kind));
    }
    for (part, key) in [
        ("model.continuing_subword_prefix", "continuing_subword_prefix"),
        ("model.end_of_word_suffix", "end_of_word_suffix"),
    ] {
        let value = settings.get(key).unwrap_or(&Value::Null);
        if !value.is_null() && value != "" {
            return Err(unmapped(part, value));
        }
    }
    Ok(())
}

/// What cuts the text of a byte-level pipeline into words.
fn bytes(file: &TokenizerJson, normalizer: Normalizer) -> Result<&'static Pretokenizer, Unmapped> {
    if normalizer.prepend || normalizer.escape {
        return Err(unmapped("normalizer", &file.normalizer));
    }
    let mut patterns = Vec::new();
    let steps = steps(&file.pre_tokenizer, "pretokenizers");
    let Some((last, before)) = steps.split_last() else {
        return Err(unmapped("pre_tokenizer", &file.pre_tokenizer));
    };
    for step in before {
        match (kind(step), step["pattern"]["Regex"].as_str()) {
            ("Split", Some(pattern)) if step["behavior"] == "Isolated" && step["invert"] == false => {
                // Some files have the characters themselves in place of their escapes.
                patterns.push(pattern.replace('\r', r"\r").replace('\n', r"\n"));
            }
            ("Digits", _) if step["individual_digits"] == true => patterns.push(NUMERIC.to_owned()),
            _ => return Err(unmapped("pre_tokenizer", step)),
        }
    }
    if kind(last) != "ByteLevel" || last["add_prefix_space"] != false {
        return Err(unmapped("pre_tokenizer", last));
    }
    if last.get("use_regex").is_none_or(|value| value == true) {
        patterns.push(GPT2.to_owned());
    }
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    find_patterns(&patterns).ok_or_else(|| unmapped("pre_tokenizer", &file.pre_tokenizer))
}

/// The words of a pipeline over characters.
fn chars(file: &TokenizerJson, normalizer: Normalizer, rest: &[&str]) -> Result<Core, Unmapped> {
    let decoders = steps(&file.decoder, "decoders");
    let strips = match rest {
        [] => false,
        ["Strip"] => true,
        _ => return Err(unmapped("decoder", &file.decoder)),
    };
    let strip = decoders.last().filter(|_| strips);
    if !replaces(decoders[0], SPACE, " ")
        || strip.is_some_and(|strip| strip["content"] != " " || strip["start"] != 1 || strip["stop"] != 0)
    {
        return Err(unmapped("decoder", &file.decoder));
    }
    let refused = || unmapped("pre_tokenizer", &file.pre_tokenizer);
    let metaspace = match steps(&file.pre_tokenizer, "pretokenizers").as_slice() {
        // Spaces have become something else before they could be found.
        [split]
            if kind(split) == "Split"
                && split["pattern"]["String"] == " "
                && split["invert"] == false
                && normalizer.escape =>
        {
            None
        }
        [] if normalizer.escape => None,
        [metaspace] if kind(metaspace) == "Metaspace" => {
            let legacy = metaspace.get("add_prefix_space").and_then(Value::as_bool);
            let prepend = match (metaspace.get("prepend_scheme").and_then(Value::as_str), legacy) {
                (Some("never"), _) => Prepend::Never,
                (Some("first"), None | Some(true)) => Prepend::First,
                (Some("always") | None, None | Some(true)) => Prepend::Always,
                _ => return Err(refused()),
            };
            // Where a text starts would be less than clear.
            if metaspace["replacement"] != SPACE || normalizer.prepend {
                return Err(refused());
            }
            let split = metaspace.get("split").is_none_or(|split| split != false);
            Some(Metaspace { prepend, split })
        }
        _ => return Err(refused()),
    };
    Ok(Core::Chars { metaspace, strips })
}

/// The steps of a part: those of a sequence, or the only one, or none.
pub(super) fn steps<'v>(value: &'v Value, list: &str) -> Vec<&'v Value> {
    match (value, kind(value)) {
        (Value::Null, _) => Vec::new(),
        (_, "Sequence") => {
            let inner = value[list].as_array().map(Vec::as_slice).unwrap_or_default();
            inner.iter().flat_map(|value| steps(value, list)).collect()
        }
        _ => vec![value],
    }
}

pub(super) fn kind(value: &Value) -> &str {
    value["type"].as_str().unwrap_or_default()
}

fn kinds<'v>(value: &'v Value, list: &str) -> Vec<&'v str> {
    steps(value, list).into_iter().map(kind).collect()
}

fn replaces(step: &Value, from: &str, to: &str) -> bool {
    step["pattern"]["String"] == from && step["content"] == to
}

pub(super) fn unmapped(part: &'static str, found: &Value) -> Unmapped {
    Unmapped { part, found: found.to_string() }
}
