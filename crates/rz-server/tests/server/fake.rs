//! A model that follows a script, a server over it, and ways to ask it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use rz_server::{
    App, Backend, Config, Event, EventSink, Events, Finish, Generate, Job, Loader, ModelInfo, Refusal,
    Registry, Served, SlotProblem, Stats, Task, TokenScore, Usage, router,
};
use rz_tokenizer::{ChatTemplate, Tokenizer};
use serde_json::Value;
use tower::ServiceExt;

/// A template that shows everything it is given.
pub const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{{ '\\n' }}{% endif %}\
    {% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}\
    {% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{{ '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// The same without tools, and with thoughts.
pub const THINKING: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]\
    {% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}";

/// What a model does with a job.
#[derive(Clone, Debug)]
pub enum Script {
    /// Says these pieces, each one token.
    Say(Vec<&'static str>),
    /// Says them and ends for this reason.
    End(Vec<&'static str>, Finish),
    /// Says them and then nothing more, for ever.
    Hang(Vec<&'static str>),
    /// Says them and fails.
    Fail(Vec<&'static str>),
    /// Does not take the job.
    Refuse(Refusal),
}

/// A model.
pub struct Fake {
    info: ModelInfo,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    script: Script,
    /// The jobs that it was given.
    pub jobs: Mutex<Vec<Job>>,
    /// Those that have no end.
    hanging: Mutex<Vec<EventSink>>,
    pub stats: Mutex<Stats>,
}

impl Fake {
    pub fn new(template: &str, script: Script) -> Fake {
        let metadata = rz_testkit::gguf::spm_tokenizer(600);
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        let template = (!template.is_empty())
            .then(|| ChatTemplate::new("test", template, Some("<s>"), Some("</s>")).unwrap());
        let info = ModelInfo {
            family: "llama".into(),
            quantization: "Q4_K".into(),
            context: 2048,
            trained_context: 4096,
            vocabulary: 600,
            embedding: 4,
            layers: 2,
            parallel: 4,
            parameters: 135_000_000,
            file_bytes: 1000,
            memory: 1000,
            path: "fake.gguf".into(),
        };
        let (jobs, hanging, stats) = (Mutex::default(), Mutex::default(), Mutex::default());
        Fake { info, tokenizer, template, script, jobs, hanging, stats }
    }

    /// The text of the prompt of a job.
    pub fn prompt(&self, index: usize) -> String {
        self.tokenizer.decode(&self.jobs.lock().unwrap()[index].prompt)
    }

    /// The generation that a job asked for.
    pub fn generate(&self, index: usize) -> Generate {
        match &self.jobs.lock().unwrap()[index].task {
            Task::Generate(generate) => (**generate).clone(),
            Task::Embed => panic!("a job to embed"),
        }
    }

    /// Whether nobody waits any more for jobs that have no end.
    pub fn all_cancelled(&self) -> bool {
        self.hanging.lock().unwrap().iter().all(EventSink::is_cancelled)
    }

    fn token(&self, text: &str) -> u32 {
        self.tokenizer.encode(text, rz_tokenizer::EncodeOptions::default()).last().copied().unwrap_or(5)
    }

    fn say(&self, choice: usize, pieces: &[&str], job: &Job, generate: &Generate, sink: &EventSink) -> usize {
        let most = generate.max_tokens.unwrap_or(usize::MAX);
        if choice == 0 && generate.prompt_logprobs.is_some() {
            let score = |id: &u32| TokenScore { id: *id, logprob: Some(-1.0), top: vec![] };
            let mut scores: Vec<_> = job.prompt.iter().map(score).collect();
            scores[0].logprob = None;
            sink.send(choice, Event::Prompt(scores));
        }
        for text in pieces.iter().take(most) {
            let id = self.token(text);
            let top = generate.logprobs.unwrap_or(0).min(2);
            let token = TokenScore {
                id,
                logprob: generate.logprobs.map(|_| -0.5),
                top: [(id, -0.5), (7, -1.5)][..top].to_vec(),
            };
            sink.send(choice, Event::Token { token, text: (*text).to_owned() });
        }
        pieces.len().min(most)
    }
}

impl Backend for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    fn submit(&self, job: Job) -> Result<Events, Refusal> {
        self.jobs.lock().unwrap().push(job.clone());
        let (sink, events) = Events::channel();
        let usage = Usage { prompt_tokens: job.prompt.len(), cached_tokens: 3, ..Usage::default() };
        if let Script::Refuse(refusal) = &self.script {
            return Err(refusal.clone());
        }
        let Task::Generate(generate) = &job.task else {
            if let Script::Hang(_) = self.script {
                self.hanging.lock().unwrap().push(sink);
                return Ok(events);
            }
            sink.send(0, Event::Embedding(vec![3.0, 0.0, 4.0, 0.0]));
            sink.send(0, Event::Finished { finish: Finish::Stop, usage });
            return Ok(events);
        };
        for choice in 0..generate.choices {
            let (pieces, finish) = match &self.script {
                Script::Say(pieces) => (pieces, Some(Finish::Stop)),
                Script::End(pieces, finish) => (pieces, Some(finish.clone())),
                Script::Hang(pieces) | Script::Fail(pieces) => (pieces, None),
                Script::Refuse(_) => unreachable!(),
            };
            let said = self.say(choice, pieces, &job, generate, &sink);
            let usage = Usage { completion_tokens: said, ..usage };
            match (&self.script, finish) {
                (_, Some(_)) if said < pieces.len() => {
                    sink.send(choice, Event::Finished { finish: Finish::Length, usage });
                }
                (_, Some(finish)) => {
                    sink.send(choice, Event::Finished { finish, usage });
                }
                (Script::Fail(_), _) => {
                    sink.send(choice, Event::Failed("the back end broke".into()));
                }
                _ => self.hanging.lock().unwrap().push(sink.clone()),
            }
        }
        Ok(events)
    }

    fn stats(&self) -> Stats {
        *self.stats.lock().unwrap()
    }

    // What is kept is the text; a file holds it in words.
    fn save_slot(&self, text: &[u32], path: &Path) -> Result<usize, SlotProblem> {
        if text.is_empty() {
            return Err(SlotProblem::Unusable("nothing is kept".into()));
        }
        let words: Vec<_> = text.iter().map(u32::to_string).collect();
        std::fs::write(path, words.join(" ")).map_err(|error| SlotProblem::Failed(error.to_string()))?;
        Ok(text.len())
    }

    fn restore_slot(&self, path: &Path) -> Result<Vec<u32>, SlotProblem> {
        let words = std::fs::read_to_string(path).map_err(|_| SlotProblem::Missing)?;
        let ids: Result<_, _> = words.split(' ').map(str::parse).collect();
        ids.map_err(|_| SlotProblem::Unusable("it is damaged".into()))
    }
}

/// Gives out one model, or fails.
pub struct FakeLoader {
    pub model: Option<Arc<Fake>>,
    pub loads: AtomicUsize,
    pub bytes: Option<u64>,
}

impl Loader for FakeLoader {
    fn load(&self, _model: &Served) -> Result<Arc<dyn Backend>, String> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        match &self.model {
            Some(model) => Ok(model.clone()),
            None => Err("the file is damaged".into()),
        }
    }

    fn memory(&self, _model: &Served) -> Option<u64> {
        self.bytes
    }
}

/// A server over one fake model.
pub struct Server {
    pub app: Arc<App>,
    pub model: Arc<Fake>,
    pub loader: Arc<FakeLoader>,
    pub routes: Router,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The values of a stream of server-sent events or lines.
    pub fn values(&self) -> Vec<Value> {
        let lines = self.text.lines().filter(|line| !line.is_empty() && !line.starts_with("event: "));
        let lines = lines.filter(|line| !line.starts_with(':') && *line != "data: [DONE]");
        lines.map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).unwrap()).collect()
    }
}

/// Two names and an alias for one model.
pub fn served() -> Vec<Served> {
    let served = |name: &str, aliases: &[&str]| Served {
        name: name.into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        reference: format!("hf:org/{name}/file.gguf"),
    };
    vec![served("tiny", &["gpt-4"]), served("org/other", &[])]
}

pub fn server_with(template: &str, script: Script, config: Config) -> Server {
    let model = Arc::new(Fake::new(template, script));
    let loader = Arc::new(FakeLoader { model: Some(model.clone()), loads: AtomicUsize::new(0), bytes: None });
    let registry = Registry::new(served(), loader.clone(), &config).unwrap();
    let app = Arc::new(App::new(config, registry));
    Server { routes: router(app.clone()), app, model, loader }
}

/// A server over a model that says these pieces.
pub fn server(pieces: &[&'static str]) -> Server {
    server_with(TEMPLATE, Script::Say(pieces.to_vec()), Config::default())
}

impl Server {
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    /// The beginning of an answer that streams; it ends when that is dropped.
    pub async fn stream(&self, path: &str, body: &Value) -> axum::response::Response {
        let request = Request::builder().method(Method::POST).uri(path).body(Body::from(body.to_string()));
        self.routes.clone().oneshot(request.unwrap()).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub async fn post_text(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request =
            Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    /// The JSON of a good answer.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }
}
