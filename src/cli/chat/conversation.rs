//! The conversation: what was said, and what the next line makes of it.

use super::{
    super::terminal::{print, print_error, print_note},
    answer::{Answer, Trouble},
    command::{Line, help},
    input::{Event, Input},
    totals::Totals,
};
use serde_json::{Value, json};
use stairwell::{
    error::{Error, Result},
    request::Fields,
    server::{
        error::ApiError,
        io_struct::{GenerateReqInput, PromptInput},
        tokenizer_manager::TokenizerManager,
    },
};
use std::{
    fs::OpenOptions,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};
use tokio::{
    runtime::{Builder, Runtime},
    select,
    signal::unix::{Signal, SignalKind, signal},
};

/// What the shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 128 + 2;

/// A person and a model.
pub struct Conversation {
    manager: Arc<TokenizerManager>,
    runtime: Runtime,
    /// What every request has.
    fields: Fields,
    system: Option<String>,
    /// In turns the user's and the assistant's.
    messages: Vec<Value>,
    /// Tokens of the last prompt and its answer.
    held: usize,
    totals: Totals,
    interactive: bool,
    /// Whether a line was refused or got no answer.
    failed: bool,
}

/// How an answer ended.
enum Ended {
    Well,
    Interrupted,
    Badly(Trouble),
}

/// A message, as chat templates read it.
pub fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Hears Ctrl-C from now on.
fn interrupts() -> Result<Signal> {
    signal(SignalKind::interrupt())
        .map_err(|error| Error::Device(format!("the system's signals can't be heard: {error}")))
}

impl Conversation {
    /// A conversation in which nothing was said.
    ///
    /// # Errors
    /// A system that has no threads left.
    pub fn new(
        manager: Arc<TokenizerManager>,
        fields: Fields,
        system: Option<String>,
        interactive: bool,
    ) -> Result<Conversation> {
        // Its thread hears signals while this one waits for a line, so that an old Ctrl-C doesn't end the next answer.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime =
            runtime.map_err(|error| Error::Device(format!("no thread for the conversation: {error}")))?;
        Ok(Conversation {
            manager,
            runtime,
            fields,
            system,
            messages: Vec::new(),
            held: 0,
            totals: Totals::default(),
            interactive,
            failed: false,
        })
    }

    /// Talks until the input ends.
    ///
    /// # Errors
    /// A terminal, or standard input or output, that fails.
    pub fn run(mut self, input: &mut Input) -> Result<ExitCode> {
        let context = self.manager.limits.max_model_len;
        self.say(&format!(
            "{context} tokens of context; Ctrl-C ends an answer, Ctrl-D the program; /help lists the commands"
        ));
        loop {
            let line = match self.next(input)? {
                Event::Line(line) => line,
                Event::Cleared if self.interactive => continue,
                Event::Cleared => return Ok(ExitCode::from(INTERRUPTED)),
                Event::End => break,
            };
            let goes_on = match Line::parse(&line) {
                Ok(line) => self.obey(line)?,
                Err(sentence) => self.refuse(&sentence),
            };
            if !goes_on {
                break;
            }
        }
        // A person has seen what went wrong; a script sees the exit code.
        let bad = self.failed && !self.interactive;
        Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn next(&self, input: &mut Input) -> Result<Event> {
        let lines = match input {
            Input::Terminal(terminal) => return terminal.next(),
            Input::Lines(lines) => lines,
        };
        self.runtime.block_on(async {
            let mut interrupts = interrupts()?;
            select! {
                line = lines.recv() => match line.transpose() {
                    Ok(line) => Ok(line.map_or(Event::End, Event::Line)),
                    Err(error) => Err(Error::Io { path: "stdin".into(), error }),
                },
                _ = interrupts.recv() => Ok(Event::Cleared),
            }
        })
    }

    /// Does what a line asks for; false at the end of the conversation.
    fn obey(&mut self, line: Line) -> Result<bool> {
        match line {
            Line::Nothing => {}
            Line::Message(text) => return self.answer(&text),
            Line::Reset => {
                (self.messages, self.held) = (Vec::new(), 0);
                self.say("the conversation is forgotten");
            }
            Line::System(text) => {
                let which = if text.is_some() { "set" } else { "gone" };
                self.system = text;
                self.say(&format!("the system message is {which}"));
            }
            Line::Stats => {
                print(&self.totals.describe(self.held, self.manager.limits.max_model_len))?;
            }
            Line::Save { file, replace } => match self.save(&file, replace) {
                Ok(count) => self.say(&format!("'{file}' has {count} messages")),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.refuse(&format!("'{file}' exists; /save! {file} writes over it"));
                }
                Err(error) => _ = self.refuse(&format!("'{file}': {error}")),
            },
            Line::Help => print(&help())?,
            Line::Exit => return Ok(false),
        }
        Ok(true)
    }

    /// What was said, the system message first.
    fn all_messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|text| message("system", text));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Writes what was said; gives the number of messages.
    fn save(&self, file: &str, replace: bool) -> io::Result<usize> {
        let messages = self.all_messages();
        let json = serde_json::to_string_pretty(&messages).map_err(io::Error::other)? + "\n";
        let mut options = OpenOptions::new();
        match replace {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        options.write(true).open(file)?.write_all(json.as_bytes())?;
        Ok(messages.len())
    }

    /// Answers a message; false if the engine can't go on.
    fn answer(&mut self, text: &str) -> Result<bool> {
        self.messages.push(message("user", text));
        let request = GenerateReqInput {
            prompts: vec![PromptInput::Chat(self.all_messages())],
            fields: self.fields.clone(),
            ..GenerateReqInput::default()
        };
        let mut answer = Answer::default();
        let ended = self.runtime.block_on(async {
            let mut interrupts = interrupts()?;
            Ok::<Ended, Error>(select! {
                answered = answer.stream(&self.manager, request) => answered.map_or_else(Ended::Badly, |()| Ended::Well),
                _ = interrupts.recv() => Ended::Interrupted,
            })
        })?;
        let interrupted = matches!(ended, Ended::Interrupted);
        // A terminal shows ^C, also where there was no text yet.
        if answer.turn.first.is_some() || (interrupted && self.interactive) {
            print("\n")?;
        }
        let unanswered = interrupted && answer.text.is_empty();
        match ended {
            Ended::Badly(Trouble::Output(error)) => return Err(error),
            Ended::Badly(Trouble::Request(error)) => return Ok(self.fail(&error)),
            Ended::Well | Ended::Interrupted if unanswered => {
                self.messages.pop();
                self.say("there was no answer yet, and the message is taken back");
                return Ok(true);
            }
            Ended::Well | Ended::Interrupted => self.messages.push(message("assistant", &answer.text)),
        }
        self.held = answer.turn.prompt + answer.turn.output;
        self.totals.add(answer.turn);
        self.note_length(&answer);
        Ok(true)
    }

    /// Says why an answer was cut.
    fn note_length(&self, answer: &Answer) {
        if answer.end.as_ref().is_none_or(|end| end.reason != "length") {
            return;
        }
        let context = self.manager.limits.max_model_len;
        if self.held >= context {
            print_note(&format!("the context is full, {context} tokens: /reset begins a new conversation"));
        } else {
            let most = answer.turn.output;
            print_note(&format!("the answer was cut at {most} tokens; --max-tokens allows more"));
        }
    }

    /// Takes a message back that has no answer; false if there will be none any more.
    fn fail(&mut self, error: &ApiError) -> bool {
        self.messages.pop();
        let gone =
            error.status.is_server_error() && self.runtime.block_on(self.manager.internal_state()).is_err();
        if gone {
            // The thread of the engine says why.
            return false;
        }
        match error.code {
            Some("context_length_exceeded") => self.refuse(&format!(
                "the context is full: {}, or begin a new conversation with /reset",
                error.message
            )),
            _ => self.refuse(&error.message),
        }
    }

    /// Says what is wrong with a line; the conversation goes on.
    fn refuse(&mut self, sentence: &str) -> bool {
        self.failed = true;
        print_error(sentence);
        true
    }

    /// A remark for a person; scripts need none.
    fn say(&self, remark: &str) {
        if self.interactive {
            print_note(remark);
        }
    }
}
