//! `rz tokenize`: text to token ids and back.

use clap::Args;
use rz_tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
use serde_json::json;

use crate::args::Common;
use crate::failure::Failure;
use crate::table::{Align, Table};
use crate::terminal::{self, Out};
use crate::{model, prompt};

/// What `rz tokenize` takes.
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The text
    text: Option<String>,
    /// Take the text from standard input, to its last byte
    #[arg(long, conflicts_with = "text")]
    stdin: bool,
    /// Print the ids alone, separated by spaces
    #[arg(long, conflicts_with = "json")]
    ids: bool,
    /// Add no begin or end token, and take special tokens in the text for plain text. With --decode: leave
    /// special tokens out
    #[arg(long)]
    no_special: bool,
    /// Print the text of these ids (separated by commas or spaces; `-`: from standard input)
    #[arg(long, value_name = "IDS", conflicts_with_all = ["text", "stdin", "ids"])]
    decode: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Turns text into ids, or ids into text.
pub(crate) fn tokenize(args: &TokenizeArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    if let Some(ids) = &args.decode {
        let ids = ids_of(ids)?;
        return decode(&ids, args, &open(common)?, out);
    }
    let text = match &args.text {
        Some(text) => text.clone(),
        None if args.stdin || prompt::is_piped() => prompt::read_stdin()?,
        None => return Err(Failure::input("there is no text: give one, or --stdin, or --decode IDS")),
    };
    encode(&text, args, &open(common)?, out)
}

/// The ids of an argument, or those on standard input when it is `-`.
pub(crate) fn ids_of(argument: &str) -> Result<Vec<u32>, Failure> {
    match argument {
        "-" => prompt::parse_ids(&prompt::read_stdin()?),
        ids => prompt::parse_ids(ids),
    }
}

fn open(common: &Common) -> Result<Tokenizer, Failure> {
    let tokenizer = model::open(common)?.tokenizer()?;
    tokenizer.warnings().iter().for_each(|warning| terminal::note(warning));
    Ok(tokenizer)
}

fn encode(text: &str, args: &TokenizeArgs, tokenizer: &Tokenizer, out: &Out) -> Result<(), Failure> {
    let special = !args.no_special;
    let ids = tokenizer.encode(text, EncodeOptions { add_special: special, parse_special: special });
    let bytes = |id: u32| tokenizer.token_bytes(id).unwrap_or_default();
    if args.json {
        let pieces: Vec<String> =
            ids.iter().map(|&id| String::from_utf8_lossy(&bytes(id)).into_owned()).collect();
        return out.json(&json!({ "text": text, "ids": ids, "pieces": pieces }));
    }
    if args.ids {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        return out.line(&ids.join(" "));
    }
    let mut table = Table::new(&[("id", Align::Right), ("text", Align::Left)]);
    for &id in &ids {
        let special = if tokenizer.is_special(id) { " (special)" } else { "" };
        table.row([id.to_string(), format!("{}{special}", quoted(&bytes(id)))]);
    }
    out.text(&table.render())
}

/// The bytes of a token in quotes; parts of characters as numbers.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text + "\""
}

fn decode(ids: &[u32], args: &TokenizeArgs, tokenizer: &Tokenizer, out: &Out) -> Result<(), Failure> {
    if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.len()) {
        return Err(Failure::input(format!(
            "token id {id} is beyond the vocabulary of {} tokens",
            tokenizer.len()
        )));
    }
    let options = DecodeOptions { special: !args.no_special, ..DecodeOptions::default() };
    let text = tokenizer.decode_with(ids, options);
    if args.json { out.json(&json!({ "ids": ids, "text": text })) } else { out.line(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shown_on_one_line_and_in_full() {
        assert_eq!(quoted(b" a\"b\n"), r#"" a\"b\n""#);
        assert_eq!(quoted(&[b' ', 0xe6, 0x97]), r#"" \xe6\x97""#);
        assert_eq!(quoted("日".as_bytes()), "\"日\"");
    }
}
