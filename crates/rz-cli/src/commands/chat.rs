//! `rz chat`: a conversation. What was said stays in the model's cache from turn to turn.

mod input;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use rz_engine::{Finish, Request, Session};
use rz_kernels::Runtime;
use rz_model::CpuModel;
use rz_tokenizer::{ChatTemplate, Message, Tokenizer};
use serde_json::json;

use self::input::{Input, Line};
use crate::answer::{self, Answer, Circumstances};
use crate::args::{Common, Compute, Generate};
use crate::failure::Failure;
use crate::interrupt::{self, Listening};
use crate::terminal::{self, Out};
use crate::{model, prompt};

/// What `rz chat` takes.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Do not keep the lines that are typed for the next time
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    generate: Generate,
    #[command(flatten)]
    compute: Compute,
}

const HELP: &str = "\
/help          show this
/reset         forget the conversation; the system message stays
/system TEXT   set the system message and forget the conversation; without TEXT, take it away
/save FILE     write the conversation to a file: JSON if its name ends in .json, else text
/quit          leave, as Ctrl-D does
A line that ends with \\ goes on in the next one. \"\"\" begins and ends a text of several lines.
A message that begins with / is written //. Ctrl-C stops an answer.";

/// Talks until there is nothing more to say.
pub(crate) fn chat(args: &ChatArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let mut input = Input::new(!args.no_history)?;
    interrupt::install()?;
    args.generate.sampling.chain()?;
    let runtime = common.runtime()?;
    let file = model::open(common)?;
    let spec = model::describe(&file)?;
    let tokenizer = model::tokenizer(&file, &spec)?;
    let template = file.chat_template(&tokenizer)?.ok_or_else(|| {
        Failure::input(
            "the model has no chat template, so it cannot hold a conversation: use rz run, or another model",
        )
    })?;
    let context = model::context(common, &spec)?;
    let mut chat = Chat {
        args,
        runtime: &runtime,
        tokenizer: &tokenizer,
        template,
        seed: args.generate.seed.unwrap_or_else(prompt::random_seed),
        messages: Vec::new(),
        saved: Vec::new(),
        session: Session::new(
            model::load(
                &file,
                &spec,
                &runtime,
                args.compute.load_options(context),
                args.compute.placement(),
            )?
            .0,
        )
        .with_context(context),
    };
    chat.begin(args.generate.system.clone());
    // Also shows a template that does not take the system message, before anything is typed.
    if args.generate.system.is_some() {
        chat.rendered_with(&Message::new("user", "?"))?;
    }
    chat.talk(&mut input, out)
}

struct Chat<'a> {
    args: &'a ChatArgs,
    runtime: &'a Runtime,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    seed: u64,
    messages: Vec<Message>,
    /// Files that this conversation was saved to, and may be saved to again.
    saved: Vec<PathBuf>,
    session: Session<CpuModel>,
}

impl Chat<'_> {
    fn talk(&mut self, input: &mut Input, out: &Out) -> Result<(), Failure> {
        if input.is_terminal() {
            terminal::say("Ctrl-D or /quit leaves, /help shows what else there is.");
        }
        loop {
            let done = match input.next()? {
                Line::End => return Ok(()),
                Line::Message(text) => self.answer(text, out),
                Line::Command(text) => match self.obey(&text) {
                    Ok(true) => return Ok(()),
                    Ok(false) => Ok(()),
                    Err(failure) => Err(failure),
                },
            };
            // People read what went wrong and go on; a program wants to know.
            match done {
                Err(failure) if input.is_terminal() && failure.is_said() => {
                    failure.report();
                }
                other => other?,
            }
        }
    }

    /// Begins anew.
    fn begin(&mut self, system: Option<String>) {
        self.messages = system.into_iter().map(|text| Message::new("system", text)).collect();
    }

    /// Does what a line that begins with a slash says, and tells whether it was to leave.
    fn obey(&mut self, line: &str) -> Result<bool, Failure> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match name {
            "/quit" | "/exit" | "/bye" => return Ok(true),
            "/help" | "/?" => terminal::say(HELP),
            "/reset" => {
                let system = self.messages.first().filter(|message| message.role == "system");
                let system = system.map(|message| message.content.clone());
                self.begin(system);
                terminal::note("the conversation is forgotten");
            }
            "/system" => {
                self.begin((!rest.is_empty()).then(|| rest.to_owned()));
                let what = if rest.is_empty() { "taken away" } else { "set" };
                terminal::note(&format!("the system message is {what}, the conversation forgotten"));
            }
            "/save" if !rest.is_empty() => self.save(Path::new(rest))?,
            "/save" => return Err(Failure::input("/save needs the name of a file")),
            _ => {
                return Err(Failure::input(format!(
                    "there is no command {name}: /help lists them; a message that begins with / is written //"
                )));
            }
        }
        Ok(false)
    }

    fn rendered_with(&self, message: &Message) -> Result<String, Failure> {
        let messages: Vec<Message> = self.messages.iter().chain([message]).cloned().collect();
        Ok(self.template.render(&messages, true)?)
    }

    /// One turn. A message that cannot be answered is not part of the conversation.
    fn answer(&mut self, text: String, out: &Out) -> Result<(), Failure> {
        let message = Message::new("user", text);
        let ids = prompt::encode(self.tokenizer, &self.rendered_with(&message)?);
        if ids.len() >= self.session.context() {
            return Err(Failure::input(format!(
                "the conversation has {} tokens and the context holds {}: /reset forgets it, --ctx makes room",
                ids.len(),
                self.session.context()
            )));
        }
        let generate = &self.args.generate;
        let listening = Listening::start();
        let mut request = Request::new(&ids, generate.sampling.chain()?);
        request.seed = self.seed;
        request.max_tokens = generate.max_tokens;
        request.stop = &generate.stop;
        request.ignore_eos = generate.ignore_eos;
        request.decode.special = generate.special;
        request.cancel = Some(listening.flag());
        let answer = answer::generate(self.session.generate(self.tokenizer, request)?, Some(out))?;
        drop(listening);
        answer.note_end();
        if generate.stats {
            self.say_stats(&answer);
        }
        if answer.finish == Finish::Cancelled && answer.text.is_empty() {
            return Ok(());
        }
        self.messages.push(message);
        self.messages.push(Message::new("assistant", answer.text));
        Ok(())
    }

    fn say_stats(&self, answer: &Answer) {
        let by = model::computed_by(self.runtime);
        answer.say_stats(&Circumstances { started: None, loaded: None, by, seed: self.seed });
    }

    /// Writes the conversation. A file of somebody else is not replaced.
    fn save(&mut self, path: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::file("write", path, &error);
        let content = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            let messages = self.messages.iter();
            let messages =
                messages.map(|message| json!({ "role": message.role, "content": message.content }));
            format!("{:#}\n", serde_json::Value::from_iter(messages))
        } else {
            self.messages
                .iter()
                .map(|message| format!("{}:\n{}\n\n", message.role, message.content))
                .collect()
        };
        let known = fs::canonicalize(path).is_ok_and(|path| self.saved.contains(&path));
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(known)
            .create(known)
            .create_new(!known)
            .open(path)
            .map_err(failed)?;
        file.write_all(content.as_bytes()).map_err(failed)?;
        self.saved.extend(fs::canonicalize(path));
        terminal::note(&format!("saved to {}", path.display()));
        Ok(())
    }
}
