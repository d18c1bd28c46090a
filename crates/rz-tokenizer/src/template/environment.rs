//! What templates may call: Jinja as the `transformers` package sets it up.

use std::fmt;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters};
use minijinja_contrib::pycompat;

use super::LocalTime;
use super::json::{Style, to_json};
use super::meter::{CHARGE, MULTIPLY, Meter, SETTABLE, limit};

/// The widest that numbers in format strings and indents may ask for.
const MAX_WIDTH: usize = 999;

/// The source of an error that a template raised on purpose.
#[derive(Debug)]
pub(crate) struct Raised(pub(crate) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// What a template finds. With `now` it can ask for the date. It may take `steps` steps.
pub(crate) fn environment(meter: &Meter, steps: u64, now: Option<LocalTime>) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_debug(false);
    env.set_fuel(Some(steps));
    // Jinja has no such filters and functions.
    ["chain", "zip", "split", "lines", "bool"].iter().for_each(|name| env.remove_filter(name));
    env.remove_global("debug");

    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    if let Some(now) = now {
        env.add_function("strftime_now", move |format: &str| now.format(format));
    }
    env.add_filter("tojson", tojson);
    // In Python, nothing is not iterable, while what is undefined is.
    env.add_test("iterable", |value: &Value| {
        value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
    });
    payments(&mut env, meter);
    env
}

/// Lets every value be paid for.
fn payments(env: &mut Environment<'static>, meter: &Meter) {
    let meter_of = || meter.clone();
    let meter = meter_of();
    env.add_filter(CHARGE, move |value: Value| meter.charge(&value).map(|()| value));
    let meter = meter_of();
    env.add_filter(SETTABLE, move |value: Value| meter.settable(&value).map(|()| value));
    let meter = meter_of();
    env.add_filter(MULTIPLY, move |a: Value, b: Value| meter.multiply(&a, &b));
    let meter = meter_of();
    env.set_formatter(move |out, state, value| {
        meter.charge(value)?;
        minijinja::escape_formatter(out, state, value)
    });

    // Those that can make much out of little are checked before they run.
    for (name, inner) in [
        ("replace", Value::from_function(filters::replace)),
        ("join", Value::from_function(filters::join)),
        ("indent", Value::from_function(filters::indent)),
        ("format", Value::from_function(filters::format)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
    ] {
        let meter = meter_of();
        env.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            if let [value, rest @ ..] = arguments.as_slice() {
                check(&meter, name, value, rest)?;
            }
            inner.call(state, &arguments)
        });
    }
    let meter = meter_of();
    env.set_unknown_method_callback(move |state, value, method, arguments| {
        // A separator joins what is given to it.
        match (method, arguments) {
            ("join", [items]) => check(&meter, "join", items, std::slice::from_ref(value))?,
            _ => check(&meter, method, value, arguments)?,
        }
        pycompat::unknown_method_callback(state, value, method, arguments)
    });
}

/// Checks a call of a filter or method that can make much out of little, and pays for it.
fn check(meter: &Meter, name: &str, value: &Value, arguments: &[Value]) -> Result<(), Error> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    match name {
        "replace" => {
            let (from, to) = (text(arguments.first()), text(arguments.get(1)));
            let places = match value.as_str() {
                Some(value) if from.is_empty() => value.len() + 1,
                Some(value) => value.matches(from.as_str()).count(),
                None => 0,
            };
            meter.spend((places as u64).saturating_mul(to.len() as u64))
        }
        "join" => {
            let separators = arguments.iter().map(deep_length).sum::<u64>();
            meter.spend((value.len().unwrap_or(0) as u64).saturating_mul(separators))
        }
        "indent" => {
            let width = numbers(arguments).max().unwrap_or(4);
            let text = text(arguments.first()).len() as u64;
            let lines = value.as_str().map_or(0, |value| value.matches('\n').count() + 1) as u64;
            meter.spend(lines.saturating_mul(width.saturating_add(text)))
        }
        // A width is checked where it is written; one given as an argument is not.
        "format" => match value.as_str() {
            Some(format) if wide(format) => Err(limit(format!("a width of {MAX_WIDTH}"))),
            _ => Ok(()),
        },
        "batch" | "slice" => meter.spend(numbers(arguments).max().unwrap_or(0).saturating_mul(32)),
        _ => Ok(()),
    }
}

/// Bytes of a text, also of one given by name.
fn deep_length(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => text.len() as u64,
        None => named(value).filter_map(|value| value.as_str().map(|text| text.len() as u64)).sum(),
    }
}

/// The numbers among arguments, also those given by name.
fn numbers(arguments: &[Value]) -> impl Iterator<Item = u64> {
    let all = arguments.iter().flat_map(|value| std::iter::once(value.clone()).chain(named(value)));
    all.filter_map(|value| i128::try_from(value).ok().map(|number| u64::try_from(number).unwrap_or(0)))
}

/// The values of arguments given by name.
fn named(value: &Value) -> impl Iterator<Item = Value> + use<> {
    let pairs = (value.kind() == ValueKind::Map).then(|| value.as_object()?.try_iter_pairs()).flatten();
    pairs.into_iter().flatten().map(|(_, value)| value).collect::<Vec<_>>().into_iter()
}

/// Whether a format string asks for a large width, or for one that is given elsewhere.
fn wide(format: &str) -> bool {
    let mut width = 0usize;
    let mut in_braces = 0usize;
    for byte in format.bytes() {
        match byte {
            b'0'..=b'9' => width = width.saturating_mul(10).saturating_add(usize::from(byte - b'0')),
            _ => width = 0,
        }
        match byte {
            b'{' => in_braces += 1,
            b'}' => in_braces = in_braces.saturating_sub(1),
            _ => {}
        }
        // Doubled braces stand for themselves, and hold no number.
        let nested = in_braces > 1 && byte != b'{';
        if width > MAX_WIDTH || byte == b'*' || (nested && byte.is_ascii_digit()) {
            return true;
        }
    }
    false
}

/// `json.dumps`, without the escapes for HTML that Jinja itself adds.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let indent = match indent {
        Some(indent) if indent.as_str().is_some() => indent.as_str().map(str::to_owned),
        Some(indent) if !indent.is_none() => {
            let width = i64::try_from(indent)?;
            if width > 100 {
                return Err(limit("an indent of 100"));
            }
            Some(" ".repeat(usize::try_from(width).unwrap_or(0)))
        }
        _ => None,
    };
    let separators = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            let message = "tojson takes two separators";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style =
        Style { ascii: ascii.unwrap_or(false), indent, separators, sort_keys: sort_keys.unwrap_or(false) };
    to_json(value, &style).map(Value::from)
}
