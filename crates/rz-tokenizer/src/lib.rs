//! Text to token ids and back, with the chat templates that model files carry.
