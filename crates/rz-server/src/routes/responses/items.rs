//! The items of a response, written one after the other.

use serde_json::{Map, Value, json};

use crate::answer::{End, Piece};
use crate::ids;
use crate::stream::{Feed, Gone};

/// Items while they are written, with the events about them.
pub(super) struct Items {
    feed: Option<Feed>,
    sequence: u64,
    output: Vec<Value>,
    open: Option<Open>,
    /// The answer as a message of the conversation.
    text: String,
    calls: Vec<Value>,
}

/// The item that is being written.
struct Open {
    kind: Kind,
    id: String,
    text: String,
    /// Of a call: its own id and the function.
    call: (String, String),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Message,
    Reasoning,
    Call,
}

impl Items {
    pub(super) fn new(feed: Option<Feed>) -> Self {
        Self { feed, sequence: 0, output: Vec::new(), open: None, text: String::new(), calls: Vec::new() }
    }

    /// Sends an event, if somebody listens.
    pub(super) async fn event(&mut self, kind: &str, rest: Value) -> Result<(), Gone> {
        let Some(feed) = &self.feed else { return Ok(()) };
        let mut event = Map::new();
        event.insert("type".into(), kind.into());
        event.insert("sequence_number".into(), self.sequence.into());
        if let Value::Object(rest) = rest {
            event.extend(rest);
        }
        self.sequence += 1;
        feed.event(kind, &Value::Object(event)).await
    }

    /// Waits for something, and keeps the stream alive meanwhile, if there is one.
    pub(super) async fn wait<T>(&self, something: impl Future<Output = T>) -> Result<T, Gone> {
        match &self.feed {
            Some(feed) => feed.wait(something).await,
            None => Ok(something.await),
        }
    }

    /// Adds the next piece; gives the end when that is it.
    pub(super) async fn add(&mut self, piece: Piece) -> Result<Option<End>, Gone> {
        match piece {
            Piece::Prompt(_) => {}
            Piece::Text(text, _) => {
                self.open(Kind::Message, (String::new(), String::new())).await?;
                self.delta("response.output_text.delta", &text).await?;
            }
            Piece::Reasoning(text) => {
                self.open(Kind::Reasoning, (String::new(), String::new())).await?;
                self.delta("response.reasoning_text.delta", &text).await?;
            }
            Piece::CallStart { id, name, .. } => self.open(Kind::Call, (id, name)).await?,
            Piece::CallArguments { text, .. } => {
                self.delta("response.function_call_arguments.delta", &text).await?;
            }
            Piece::End(end) => return Ok(Some(end)),
        }
        Ok(None)
    }

    /// Closes what is open, and gives the answer as a message of the conversation.
    pub(super) async fn finish(&mut self, complete: bool) -> Result<Value, Gone> {
        self.close(complete).await?;
        let mut message = json!({ "role": "assistant", "content": self.text });
        if !self.calls.is_empty() {
            message["tool_calls"] = std::mem::take(&mut self.calls).into();
        }
        Ok(message)
    }

    pub(super) fn take_output(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.output)
    }

    /// Makes sure that an item of this kind is open. Each call has its own.
    async fn open(&mut self, kind: Kind, call: (String, String)) -> Result<(), Gone> {
        if kind != Kind::Call && self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return Ok(());
        }
        self.close(true).await?;
        let id = ids::name(match kind {
            Kind::Message => "msg_",
            Kind::Reasoning => "rs_",
            Kind::Call => "fc_",
        });
        let open = Open { kind, id, text: String::new(), call };
        let item = open.item("in_progress", true);
        let (id, index) = (open.id.clone(), self.output.len());
        self.open = Some(open);
        self.event("response.output_item.added", json!({ "output_index": index, "item": item })).await?;
        if kind == Kind::Call {
            return Ok(());
        }
        let part = self.open.as_ref().map(|open| open.part("")).unwrap_or_default();
        let place = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
        self.event("response.content_part.added", place).await
    }

    async fn delta(&mut self, kind: &str, text: &str) -> Result<(), Gone> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.text += text;
        let mut place = json!({ "item_id": open.id, "output_index": self.output.len() });
        if open.kind != Kind::Call {
            place["content_index"] = 0.into();
        }
        place["delta"] = text.into();
        if open.kind == Kind::Message {
            self.text += text;
            place["logprobs"] = json!([]);
        }
        self.event(kind, place).await
    }

    async fn close(&mut self, complete: bool) -> Result<(), Gone> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let index = self.output.len();
        let item = open.item(if complete { "completed" } else { "incomplete" }, false);
        self.output.push(item.clone());
        let place = json!({ "item_id": open.id, "output_index": index });
        match open.kind {
            Kind::Call => {
                let mut done = place;
                done["name"] = open.call.1.as_str().into();
                done["arguments"] = open.text.as_str().into();
                self.event("response.function_call_arguments.done", done).await?;
                let arguments: Value = serde_json::from_str(&open.text).unwrap_or_else(|_| json!({}));
                self.calls.push(crate::chat::call_json(Some(open.call.0), &open.call.1, arguments));
            }
            Kind::Message | Kind::Reasoning => {
                let mut done = place;
                done["content_index"] = 0.into();
                let mut part = done.clone();
                part["part"] = open.part(&open.text);
                done["text"] = open.text.as_str().into();
                let kind = if open.kind == Kind::Message {
                    done["logprobs"] = json!([]);
                    "response.output_text.done"
                } else {
                    "response.reasoning_text.done"
                };
                self.event(kind, done).await?;
                self.event("response.content_part.done", part).await?;
            }
        }
        self.event("response.output_item.done", json!({ "output_index": index, "item": item })).await
    }
}

impl Open {
    /// The item; `bare`: without what was written so far.
    fn item(&self, status: &str, bare: bool) -> Value {
        let text = if bare { "" } else { &self.text };
        match self.kind {
            Kind::Message => json!({
                "id": self.id,
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": if bare { json!([]) } else { json!([self.part(text)]) },
            }),
            Kind::Reasoning => json!({
                "id": self.id,
                "type": "reasoning",
                "status": status,
                "summary": [],
                "content": if bare { json!([]) } else { json!([self.part(text)]) },
            }),
            Kind::Call => json!({
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": self.call.0,
                "name": self.call.1,
                "arguments": text,
            }),
        }
    }

    fn part(&self, text: &str) -> Value {
        match self.kind {
            Kind::Reasoning => json!({ "type": "reasoning_text", "text": text }),
            _ => json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }),
        }
    }
}
