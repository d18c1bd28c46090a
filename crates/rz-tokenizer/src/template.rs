//! Chat templates: how a model wants a conversation to be written.

mod date;
mod environment;
mod guard;
mod json;
mod meter;

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;

use minijinja::machinery::{CompiledTemplate, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, ErrorKind, Value};
use rz_formats::{Metadata, ModelFolder};
use serde::{Deserialize, Serialize};

pub use self::date::LocalTime;
use self::environment::{Raised, environment};
use self::json::from_json;
use self::meter::{LimitReached, Meter, metered};
use crate::Tokenizer;
use crate::error::{Quoted, TokenizerError};

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// All that a template can be given.
#[derive(Clone, Debug, Default)]
pub struct TemplateInputs {
    /// The conversation: an array of objects with at least `role` and `content`.
    pub messages: serde_json::Value,
    /// Whether the text shall end where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// The tools that the model may call, or null.
    pub tools: serde_json::Value,
    /// Variables of this template, such as `enable_thinking`.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// The moment, in place of the one that the template was given.
    pub now: Option<LocalTime>,
}

/// A model's own template, which turns a conversation into the text it was trained on.
///
/// Templates are programs out of files. One that does not end, or that makes ever more
/// text, is stopped with an error.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    file: PathBuf,
    key: String,
    /// The text as the engine takes it.
    prepared: String,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
    now: Option<LocalTime>,
}

const KEY: &str = "tokenizer.chat_template";

impl ChatTemplate {
    /// The template of a file, if it has one.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn from_gguf(meta: &Metadata, tokenizer: &Tokenizer) -> Result<Option<Self>, TokenizerError> {
        Self::of_key(meta, tokenizer, KEY.to_owned())
    }

    /// A template that the file has under a name of its own, such as `tool_use`.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn named(meta: &Metadata, tokenizer: &Tokenizer, name: &str) -> Result<Option<Self>, TokenizerError> {
        Self::of_key(meta, tokenizer, format!("{KEY}.{name}"))
    }

    /// The names of the templates that have one.
    pub fn names(meta: &Metadata) -> impl Iterator<Item = &str> {
        meta.iter().filter_map(|(key, _)| key.strip_prefix(KEY)?.strip_prefix('.'))
    }

    /// The template of a model folder, if it has one.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn from_folder(folder: &ModelFolder, tokenizer: &Tokenizer) -> Result<Option<Self>, TokenizerError> {
        Self::from_folder_named(folder, tokenizer, "default")
    }

    /// A template that the folder has under a name of its own, such as `tool_use`; all
    /// names are those of [`ModelFolder::chat_templates`].
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn from_folder_named(
        folder: &ModelFolder,
        tokenizer: &Tokenizer,
        name: &str,
    ) -> Result<Option<Self>, TokenizerError> {
        let Some(source) = folder.chat_templates().get(name) else { return Ok(None) };
        let key = format!("chat template {}", Quoted(name));
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        Self::compile(folder.path().into(), key, source, text(tokenizer.bos()), text(tokenizer.eos()))
            .map(Some)
    }

    /// A template from elsewhere. `name` stands for the file in messages.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn new(
        name: &str,
        source: &str,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        Self::compile(name.into(), "chat template".to_owned(), source, bos, eos)
    }

    /// Lets the template know the moment when it is used. Some show the date, and a few
    /// of them cannot do without.
    pub fn at(self, now: LocalTime) -> Self {
        ChatTemplate { now: Some(now), ..self }
    }

    /// The template as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the
    /// assistant begins to speak.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or had to be stopped.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let message =
            |message: &Message| serde_json::json!({ "role": message.role, "content": message.content });
        self.render_with(&TemplateInputs {
            messages: messages.iter().map(message).collect(),
            add_generation_prompt,
            ..TemplateInputs::default()
        })
    }

    /// The text of a conversation, with all that a template can be given.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or had to be stopped.
    pub fn render_with(&self, inputs: &TemplateInputs) -> Result<String, TokenizerError> {
        self.on_its_own_stack(|| {
            let config = config()?;
            let compiled = CompiledTemplate::new("chat", &self.prepared, &config)?;
            let (instructions, blocks) = metered(&compiled);
            let (work, steps) = budget(inputs);
            let meter = Meter::new(work);
            let env = environment(&meter, steps, inputs.now.or(self.now));
            let mut text = String::new();
            let mut output = make_string_output(&mut text);
            eval(&env, &instructions, self.variables(inputs), &blocks, &mut output, AutoEscape::None)?;
            Ok(text)
        })
    }

    fn of_key(meta: &Metadata, tokenizer: &Tokenizer, key: String) -> Result<Option<Self>, TokenizerError> {
        let Some(source) = meta.str(&key)? else { return Ok(None) };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        Self::compile(meta.file().into(), key, source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    fn compile(
        file: PathBuf,
        key: String,
        source: &str,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let prepared = guard::prepare(source).map_err(|(line, message)| TokenizerError::TemplateSyntax {
            file: file.clone(),
            key: key.clone(),
            line,
            message,
        })?;
        let template = ChatTemplate {
            file,
            key,
            prepared,
            source: source.to_owned(),
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            now: None,
        };
        template
            .on_its_own_stack(|| CompiledTemplate::new("chat", &template.prepared, &config()?).map(drop))?;
        Ok(template)
    }

    /// The variables of a template, as the `transformers` package passes them.
    fn variables(&self, inputs: &TemplateInputs) -> Value {
        let mut variables = vec![
            ("messages", from_json(&inputs.messages)),
            ("tools", from_json(&inputs.tools)),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(inputs.add_generation_prompt)),
        ];
        variables.extend(self.bos.as_deref().map(|text| ("bos_token", Value::from(text))));
        variables.extend(self.eos.as_deref().map(|text| ("eos_token", Value::from(text))));
        variables.extend(inputs.extra.iter().map(|(key, value)| (key.as_str(), from_json(value))));
        Value::from_pairs(variables)
    }

    /// Runs the engine where its recursion has room.
    fn on_its_own_stack<T: Send>(
        &self,
        run: impl FnOnce() -> Result<T, minijinja::Error> + Send,
    ) -> Result<T, TokenizerError> {
        let limit = |limit: &str| TokenizerError::TemplateLimit {
            file: self.file.clone(),
            key: self.key.clone(),
            limit: limit.to_owned(),
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(guard::STACK);
            // Errors hold what they were about and may nest as deep as the template did.
            let thread = thread.spawn_scoped(scope, || run().map_err(|error| self.error(&error)));
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(limit("what the template engine can do")),
                Err(_) => Err(limit("the threads that the system allows")),
            }
        })
    }

    fn error(&self, error: &minijinja::Error) -> TokenizerError {
        let (file, key) = (self.file.clone(), self.key.clone());
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return TokenizerError::TemplateRefused { file, key, message: one_line(message) };
            }
            if let Some(LimitReached(limit)) = cause.downcast_ref() {
                return TokenizerError::TemplateLimit { file, key, limit: limit.clone() };
            }
            source = cause.source();
        }
        let line = error.line().unwrap_or(1);
        let message = match error.detail() {
            Some(detail) => one_line(&format!("{}: {detail}", error.kind())),
            None => error.kind().to_string(),
        };
        match error.kind() {
            ErrorKind::SyntaxError => TokenizerError::TemplateSyntax { file, key, line, message },
            ErrorKind::OutOfFuel => TokenizerError::TemplateLimit {
                file,
                key,
                limit: "the steps that a template may take".to_owned(),
            },
            _ => TokenizerError::TemplateRun { file, key, line, message },
        }
    }
}

/// Bytes that a template may make or look through, and steps that it may take. Real
/// templates look through the conversation several times, and some again for each message.
fn budget(inputs: &TemplateInputs) -> (u64, u64) {
    let bytes = json_bytes(&inputs.messages)
        + json_bytes(&inputs.tools)
        + inputs.extra.values().map(json_bytes).sum::<u64>();
    let messages = inputs.messages.as_array().map_or(0, Vec::len) as u64;
    let per_byte = 64u64.saturating_add(messages.saturating_mul(4));
    let per_message = 10_000u64.saturating_add(messages.saturating_mul(20));
    let work = (64u64 << 20).saturating_add(bytes.saturating_mul(per_byte));
    (work, 2_000_000u64.saturating_add(messages.saturating_mul(per_message)))
}

/// The syntax as the `transformers` package sets it.
fn config() -> Result<TemplateConfig, minijinja::Error> {
    let syntax_config = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    Ok(TemplateConfig { syntax_config, default_auto_escape: Arc::new(|_| AutoEscape::None) })
}

/// Bytes of the texts of a JSON value, with something for each value.
fn json_bytes(json: &serde_json::Value) -> u64 {
    const EACH: u64 = 32;
    match json {
        serde_json::Value::String(text) => EACH + text.len() as u64,
        serde_json::Value::Array(items) => EACH + items.iter().map(json_bytes).sum::<u64>(),
        serde_json::Value::Object(map) => {
            EACH + map.iter().map(|(key, value)| EACH + key.len() as u64 + json_bytes(value)).sum::<u64>()
        }
        _ => EACH,
    }
}

/// A message of a template, without what would break a line, cut when it is long.
pub(crate) fn one_line(message: &str) -> String {
    const SHOWN: usize = 300;
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut line: String = message.chars().take(SHOWN).map(clean).collect();
    if message.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
