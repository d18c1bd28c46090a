//! What an answer must be, from flags.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rz_constrain::{Compiler, ConstraintSpec};
use rz_engine::Constraint;
use rz_tokenizer::Tokenizer;
use serde_json::Value;

use crate::failure::Failure;
use crate::prompt;

/// What an answer must be. At most one is given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Constraint options")]
#[group(multiple = false)]
pub(crate) struct Constrain {
    /// Answer with JSON that a schema describes: a file with it, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
    /// Answer with text that a regular expression matches as a whole
    #[arg(long, value_name = "RE", allow_hyphen_values = true)]
    regex: Option<String>,
    /// Answer with this text, or with one of several when it is given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    choice: Vec<String>,
    /// Answer with text that a grammar describes, in Lark's notation; in llama.cpp's in a file *.gbnf
    #[arg(long, value_name = "FILE")]
    grammar_file: Option<PathBuf>,
}

/// The text before which a model thinks.
const THOUGHTS: (&str, &str) = ("<think>", "</think>");

impl Constrain {
    /// What the flags ask for, if they do.
    pub(crate) fn spec(&self) -> Result<Option<ConstraintSpec>, Failure> {
        let spec = if let Some(schema) = &self.json_schema {
            Some(ConstraintSpec::JsonSchema(read_schema(schema)?))
        } else if let Some(regex) = &self.regex {
            Some(ConstraintSpec::Regex(regex.clone()))
        } else if !self.choice.is_empty() {
            Some(ConstraintSpec::Choice(self.choice.clone()))
        } else if let Some(path) = &self.grammar_file {
            let text = prompt::read_file(path)?;
            let gbnf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gbnf"));
            Some(if gbnf { ConstraintSpec::Gbnf(text) } else { ConstraintSpec::Lark(text) })
        } else {
            None
        };
        if let Some(spec) = &spec {
            spec.check().map_err(|error| Failure::input(error.to_string()))?;
        }
        Ok(spec)
    }
}

/// The constraint for the answer to a prompt. Where the prompt has begun the model's thoughts, it holds after them.
pub(crate) fn compile(
    spec: &ConstraintSpec,
    tokenizer: &Arc<Tokenizer>,
    prompt: &str,
) -> Result<Box<dyn Constraint>, Failure> {
    let compiler = Compiler::new(tokenizer.clone());
    let (open, close) = THOUGHTS;
    let constraint = if prompt.trim_end().ends_with(open) {
        compiler.compile_after(close, spec)
    } else {
        compiler.compile(spec)
    };
    constraint.map_err(|error| Failure::input(error.to_string()))
}

/// The schema, or that in a file.
fn read_schema(given: &str) -> Result<Value, Failure> {
    let inline = given.trim_start().starts_with('{');
    let read = if inline { String::new() } else { prompt::read_file(given.as_ref())? };
    let (text, name) =
        if inline { (given, "--json-schema".to_owned()) } else { (&read[..], format!("'{given}'")) };
    serde_json::from_str(text).map_err(|error| Failure::input(format!("{name} is not JSON: {error}")))
}
