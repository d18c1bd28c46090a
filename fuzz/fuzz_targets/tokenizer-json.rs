//! Any `tokenizer.json` makes a tokenizer or gives an error of one line; whatever it is, it
//! encodes any text and decodes any ids, in parts as at once. Other bytes are a text for
//! the tokenizers of files that are whole.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rz_tokenizer::{DecodeOptions, EncodeOptions, Tokenizer, TokenizerFiles};

static WHOLE: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let files: [&[u8]; 3] = [
        include_bytes!("../../fixtures/tokenizer-json/flags.json"),
        include_bytes!("../../fixtures/tokenizer-json/gemma3.json"),
        include_bytes!("../../fixtures/tokenizer-json/llama2.json"),
    ];
    files.map(|file| tokenizer(file).unwrap()).into()
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(&data[data.len() / 2..]);
    if data.starts_with(b"{") {
        tokenizer(data).iter().for_each(|tokenizer| use_it(tokenizer, &text));
        return;
    }
    WHOLE.iter().for_each(|tokenizer| use_it(tokenizer, &text));
});

fn tokenizer(json: &[u8]) -> Option<Tokenizer> {
    match Tokenizer::from_files("fuzz", &TokenizerFiles { tokenizer: json, ..TokenizerFiles::default() }) {
        Ok(tokenizer) => Some(tokenizer),
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1);
            None
        }
    }
}

fn use_it(tokenizer: &Tokenizer, text: &str) {
    for (add_special, parse_special) in [(false, false), (true, true)] {
        let mut ids = tokenizer.encode(text, EncodeOptions { add_special, parse_special });
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.len()));
        ids.extend(text.chars().map(u32::from));
        for special in [false, true] {
            let options = DecodeOptions { special, continues: parse_special };
            let mut decoder = tokenizer.decoder_with(options);
            let mut parts: String = ids.iter().map(|&id| decoder.push(id).to_owned()).collect();
            parts.push_str(decoder.finish());
            assert_eq!(parts, tokenizer.decode_with(&ids, options));
        }
    }
}
