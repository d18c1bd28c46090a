//! Serves a model that repeats its prompt, to try clients with: no files, no weights.
//!
//! `cargo run -p rz-server --example echo -- 8080`, then
//! `curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages":[{"role":"user","content":"Hi"}]}'`

use std::sync::Arc;

use rz_formats::{Metadata, StringArray};
use rz_server::{
    Address, App, Backend, Config, Event, Events, Finish, Job, Listener, Loader, ModelInfo, Refusal,
    Registry, ServeOptions, Served, Stats, Task, TokenScore, Usage, serve,
};
use rz_tokenizer::{ChatTemplate, Tokenizer};

struct Echo {
    info: ModelInfo,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Backend for Echo {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn template(&self) -> Option<&ChatTemplate> {
        Some(&self.template)
    }

    fn submit(&self, job: Job) -> Result<Events, Refusal> {
        let (sink, events) = Events::channel();
        let mut usage = Usage { prompt_tokens: job.prompt.len(), ..Usage::default() };
        if let Task::Generate(generate) = &job.task {
            for choice in 0..generate.choices {
                let mut decoder = self.tokenizer.decoder();
                let most = generate.max_tokens.unwrap_or(usize::MAX);
                for id in job.prompt.iter().take(most) {
                    let token = TokenScore { id: *id, ..TokenScore::default() };
                    sink.send(choice, Event::Token { token, text: decoder.push(*id).to_owned() });
                }
                usage.completion_tokens = job.prompt.len().min(most);
                sink.send(choice, Event::Finished { finish: Finish::Stop, usage });
            }
        } else {
            sink.send(0, Event::Embedding(vec![1.0; 8]));
            sink.send(0, Event::Finished { finish: Finish::Stop, usage });
        }
        Ok(events)
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}

struct Echoes;

impl Loader for Echoes {
    fn load(&self, _: &Served) -> Result<Arc<dyn Backend>, String> {
        // A tokenizer of single bytes.
        let printable = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff).map(char::from);
        let others = (0..68u32).filter_map(|number| char::from_u32(256 + number));
        let mut meta = Metadata::new();
        meta.insert("tokenizer.ggml.model", "gpt2");
        meta.insert("tokenizer.ggml.pre", "gpt-2");
        let tokens: Vec<String> = printable.chain(others).map(String::from).collect();
        meta.insert("tokenizer.ggml.tokens", tokens.iter().collect::<StringArray>());
        meta.insert("tokenizer.ggml.merges", StringArray::default());
        let tokenizer = Tokenizer::from_gguf(&meta).map_err(|error| error.to_string())?;
        let source = "{% for message in messages %}{{ message.content }}{% endfor %}";
        let template = ChatTemplate::new("echo", source, None, None).map_err(|error| error.to_string())?;
        let info = ModelInfo { context: 1 << 16, vocabulary: 256, embedding: 8, ..ModelInfo::default() };
        Ok(Arc::new(Echo { info, tokenizer, template }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).map_or(Ok(8080), |text| text.parse())?;
    let mut config = Config::default();
    config.hosts = ["localhost", "127.0.0.1"].map(String::from).to_vec();
    let model = Served { name: "echo".into(), ..Served::default() };
    let registry = Registry::new(vec![model], Arc::new(Echoes), &config)?;
    let app = Arc::new(App::new(config, registry));
    let listener = Listener::bind(&Address::Tcp("127.0.0.1".into(), port)).await?;
    println!("{}", listener.address());
    let for_ever = std::future::pending();
    Ok(serve(app, listener, ServeOptions::default(), for_ever).await?)
}
