//! Where prompts come from.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rz_tokenizer::{EncodeOptions, Tokenizer};

use crate::failure::Failure;
use crate::terminal;

/// Nobody means more than this to be a prompt.
const LONGEST: u64 = 256 << 20;

/// A wait for standard input that is longer gets explained.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether somebody else's output comes in by standard input.
pub(crate) fn is_piped() -> bool {
    !std::io::stdin().is_terminal()
}

/// The text of a file.
pub(crate) fn read_file(path: &Path) -> Result<String, Failure> {
    let file = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
    read(file, &format!("'{}'", path.display()))
}

/// All of standard input.
pub(crate) fn read_stdin() -> Result<String, Failure> {
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            terminal::note("still reading standard input; without any, add `< /dev/null`");
        }
    });
    let text = read(std::io::stdin().lock(), "standard input");
    drop(done);
    text
}

/// A text without the line end that editors and `echo` leave at its end.
pub(crate) fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Parts of a prompt, one below the other; empty ones do not count.
pub(crate) fn join<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).fold(String::new(), |mut whole, part| {
        if !whole.is_empty() && !whole.ends_with('\n') {
            whole.push('\n');
        }
        whole + part
    })
}

/// The tokens of a prompt that a model is to continue.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true });
    // Some files ask for an end token after each text. What is to be continued has not ended.
    if tokenizer.adds_eos() && ids.last() == tokenizer.eos().as_ref() {
        ids.pop();
    }
    ids
}

/// Ids as people write them: separated by commas, white space or both.
pub(crate) fn parse_ids(text: &str) -> Result<Vec<u32>, Failure> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let ids = words.map(|word| {
        word.parse().map_err(|_| {
            let word: String = word.chars().take(40).collect();
            Failure::input(format!("'{word}' is not a token id: give whole numbers such as 1,2,3"))
        })
    });
    ids.collect()
}

/// A seed that nobody chose; short, so that it can be typed again.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) >> 32
}

fn read(source: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let failed = |error| Failure::input(format!("cannot read {name}: {error}"));
    source.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Failure::input(format!("{name} has more than {LONGEST} bytes: give a shorter text")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::input(format!("{name} is not UTF-8 text: byte {at} is wrong; convert it first"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_one_below_the_other() {
        assert_eq!(join(["Sum up:", "one\ntwo\n"]), "Sum up:\none\ntwo\n");
        assert_eq!(join(["a\n", "", "b"]), "a\nb");
        assert_eq!(join([]), "");
    }

    #[test]
    fn one_line_end_is_taken_away() {
        for (text, without) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", ""), ("", "")]
        {
            assert_eq!(without_line_end(text), without);
        }
    }

    #[test]
    fn ids_are_separated_by_commas_and_spaces() {
        assert_eq!(parse_ids("1,2, 3\n4,,").unwrap(), [1, 2, 3, 4]);
        assert!(parse_ids("").unwrap().is_empty());
        for wrong in ["1;2", "-1", "4294967296", "1.0", "x"] {
            assert!(parse_ids(wrong).is_err(), "{wrong}");
        }
    }
}
