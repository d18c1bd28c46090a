//! Random walks through what a constraint allows.

use std::sync::{Arc, LazyLock};

use rz_constrain::{Compiler, ConstrainError, ConstraintSpec};
use rz_engine::{Constraint, TokenMask};
use rz_tokenizer::Tokenizer;

/// A vocabulary of bytes, letters, words and pairs, some of them the same texts twice.
pub static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&rz_testkit::gguf::spm_tokenizer(600)).unwrap()));

static COMPILER: LazyLock<Compiler> = LazyLock::new(|| Compiler::new(TOKENIZER.clone()));

pub fn compile(spec: &ConstraintSpec) -> Result<Box<dyn Constraint>, ConstrainError> {
    COMPILER.compile(spec)
}

pub fn compile_after(marker: &str, spec: &ConstraintSpec) -> Box<dyn Constraint> {
    COMPILER.compile_after(marker, spec).unwrap()
}

/// Numbers that look random.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mixed = (self.0 ^ self.0 >> 29).wrapping_mul(0xbf58476d1ce4e5b9);
        ((mixed >> 33) as usize) % end
    }
}

/// The tokens that may come.
pub fn allowed(constraint: &mut dyn Constraint) -> Vec<u32> {
    let mut mask = TokenMask::new(TOKENIZER.len());
    constraint.allow(&mut mask).unwrap();
    (0..TOKENIZER.len() as u32).filter(|token| mask.is_allowed(*token)).collect()
}

/// The bytes of a text whose tokens are chosen at random among those allowed, with a preference for what ends things.
/// Whether it is complete.
pub fn walk(constraint: &dyn Constraint, dice: &mut Dice, most: usize) -> (Vec<u8>, bool) {
    let mut constraint = constraint.fork();
    let mut bytes = Vec::new();
    for _ in 0..most {
        if constraint.is_complete() {
            return (bytes, true);
        }
        let allowed = allowed(&mut *constraint);
        assert!(!allowed.is_empty());
        let closing = |token: &u32| {
            TOKENIZER.is_end_of_generation(*token)
                || matches!(&TOKENIZER.token_bytes(*token).unwrap()[..], b"\"" | b"}" | b"]" | b",")
        };
        let closing: Vec<u32> = allowed.iter().copied().filter(closing).collect();
        let among = if !closing.is_empty() && dice.below(3) == 0 { &closing } else { &allowed };
        let token = among[dice.below(among.len())];
        if TOKENIZER.is_end_of_generation(token) {
            return (bytes, true);
        }
        assert!(!TOKENIZER.is_special(token), "token {token} is no text");
        bytes.extend(TOKENIZER.token_bytes(token).unwrap());
        constraint.accept(token).unwrap();
    }
    (bytes, false)
}

/// Whether a text may come as a whole, byte by byte.
pub fn accepts(constraint: &dyn Constraint, text: &str) -> bool {
    let mut constraint = constraint.fork();
    for byte in text.bytes() {
        // Ids of bytes follow those of three special tokens.
        let token = 3 + u32::from(byte);
        if constraint.is_complete() || !allowed(&mut *constraint).contains(&token) {
            return false;
        }
        constraint.accept(token).unwrap();
    }
    constraint.is_complete()
        || allowed(&mut *constraint).iter().any(|token| TOKENIZER.is_end_of_generation(*token))
}
