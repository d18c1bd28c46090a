//! Text to token ids and back, with the chat templates that model files carry.
//!
//! A [`Tokenizer`] is made from a model folder ([`Tokenizer::from_folder`]) or from the
//! metadata of a GGUF file, and needs nothing else:
//!
//! ```
//! use rz_formats::{Metadata, StringArray};
//! use rz_tokenizer::{EncodeOptions, Tokenizer};
//!
//! # fn main() -> Result<(), rz_tokenizer::TokenizerError> {
//! let mut meta = Metadata::new(); // usually `Gguf::open(path)?.metadata()`
//! meta.insert("tokenizer.ggml.model", "gpt2");
//! meta.insert("tokenizer.ggml.pre", "gpt-2");
//! meta.insert("tokenizer.ggml.tokens", StringArray::from_iter(["a", "b", "Ġ", "ab", "Ġab"]));
//! meta.insert("tokenizer.ggml.merges", StringArray::from_iter(["a b", "Ġ ab"]));
//!
//! let tokenizer = Tokenizer::from_gguf(&meta)?;
//! let ids = tokenizer.encode("ab ab", EncodeOptions::default());
//! assert_eq!(ids, [3, 4]);
//! assert_eq!(tokenizer.decode(&ids), "ab ab");
//! # Ok(())
//! # }
//! ```

mod bpe;
mod decoder;
mod end;
mod error;
mod hash;
mod json;
mod merge;
mod pretokenizer;
mod special;
mod spm;
mod template;
mod tokenizer;
mod vocabulary;

pub use decoder::{DecodeOptions, Decoder};
pub use error::{MergeProblem, TokenizerError};
pub use json::TokenizerFiles;
pub use template::{ChatTemplate, LocalTime, Message, TemplateInputs};
pub use tokenizer::{EncodeOptions, Tokenizer};
