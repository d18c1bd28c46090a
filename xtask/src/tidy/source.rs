//! A file as the rules see it: its text, and for Rust also its code without comments and the contents of strings.

/// A text file of the repository.
pub(super) struct Source {
    /// Path in the repository, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
    /// The text with comments, strings and characters blanked; lines stay where they are. Only for Rust.
    pub(super) code: String,
    /// First line of a module of unit tests, which runs to the end of the file.
    pub(super) tests: usize,
}

impl Source {
    pub(super) fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { strip(&text) } else { String::new() };
        let tests =
            code.lines().position(|line| line.starts_with("#[cfg(test)]")).map_or(usize::MAX, |i| i + 1);
        // `#[cfg(test)] mod tests;` in the middle of a file does not start a module that runs to its end.
        let tests = if code.lines().nth(tests).is_some_and(|line| line.trim_end().ends_with(';')) {
            usize::MAX
        } else {
            tests
        };
        Self { path: path.into(), text, code, tests }
    }

    pub(super) fn lines(&self) -> usize {
        self.text.lines().count()
    }
}

/// Blanks comments and the contents of literals.
fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = comment(rest).or_else(|| literal(rest, &out));
        match skipped {
            Some(length) => {
                out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                at += length;
            }
            None => {
                let c = rest.chars().next().expect("not at the end");
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    out
}

/// Length of the comment that `rest` starts with.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    Some(rest.len())
}

/// Length of the string or character that `rest` starts with, after what came `before`.
fn literal(rest: &str, before: &str) -> Option<usize> {
    let in_a_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let prefix =
        if in_a_word { 0 } else { rest.find(|c| !"bcr".contains(c)).filter(|&n| n <= 2).unwrap_or(0) };
    let (prefix, body) = rest.split_at(prefix);
    if prefix.contains('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        if body[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 1;
            let length = body[from..].find(&end).map_or(body.len(), |n| from + n + end.len());
            return Some(prefix.len() + length);
        }
    }
    if body.starts_with('"') {
        return Some(prefix.len() + quoted(body, '"'));
    }
    // A quote before a name that no quote ends is a lifetime.
    let mut characters = body.chars();
    if characters.next() == Some('\'') && (characters.next() == Some('\\') || characters.next() == Some('\''))
    {
        return Some(prefix.len() + quoted(body, '\''));
    }
    None
}

/// Length up to the quote that ends the literal.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        strip(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        assert_eq!(words("a // b\nc"), "a c");
        assert_eq!(words("a /* b /* c */ d */ e"), "a e");
        assert_eq!(words(r#"f("x \" y", 'z', '\'', b"q", b'w') // g"#), "f( , , , , )");
        assert_eq!(words("r#\"a\"b\"# + br\"\\\" + x"), "+ + x");
        assert_eq!(
            words("fn f<'a>(x: &'a str) -> &'static str { 'b: loop {} }"),
            "fn f<'a>(x: &'a str) -> &'static str { 'b: loop {} }"
        );
        assert_eq!(words("number\"é\"; r#match"), "number ; r#match");
        assert_eq!(strip("a\"\n\nb\"\nc").lines().count(), 4, "lines stay where they are");
    }

    #[test]
    fn unit_tests_are_found() {
        let tests = |text: &str| Source::new("x.rs", text.to_owned()).tests;
        assert_eq!(tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 3);
        assert_eq!(tests("#[cfg(test)]\nmod tests;\nfn f() {}\n"), usize::MAX);
        assert_eq!(tests("fn f() {}\n"), usize::MAX);
    }
}
