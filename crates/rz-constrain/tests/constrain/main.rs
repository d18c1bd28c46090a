//! Texts that are held to something, made by choosing at random, and checked by other means.

#![allow(unreachable_pub)] // the modules share what they need

mod engine;
mod gbnf;
mod hostile;
mod regex;
mod schema;
mod smollm2;
mod walk;
