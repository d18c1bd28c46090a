//! The generation loop: prompts in, text events out.
