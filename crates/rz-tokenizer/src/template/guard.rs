//! What a template's text must look like before it is given to the engine, whose
//! parser recurses and computes constants without limits of its own.

/// Bytes of a template. The longest real ones have some twenty thousand.
const MAX_BYTES: usize = 1 << 20;
/// Tags of a template.
const MAX_TAGS: usize = 1 << 13;
/// Words and signs of one tag: they bound how deep an expression can nest.
const MAX_WORDS: usize = 1 << 12;
/// What the numbers of a tag may make of a text that is repeated in it.
const MAX_REPEATS: u64 = 1 << 16;

/// Stack for the engine, enough for whatever passes the limits above.
pub(crate) const STACK: usize = 64 << 20;

/// Checks `source` and rewrites the tag that marks the assistant's text, which the
/// engine does not know, to one that does nothing. `Err` has the line and the problem.
pub(crate) fn prepare(source: &str) -> Result<String, (usize, String)> {
    let line = |at: usize| source[..at].bytes().filter(|&byte| byte == b'\n').count() + 1;
    if source.len() > MAX_BYTES {
        return Err((1, format!("it has {} bytes, expected at most {MAX_BYTES}", source.len())));
    }
    let mut prepared = String::with_capacity(source.len());
    let (mut at, mut tags) = (0, 0);
    while let Some((start, close)) = next_tag(source, at) {
        prepared.push_str(&source[at..start]);
        let inside = start + 2;
        let end = match close {
            "#}" => source[inside..].find(close).map(|end| inside + end),
            _ => end_of_tag(source, inside, close),
        };
        // An open tag is the parser's to report.
        let Some(end) = end else {
            at = start;
            break;
        };
        let tag = &source[inside..end];
        at = end + 2;
        tags += 1;
        if tags > MAX_TAGS {
            return Err((line(start), format!("it has more than {MAX_TAGS} tags")));
        }
        if close != "#}" {
            check(tag).map_err(|problem| (line(start), problem))?;
        }
        let word = tag.trim_matches(['-', '+']).trim();
        match (close, word) {
            ("%}", "generation" | "endgeneration") => {
                let with = word.replace("generation", "with");
                prepared.push_str(&source[start..inside]);
                prepared.push_str(&tag.replace(word, &with));
                prepared.push_str(close);
            }
            ("%}", "raw") => {
                // Nothing up to its end is a tag.
                let rest = source[at..].find("endraw").map_or(source.len(), |end| at + end);
                let rest = source[..rest].rfind("{%").map_or(rest, |open| open.max(at));
                prepared.push_str(&source[start..rest]);
                at = rest;
            }
            _ => prepared.push_str(&source[start..at]),
        }
    }
    prepared.push_str(&source[at..]);
    Ok(prepared)
}

/// Where the next tag starts, and what closes it.
fn next_tag(source: &str, from: usize) -> Option<(usize, &'static str)> {
    source.as_bytes()[from..].windows(2).position(|pair| close_of(pair).is_some()).map(|at| {
        let start = from + at;
        (start, close_of(&source.as_bytes()[start..start + 2]).unwrap_or("}}"))
    })
}

fn close_of(open: &[u8]) -> Option<&'static str> {
    match open {
        b"{{" => Some("}}"),
        b"{%" => Some("%}"),
        b"{#" => Some("#}"),
        _ => None,
    }
}

/// Where a tag ends: not inside a text, and not inside the braces of a map.
fn end_of_tag(source: &str, from: usize, close: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let (mut at, mut braces) = (from, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = end_of_text(bytes, at, quote),
            b'{' => braces += 1,
            _ if braces == 0 && bytes[at..].starts_with(close.as_bytes()) => return Some(at),
            b'}' => braces = braces.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the text that starts at `at` has its closing quote.
fn end_of_text(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

/// Checks the inside of one tag.
fn check(tag: &str) -> Result<(), String> {
    let bytes = tag.as_bytes();
    let (mut words, mut at) = (0, 0);
    let (mut has_text, mut has_product, mut repeats) = (false, false, 1u64);
    while at < bytes.len() {
        words += 1;
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                has_text = true;
                at = end_of_text(bytes, at, quote) + 1;
            }
            b'0'..=b'9' => {
                let end = at + word_length(&bytes[at..]);
                // Whatever is written in another way than plain digits counts as large.
                let number = tag.get(at..end).and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
                repeats = repeats.saturating_mul(number.max(1));
                at = end;
            }
            byte if byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii() => {
                at += word_length(&bytes[at..]);
            }
            byte => {
                words -= usize::from(byte.is_ascii_whitespace());
                has_text |= byte == b'[' || byte == b'(';
                if byte == b'*' {
                    has_product = true;
                    if bytes.get(at + 1) == Some(&b'*') {
                        repeats = u64::MAX;
                    }
                }
                at += 1;
            }
        }
    }
    if words > MAX_WORDS {
        return Err(format!("a tag has more than {MAX_WORDS} words and signs"));
    }
    if has_text && has_product && repeats > MAX_REPEATS {
        return Err(format!("a tag may repeat a text more than {MAX_REPEATS} times"));
    }
    Ok(())
}

fn word_length(bytes: &[u8]) -> usize {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    bytes.iter().take_while(|byte| part(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marks_of_generation_change() {
        for (source, expected) in [
            ("a{% generation %}b{%- endgeneration -%}c", "a{% with %}b{%- endwith -%}c"),
            ("{%+generation+%}", "{%+with+%}"),
            ("{# {% generation %} #}", "{# {% generation %} #}"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% with %}",
            ),
            ("{{ {'a': {'b': 1}} }}{%generation%}", "{{ {'a': {'b': 1}} }}{%with%}"),
            ("{{ \"\\\"%}\" }}{{ open", "{{ \"\\\"%}\" }}{{ open"),
            ("{", "{"),
            ("", ""),
        ] {
            assert_eq!(prepare(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_the_engine_could_not_bear_is_refused() {
        let refused = |source: &str| prepare(source).unwrap_err();
        assert_eq!(refused(&format!("\n\n{{{{ {}1 }}}}", "-".repeat(5000))).0, 3);
        refused(&format!("{{{{ 1{} }}}}", "+1".repeat(5000)));
        refused(&"{% if 1 %}".repeat(10_000));
        refused(&" ".repeat(2 << 20));
        for source in
            ["{{ 'x' * 1000 * 1000 }}", "{{ [1] * 10**9 }}", "{{ 1e8 * ('x') }}", "{{ 0xfffffff * 'x' }}"]
        {
            refused(source);
        }
        for source in ["{{ 'x' * 80 }}", "{{ n * 1000000 }}", "{{ '%d' ~ 1000000000 }}", "{{ 'x' * n }}"] {
            assert!(prepare(source).is_ok(), "{source}");
        }
    }
}
