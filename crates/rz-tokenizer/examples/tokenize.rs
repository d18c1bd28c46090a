//! Shows the tokens of a text: `cargo run -p rz-tokenizer --example tokenize -- MODEL.gguf TEXT`

use std::error::Error;

use rz_formats::Gguf;
use rz_tokenizer::{EncodeOptions, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tokenize MODEL.gguf TEXT".into());
    };
    let model = Gguf::open(file)?;
    let tokenizer = Tokenizer::from_gguf(model.metadata())?;
    for warning in tokenizer.warnings() {
        eprintln!("note: {warning}");
    }
    let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: true });
    for &id in &ids {
        println!("{id:>7}  {}", tokenizer.token(id).unwrap_or_default());
    }
    println!("{} tokens: {:?}", ids.len(), tokenizer.decode(&ids));
    Ok(())
}
