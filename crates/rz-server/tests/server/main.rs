//! Requests through the routes, without a socket, over models that say what they are told to.

#![allow(unreachable_pub)] // the modules share what they need

mod anthropic;
mod chat;
mod completions;
mod constraints;
mod embeddings;
mod fake;
mod guard;
mod hostile;
mod llamacpp;
mod logs;
mod models;
mod ollama;
mod openapi;
mod operations;
mod responses;
mod slots;
mod sockets;
