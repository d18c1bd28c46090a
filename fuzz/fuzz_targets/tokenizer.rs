//! Any file makes a tokenizer or gives an error of one line; whatever it is, it encodes
//! any text, decodes any ids, and its template ends. Other bytes are a text for the
//! tokenizer of a file that is whole, and a template.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rz_formats::{Gguf, Metadata};
use rz_tokenizer::{ChatTemplate, DecodeOptions, EncodeOptions, Message, Tokenizer};

static WHOLE: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let files: [&[u8]; 2] = [
        include_bytes!("../../fixtures/tokenizer/bpe.gguf"),
        include_bytes!("../../fixtures/tokenizer/spm.gguf"),
    ];
    files.map(|file| tokenizer(Gguf::from_bytes("whole", file.to_vec()).unwrap().metadata()).unwrap()).into()
});

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"GGUF") {
        let Ok(model) = Gguf::from_bytes("fuzz", data.to_vec()) else { return };
        let Some(tokenizer) = tokenizer(model.metadata()) else { return };
        use_it(&tokenizer, &String::from_utf8_lossy(&data[data.len() / 2..]));
        match ChatTemplate::from_gguf(model.metadata(), &tokenizer) {
            Ok(template) => template.iter().for_each(render),
            Err(error) => assert_eq!(error.to_string().lines().count(), 1),
        }
        return;
    }
    let text = String::from_utf8_lossy(data);
    for tokenizer in WHOLE.iter() {
        use_it(tokenizer, &text);
        let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false });
        let shown = if tokenizer.id("▁").is_some() { text.replace('▁', " ") } else { text.to_string() };
        assert_eq!(tokenizer.decode(&ids), shown);
    }
    match ChatTemplate::new("fuzz", &text, Some("<s>"), None) {
        Ok(template) => render(&template),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
});

fn tokenizer(meta: &Metadata) -> Option<Tokenizer> {
    match Tokenizer::from_gguf(meta) {
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

fn render(template: &ChatTemplate) {
    let messages = [Message::new("system", "Be brief."), Message::new("user", " Hi {{ 1 }} ")];
    if let Err(error) = template.render(&messages, true) {
        assert_eq!(error.to_string().lines().count(), 1);
    }
}
