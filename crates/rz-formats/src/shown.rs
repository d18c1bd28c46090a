//! How names and messages out of files are shown: in one line, and within bounds.

use std::fmt;
use std::path::Path;

/// Shows a path on one line.
pub(crate) fn path(path: &Path) -> impl fmt::Display + '_ {
    struct Shown<'a>(&'a Path);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            escape(&self.0.to_string_lossy(), usize::MAX, f)
        }
    }
    Shown(path)
}

/// Shows text from a file on one line, in quotes, cut when it is long.
pub(crate) fn text(text: &str) -> impl fmt::Display + '_ {
    struct Shown<'a>(&'a str);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"")?;
            escape(self.0, 80, f)?;
            f.write_str("\"")
        }
    }
    Shown(text)
}

pub(crate) fn hint(looks_like: &Option<&'static str>) -> impl fmt::Display {
    looks_like.map(|what| format!(" ({what})")).unwrap_or_default()
}

/// Shows a message that may quote a file, on one line and cut when it is long.
pub(crate) fn cut(message: &str) -> impl fmt::Display + '_ {
    struct Shown<'a>(&'a str);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            escape(self.0, 160, f)
        }
    }
    Shown(message)
}

pub(crate) fn whereabouts(listed: &Option<String>, found: &Option<String>) -> String {
    match (listed, found) {
        (Some(listed), Some(found)) => format!("is listed in {}, but {} has it", text(listed), text(found)),
        (Some(listed), None) => format!("is listed in {}, which does not have it", text(listed)),
        (None, Some(found)) => format!("is in {}, but not listed", text(found)),
        (None, None) => "is nowhere".to_owned(),
    }
}

fn escape(text: &str, limit: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, c) in text.chars().enumerate() {
        if i == limit {
            return f.write_str("…");
        }
        match c {
            // Line and paragraph separators, and marks that reorder what is printed.
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                write!(f, "{}", c.escape_unicode())?;
            }
            c if c.is_control() => write!(f, "{}", c.escape_default())?,
            c => write!(f, "{c}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::FormatError;

    #[test]
    fn text_of_a_file_stays_on_one_line_and_is_cut() {
        let key = format!("a\nb\u{2028}\u{1b}[31m{}", "x".repeat(1000));
        let error = FormatError::MissingKey { file: PathBuf::from("dir\n/m.gguf"), key };
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1);
        assert!(message.starts_with("dir\\n/m.gguf: the key \"a\\nb\\u{2028}\\u{1b}[31mxxx"), "{message}");
        assert!(message.len() < 160, "{message}");
    }
}
