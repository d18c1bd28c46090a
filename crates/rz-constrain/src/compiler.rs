//! From descriptions to constraints, in bounded time and memory.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use rz_engine::Constraint;
use rz_tokenizer::Tokenizer;
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv};

use crate::after::After;
use crate::matcher::Held;
use crate::{ConstrainError, ConstraintSpec, gbnf, vocabulary};

/// Constraints that are compiled at a time.
const AT_A_TIME: usize = 2;
/// How long one may take, waiting for others included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for what the library does by recursion, at most as deep as the limits on descriptions let it. Only
/// what is touched becomes memory.
const STACK: usize = 256 << 20;
/// Constraints that are kept for those who ask for the same again.
const KEPT: usize = 8;
/// States of the automaton that finds words. Each takes a kilobyte or two.
const STATES: usize = 50_000;
/// White space between the parts of JSON: none, a space, or a line end with its indentation. Without bounds, a model
/// that knows no better writes spaces until it is stopped.
const JSON_SPACE: &str = r" |\n( {0,16}|\t{0,8})";

/// Makes constraints for one model.
///
/// The tree of its tokens is made when it is first needed; that takes about a second for large vocabularies.
pub struct Compiler {
    tokenizer: Arc<Tokenizer>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    factory: OnceLock<Result<ParserFactory, ConstrainError>>,
    /// Constraints that are being compiled.
    busy: Mutex<usize>,
    less_busy: Condvar,
    /// Those that were compiled last, as they were then, the newest first.
    kept: Mutex<VecDeque<(ConstraintSpec, Matcher)>>,
}

impl Compiler {
    /// A compiler for texts in these tokens.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, shared: Arc::default() }
    }

    /// The constraint that holds a text to what is described. It works on a thread of its own, for which the caller
    /// waits.
    ///
    /// # Errors
    /// When the description cannot be understood, asks for what is not supported, or is too large, too complex or too
    /// slow to compile, or the tokens of the model do not allow it.
    pub fn compile(&self, spec: &ConstraintSpec) -> Result<Box<dyn Constraint>, ConstrainError> {
        Ok(Box::new(Held(self.matcher(spec)?)))
    }

    /// The same for what follows a marker, such as `</think>`. Everything may come before it.
    ///
    /// # Errors
    /// As for [`compile`](Self::compile); and when the marker is empty.
    pub fn compile_after(
        &self,
        marker: &str,
        spec: &ConstraintSpec,
    ) -> Result<Box<dyn Constraint>, ConstrainError> {
        let inner = self.compile(spec)?;
        if marker.is_empty() {
            let message = "the marker before it is empty".to_owned();
            return Err(ConstrainError::Invalid { what: spec.name(), message });
        }
        Ok(Box::new(After::new(self.tokenizer.clone(), marker, inner)))
    }

    fn matcher(&self, spec: &ConstraintSpec) -> Result<Matcher, ConstrainError> {
        spec.check()?;
        if let Some(kept) = self.shared.kept(spec) {
            return Ok(kept);
        }
        let what = spec.name();
        let place = self.shared.place(Instant::now() + PATIENCE)?;
        let (shared, tokenizer, spec) = (self.shared.clone(), self.tokenizer.clone(), spec.clone());
        let (done, result) = sync_channel(1);
        let work = move || {
            // Given back when the work is over, not when nobody waits for it any more.
            let _place = place;
            let factory = shared.factory.get_or_init(|| guarded(what, || factory(&tokenizer)));
            let matcher = match factory {
                Ok(factory) => guarded(what, || compile(factory, &spec)),
                Err(error) => Err(error.clone()),
            };
            if let Ok(matcher) = &matcher {
                shared.keep(spec, matcher);
            }
            // Whoever asked may have gone.
            let _ = done.send(matcher);
        };
        let thread = std::thread::Builder::new().name("rz-constrain".into()).stack_size(STACK);
        thread.spawn(work).map_err(|error| ConstrainError::Thread(error.to_string()))?;
        match result.recv_timeout(PATIENCE) {
            Ok(matcher) => matcher,
            Err(RecvTimeoutError::Timeout) => {
                Err(ConstrainError::TooSlow { what, seconds: PATIENCE.as_secs() })
            }
            Err(RecvTimeoutError::Disconnected) => Err(failed(what)),
        }
    }
}

/// The right to compile.
struct Place(Arc<Shared>);

impl Shared {
    /// One that was made before. What it finds out on its way stays with it.
    fn kept(&self, spec: &ConstraintSpec) -> Option<Matcher> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| known == spec).map(|(_, matcher)| matcher.deep_clone())
    }

    fn keep(&self, spec: ConstraintSpec, matcher: &Matcher) {
        let matcher = matcher.deep_clone();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((spec, matcher));
        kept.truncate(KEPT);
    }

    fn place(self: &Arc<Self>, until: Instant) -> Result<Place, ConstrainError> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while *busy >= AT_A_TIME {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ConstrainError::Busy);
            }
            busy = self.less_busy.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *busy += 1;
        Ok(Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.busy.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.less_busy.notify_one();
    }
}

/// What all constraints of a model share.
fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, ConstrainError> {
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(vocabulary::trie(tokenizer)?));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
    let mut factory = factory.map_err(|error| ConstrainError::Tokenizer(one_line(&error.to_string())))?;
    factory.quiet();
    *factory.limits_mut() =
        ParserLimits { max_lexer_states: STATES, verbose_errors: false, ..ParserLimits::default() };
    Ok(factory)
}

fn compile(factory: &ParserFactory, spec: &ConstraintSpec) -> Result<Matcher, ConstrainError> {
    let what = spec.name();
    let invalid = |message: String| ConstrainError::Invalid { what, message };
    let grammar = match spec {
        ConstraintSpec::JsonObject => schema_grammar(json!({ "type": "object" })),
        ConstraintSpec::JsonSchema(Value::Bool(false)) => {
            return Err(invalid("the schema 'false' describes nothing".to_owned()));
        }
        ConstraintSpec::JsonSchema(schema) => schema_grammar(schema.clone()),
        ConstraintSpec::Regex(text) => TopLevelGrammar::from_regex(without_anchors(text)),
        ConstraintSpec::Choice(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
            TopLevelGrammar::from_regex(&choices.join("|"))
        }
        ConstraintSpec::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        ConstraintSpec::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text).map_err(invalid)?),
    };
    let parser = factory.create_parser(grammar).map_err(|error| invalid(one_line(&format!("{error:#}"))))?;
    let mut matcher = Matcher::new(Ok(parser));
    // What is too complex shows here, before anything was generated.
    matcher.compute_mask_or_eos().map_err(|error| invalid(one_line(&error.to_string())))?;
    Ok(matcher)
}

fn schema_grammar(schema: Value) -> TopLevelGrammar {
    let mut schema = if schema.is_object() { schema } else { json!({}) };
    let options = JsonCompileOptions {
        whitespace_pattern: Some(JSON_SPACE.to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    TopLevelGrammar::from_json_schema(schema)
}

/// The expression without what says that it begins and ends with the text: it does so in any case.
fn without_anchors(text: &str) -> &str {
    let text = text.strip_prefix('^').unwrap_or(text);
    let Some(rest) = text.strip_suffix('$') else { return text };
    let escapes = rest.len() - rest.trim_end_matches('\\').len();
    if escapes % 2 == 0 { rest } else { text }
}

/// The expression that matches just this text.
fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Calls what may panic on what it does not expect.
fn guarded<T>(
    what: &'static str,
    call: impl FnOnce() -> Result<T, ConstrainError>,
) -> Result<T, ConstrainError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(failed(what)))
}

fn failed(what: &'static str) -> ConstrainError {
    let message = "the compiler of constraints failed on it: make it simpler".to_owned();
    ConstrainError::Invalid { what, message }
}

/// What matters of a message, on one line, cut where it is long.
pub(crate) fn one_line(message: &str) -> String {
    const LONGEST: usize = 200;
    let message = message.trim_start();
    if message.starts_with("panic") {
        return "the compiler of constraints failed on it: make it simpler".to_owned();
    }
    if message.starts_with("NoExtension") {
        return "no text in the model's tokens is what it describes".to_owned();
    }
    let mut lines = message.lines();
    // Of what shows an expression with a mark below it, the explanation stands last.
    let explained = lines.clone().find_map(|line| line.strip_prefix("error: "));
    let line = explained.or_else(|| lines.next()).unwrap_or_default().trim_end();
    let line = &line.replace("Unimplemented keys:", "it has keywords that are not supported:");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_around_an_expression_say_nothing() {
        for (text, without) in
            [("^a$", "a"), ("a", "a"), (r"^a\$", r"a\$"), (r"a\\$", r"a\\"), ("^", ""), ("a^$b", "a^$b")]
        {
            assert_eq!(without_anchors(text), without);
        }
    }

    #[test]
    fn messages_are_one_line() {
        assert_eq!(one_line("bad\nin line 2"), "bad");
        assert_eq!(
            one_line("at 1(8): regex parse error:\n    (\n    ^\nerror: unclosed group"),
            "unclosed group"
        );
        assert_eq!(one_line(&"é".repeat(400)).chars().count(), 201);
        assert!(one_line("panic: index out of bounds\n<backtrace>").starts_with("the compiler"));
    }
}
