//! Bounds on what a template may compute.
//!
//! The engine counts steps, but one step can double a text, compare two large lists or
//! print one that holds itself. So before a template runs, its instructions are
//! rewritten: each value that an instruction makes, or looks through, is paid for by
//! its size, with all that it holds, out of one budget.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, Span};
use minijinja::value::{ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Filters that the rewritten instructions call. Their names are no words, and a template
/// that finds a way to call them only pays.
pub(crate) const CHARGE: &str = "<charge>";
pub(crate) const SETTABLE: &str = "<settable>";
pub(crate) const MULTIPLY: &str = "<multiply>";

/// What a value costs beside the bytes of its texts.
const VALUE: u64 = 32;
/// How deep values may hold values.
const MAX_DEPTH: usize = 64;

/// The budget of one run.
#[derive(Clone)]
pub(crate) struct Meter(Arc<AtomicU64>);

/// The source of an error that says that a limit was reached.
#[derive(Debug)]
pub(crate) struct LimitReached(pub(crate) String);

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LimitReached {}

/// The error of a limit.
pub(crate) fn limit(what: impl Into<String>) -> Error {
    let what = what.into();
    Error::new(ErrorKind::InvalidOperation, what.clone()).with_source(LimitReached(what))
}

impl Meter {
    /// A budget of `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        Meter(Arc::new(AtomicU64::new(bytes)))
    }

    /// Pays for `bytes`.
    pub(crate) fn spend(&self, bytes: u64) -> Result<(), Error> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(bytes), Ordering::Relaxed);
        if bytes > left { Err(limit("the work that a template may do")) } else { Ok(()) }
    }

    /// Pays for a value and for all that it holds.
    pub(crate) fn charge(&self, value: &Value) -> Result<(), Error> {
        self.walk(value, 0)
    }

    fn walk(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(limit(format!("{MAX_DEPTH} values inside each other")));
        }
        match value.kind() {
            ValueKind::String => self.spend(VALUE + value.as_str().map_or(0, str::len) as u64),
            ValueKind::Bytes => self.spend(VALUE + value.as_bytes().map_or(0, <[u8]>::len) as u64),
            ValueKind::Seq | ValueKind::Iterable => {
                self.spend(VALUE)?;
                value.try_iter()?.try_for_each(|item| self.walk(&item, depth + 1))
            }
            ValueKind::Map => {
                self.spend(VALUE)?;
                let Some(object) = value.as_object() else { return Ok(()) };
                // A namespace can change. Inside another value it could come to hold that.
                if depth > 0 && object.type_name().ends_with("::Namespace") {
                    let message = "a namespace cannot be part of another value";
                    return Err(Error::new(ErrorKind::InvalidOperation, message));
                }
                if object.repr() != ObjectRepr::Map {
                    return Ok(());
                }
                object.try_iter_pairs().into_iter().flatten().try_for_each(|(key, item)| {
                    self.walk(&key, depth + 1)?;
                    self.walk(&item, depth + 1)
                })
            }
            _ => self.spend(VALUE),
        }
    }

    /// Pays for a value that is set in a namespace.
    pub(crate) fn settable(&self, value: &Value) -> Result<(), Error> {
        self.walk(value, 1)
    }

    /// The product of two numbers, or a text or a list repeated.
    pub(crate) fn multiply(&self, a: &Value, b: &Value) -> Result<Value, Error> {
        let wrong = || {
            let message =
                format!("tried to use * operator on unsupported types {} and {}", a.kind(), b.kind());
            Error::new(ErrorKind::InvalidOperation, message)
        };
        let list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
        let (what, times) = match (a.kind(), b.kind()) {
            (ValueKind::String, _) => (a, b),
            (_, ValueKind::String) => (b, a),
            _ if list(a) => (a, b),
            _ if list(b) => (b, a),
            _ => {
                if let (Ok(a), Ok(b)) = (i128::try_from(a.clone()), i128::try_from(b.clone())) {
                    let product = a.checked_mul(b).ok_or_else(wrong)?;
                    return Ok(i64::try_from(product).map_or_else(|_| Value::from(product), Value::from));
                }
                let (Ok(a), Ok(b)) = (f64::try_from(a.clone()), f64::try_from(b.clone())) else {
                    return Err(wrong());
                };
                return Ok(Value::from(a * b));
            }
        };
        let times = i64::try_from(times.clone()).map_err(|_| wrong())?;
        let times = usize::try_from(times).unwrap_or(0);
        if let Some(text) = what.as_str() {
            self.spend((text.len() as u64).saturating_mul(times as u64))?;
            return Ok(Value::from(text.repeat(times)));
        }
        let items: Vec<Value> = what.try_iter()?.collect();
        self.spend((items.len() as u64).saturating_mul(times as u64).saturating_mul(VALUE))?;
        Ok(std::iter::repeat_n(items, times).flatten().collect())
    }
}

/// The instructions of a template and of its blocks, with payments.
pub(crate) fn metered<'s>(
    compiled: &CompiledTemplate<'s>,
) -> (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>) {
    let blocks = compiled.blocks.iter().map(|(name, block)| (*name, rewrite(block)));
    (rewrite(&compiled.instructions), blocks.collect())
}

fn rewrite<'s>(original: &Instructions<'s>) -> Instructions<'s> {
    let list: Vec<_> = (0..).map_while(|at| original.get(at)).collect();
    // Where each instruction starts in the new list: what jumps there pays too.
    let mut starts = Vec::with_capacity(list.len() + 1);
    let mut count = 0;
    for instruction in &list {
        starts.push(count);
        count += paid(instruction).len() as u32;
    }
    starts.push(count);
    let target = |old: u32| starts.get(old as usize).copied().unwrap_or(count);
    let mut new = Instructions::new(original.name(), original.source());
    for (at, instruction) in (0..).zip(list) {
        for mut instruction in paid(instruction) {
            match &mut instruction {
                Instruction::Iterate(to)
                | Instruction::Jump(to)
                | Instruction::JumpIfFalse(to)
                | Instruction::JumpIfFalseOrPop(to)
                | Instruction::JumpIfTrueOrPop(to)
                | Instruction::BuildMacro(_, to, _) => *to = target(*to),
                _ => {}
            }
            let line = original.get_line(at).unwrap_or(1).min(usize::from(u16::MAX)) as u16;
            new.add_with_span(
                instruction,
                original.get_span(at).unwrap_or(Span { start_line: line, ..Span::default() }),
            );
        }
    }
    new
}

/// An instruction with the payments around it.
fn paid<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    use Instruction as I;
    let call = |filter, arguments| I::ApplyFilter(filter, Some(arguments), !0);
    let same = instruction.clone();
    match instruction {
        // What they make is new.
        I::Add
        | I::StringConcat
        | I::Slice
        | I::BuildMap(_)
        | I::BuildList(_)
        | I::BuildTuple(_)
        | I::ApplyFilter(..)
        | I::CallFunction(..)
        | I::CallMethod(..)
        | I::CallObject(_)
        | I::EndCapture => vec![same, call(CHARGE, 1)],
        // They look through the value on top.
        I::Eq
        | I::Ne
        | I::Gt
        | I::Gte
        | I::Lt
        | I::Lte
        | I::In
        | I::CompareAndPreserve(_)
        | I::GetItem
        | I::PerformTest(..) => vec![call(CHARGE, 1), same],
        I::Mul => vec![call(MULTIPLY, 2)],
        // The value lies below the namespace.
        I::SetAttr(_) => vec![I::Swap, call(SETTABLE, 1), I::Swap, same],
        // Emitted values are paid for where they are shown.
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        _ => vec![same],
    }
}
