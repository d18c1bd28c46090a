//! The notation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use super::set::Set;

/// How deep parentheses may nest.
const DEEPEST: usize = 64;
/// How often something may have to come, and how many signs may say so one after the other.
const MOST: u32 = 2_000;
const SIGNS: usize = 8;
/// The most rules.
const RULES: usize = 1_000;

/// What a rule is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// One of these characters.
    Set(Set),
    /// What the rule of this name describes.
    Rule(String),
    /// All of these, in order; nothing, if there are none.
    Sequence(Vec<Node>),
    /// One of these.
    Choice(Vec<Node>),
    /// So many at least, and at most.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// The rules of a grammar. Each that is referred to is there, and `root` is.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Node>, String> {
    let mut parser = Parser { chars: text.chars().peekable(), line: 1, depth: 0 };
    let mut rules = BTreeMap::new();
    loop {
        parser.spaces(true);
        if parser.peek().is_none() {
            break;
        }
        let name = parser.name()?;
        parser.spaces(false);
        for expected in "::=".chars() {
            if parser.next() != Some(expected) {
                return Err(parser.wrong(&format!("expected ::= after the name '{}'", shown(&name))));
            }
        }
        parser.spaces(true);
        let body = parser.choice()?;
        parser.spaces(false);
        if !matches!(parser.peek(), None | Some('\n')) {
            return Err(parser.wrong("expected the end of the line"));
        }
        if rules.contains_key(&name) {
            return Err(parser.wrong(&format!("there are two rules '{}'", shown(&name))));
        }
        rules.insert(name, body);
        if rules.len() > RULES {
            return Err(format!("it has more than {RULES} rules"));
        }
    }
    if !rules.contains_key("root") {
        return Err("there is no rule 'root': a grammar begins with it".to_owned());
    }
    for (name, body) in &rules {
        if let Some(unknown) = body.rules().into_iter().find(|name| !rules.contains_key(*name)) {
            return Err(format!(
                "the rule '{}' refers to '{}', which is not there",
                shown(name),
                shown(unknown)
            ));
        }
    }
    if let Some(endless) = endless(&rules) {
        return Err(format!(
            "the rule '{}' describes no text: it leads to itself in every case",
            shown(endless)
        ));
    }
    Ok(rules)
}

/// A rule that no text is described by, where there is one. Who began it could not end.
fn endless(rules: &BTreeMap<String, Node>) -> Option<&str> {
    let mut ending = BTreeSet::new();
    loop {
        let before = ending.len();
        for (name, body) in rules {
            if body.can_end(&ending) {
                ending.insert(name.as_str());
            }
        }
        if ending.len() == before {
            return rules.keys().map(String::as_str).find(|name| !ending.contains(name));
        }
    }
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn wrong(&self, what: &str) -> String {
        format!("line {}: {what}", self.line)
    }

    /// Passes over white space and comments, over the ends of lines only if told so.
    fn spaces(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                '\n' if !lines => return,
                c if c.is_ascii_whitespace() => drop(self.next()),
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            name.push(c);
            self.next();
        }
        if name.is_empty() {
            let found = self.peek().map_or("the end".to_owned(), |c| format!("{c:?}"));
            return Err(self.wrong(&format!("expected the name of a rule, found {found}")));
        }
        Ok(name)
    }

    /// Alternatives. In parentheses they go over several lines.
    fn choice(&mut self) -> Result<Node, String> {
        let mut items = vec![self.sequence()?];
        loop {
            // A line that begins with a bar goes on with the one before.
            let mut ahead = self.chars.clone();
            let bar = ahead.find(|c| !c.is_ascii_whitespace()) == Some('|');
            if !bar {
                break;
            }
            self.spaces(true);
            self.next();
            self.spaces(true);
            items.push(self.sequence()?);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Node::Choice(items) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut items = Vec::new();
        loop {
            self.spaces(self.depth > 0);
            let Some(c) = self.peek() else { break };
            let item = match c {
                '"' => self.text()?,
                '[' => Node::Set(self.class()?),
                '.' => {
                    self.next();
                    Node::Set(Set::all())
                }
                '(' => self.group()?,
                '<' | '!' => {
                    return Err(
                        self.wrong("tokens such as <...> are not supported: write what they stand for")
                    );
                }
                c if c.is_ascii_alphanumeric() || c == '-' || c == '_' => Node::Rule(self.name()?),
                '*' | '+' | '?' | '{' => {
                    return Err(
                        self.wrong(&format!("there is nothing before '{c}' that could come several times"))
                    );
                }
                _ => break,
            };
            items.push(self.repeated(item)?);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Node::Sequence(items) })
    }

    fn group(&mut self) -> Result<Node, String> {
        self.next();
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong(&format!("parentheses nest deeper than {DEEPEST} levels")));
        }
        let inner = self.choice()?;
        self.spaces(true);
        if self.next() != Some(')') {
            return Err(self.wrong("a parenthesis is not closed"));
        }
        self.depth -= 1;
        Ok(inner)
    }

    /// The item as often as the signs behind it say.
    fn repeated(&mut self, mut item: Node) -> Result<Node, String> {
        for _ in 0..=SIGNS {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.next();
                    let least = self.number()?;
                    let most = if self.peek() == Some(',') {
                        self.next();
                        if self.peek() == Some('}') { None } else { Some(self.number()?) }
                    } else {
                        Some(least)
                    };
                    if self.peek() != Some('}') {
                        return Err(self.wrong("expected '}' after a number of times"));
                    }
                    if most.is_some_and(|most| most < least) {
                        return Err(self.wrong("the most times are fewer than the least"));
                    }
                    (least, most)
                }
                _ => return Ok(item),
            };
            self.next();
            item = Node::Repeat(Box::new(item), least, most);
        }
        Err(self.wrong("too many signs say how often something comes: group it"))
    }

    fn number(&mut self) -> Result<u32, String> {
        let mut number = 0u32;
        let mut digits = 0;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.next();
            number = number.saturating_mul(10).saturating_add(digit);
            digits += 1;
        }
        match digits {
            0 => Err(self.wrong("expected a number of times")),
            _ if number > MOST => Err(self.wrong(&format!("something is to come more than {MOST} times"))),
            _ => Ok(number),
        }
    }

    fn text(&mut self) -> Result<Node, String> {
        self.next();
        let mut items = Vec::new();
        loop {
            match self.character('"')? {
                Some(c) => items.push(Node::Set(Set::of([(c, c)]))),
                None => return Ok(if items.len() == 1 { items.remove(0) } else { Node::Sequence(items) }),
            }
        }
    }

    fn class(&mut self) -> Result<Set, String> {
        self.next();
        let negated = self.peek() == Some('^');
        if negated {
            self.next();
        }
        let mut ranges = Vec::new();
        while let Some(first) = self.character(']')? {
            let mut ahead = self.chars.clone();
            let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            let mut last = first;
            if is_range {
                self.next();
                last = self.character(']')?.unwrap_or(first);
            }
            if last < first {
                return Err(self.wrong(&format!("the range {first:?} to {last:?} is the wrong way round")));
            }
            ranges.push((first, last));
        }
        let set = Set::of(ranges);
        let set = if negated { set.negated() } else { set };
        if set.is_empty() { Err(self.wrong("a class holds no characters")) } else { Ok(set) }
    }

    /// The next character of a text or a class; nothing at its end.
    fn character(&mut self, end: char) -> Result<Option<char>, String> {
        match self.next() {
            None | Some('\n') => Err(self.wrong(&format!("{end} is missing"))),
            Some(c) if c == end => Ok(None),
            Some('\\') => {
                let escape = self.next();
                let digits = match escape {
                    Some('x') => 2,
                    Some('u') => 4,
                    Some('U') => 8,
                    Some('n') => return Ok(Some('\n')),
                    Some('r') => return Ok(Some('\r')),
                    Some('t') => return Ok(Some('\t')),
                    Some(c @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/')) => return Ok(Some(c)),
                    other => {
                        let found = other.map_or(String::new(), |c| c.to_string());
                        return Err(self.wrong(&format!("'\\{found}' is no escape")));
                    }
                };
                let mut code = 0u32;
                for _ in 0..digits {
                    let digit = self.next().and_then(|c| c.to_digit(16));
                    let digit =
                        digit.ok_or_else(|| self.wrong(&format!("expected {digits} hexadecimal digits")))?;
                    code = code.wrapping_mul(16).wrapping_add(digit);
                }
                match char::from_u32(code) {
                    Some(c) => Ok(Some(c)),
                    None => Err(self.wrong(&format!("{code:x} is no character"))),
                }
            }
            Some(c) => Ok(Some(c)),
        }
    }
}

impl Node {
    /// The rules that it refers to.
    pub(super) fn rules(&self) -> Vec<&str> {
        match self {
            Node::Set(_) => Vec::new(),
            Node::Rule(name) => vec![name],
            Node::Sequence(items) | Node::Choice(items) => items.iter().flat_map(Node::rules).collect(),
            Node::Repeat(inner, ..) => inner.rules(),
        }
    }

    /// Whether it describes a text, given rules that do.
    fn can_end(&self, ending: &BTreeSet<&str>) -> bool {
        match self {
            Node::Set(_) => true,
            Node::Rule(name) => ending.contains(name.as_str()),
            Node::Sequence(items) => items.iter().all(|item| item.can_end(ending)),
            Node::Choice(items) => items.iter().any(|item| item.can_end(ending)),
            Node::Repeat(inner, least, _) => *least == 0 || inner.can_end(ending),
        }
    }

    /// Whether it may be empty. It refers to no rules, here and below.
    pub(super) fn is_nullable(&self) -> bool {
        match self {
            Node::Set(_) | Node::Rule(_) => false,
            Node::Sequence(items) => items.iter().all(Node::is_nullable),
            Node::Choice(items) => items.iter().any(Node::is_nullable),
            Node::Repeat(inner, least, _) => *least == 0 || inner.is_nullable(),
        }
    }

    /// What it may begin with.
    pub(super) fn first(&self) -> Set {
        let mut first = Set::default();
        match self {
            Node::Set(set) => return set.clone(),
            Node::Rule(_) => {}
            Node::Sequence(items) => {
                for item in items {
                    first.add(&item.first());
                    if !item.is_nullable() {
                        break;
                    }
                }
            }
            Node::Choice(items) => items.iter().for_each(|item| _ = first.add(&item.first())),
            Node::Repeat(_, _, Some(0)) => {}
            Node::Repeat(inner, ..) => return inner.first(),
        }
        first
    }

    /// The regular expression for it.
    pub(super) fn write_regex(&self, text: &mut String) {
        match self {
            Node::Set(set) => {
                text.push('[');
                for (first, last) in set.ranges() {
                    let _ = write!(text, r"\x{{{first:x}}}");
                    if first < last {
                        let _ = write!(text, r"-\x{{{last:x}}}");
                    }
                }
                text.push(']');
            }
            Node::Rule(_) => {}
            Node::Sequence(items) => items.iter().for_each(|item| item.write_regex(text)),
            Node::Choice(items) => {
                text.push_str("(?:");
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        text.push('|');
                    }
                    item.write_regex(text);
                }
                text.push(')');
            }
            Node::Repeat(inner, least, most) => {
                text.push_str("(?:");
                inner.write_regex(text);
                text.push(')');
                write_count(*least, *most, text);
            }
        }
    }
}

/// How often something comes, as regular expressions and Lark's notation write it.
pub(super) fn write_count(least: u32, most: Option<u32>, text: &mut String) {
    match (least, most) {
        (0, None) => text.push('*'),
        (1, None) => text.push('+'),
        (0, Some(1)) => text.push('?'),
        (least, None) => drop(write!(text, "{{{least},}}")),
        (least, Some(most)) => drop(write!(text, "{{{least},{most}}}")),
    }
}

fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}
