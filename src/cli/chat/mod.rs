//! `stairwell chat`: a conversation in the terminal, over the components that `serve` has, without HTTP.
//!
//! ```text
//! line ─ command ─▶ Conversation ── messages ──▶ TokenizerManager ─▶ Scheduler ─▶ Detokenizer ── pieces of text ──▶ stdout
//!                   thread "terminal"                                main thread
//! ```
//! The whole conversation goes into every request. The prefix cache has K and V of all that was said before, so that only the new
//! message is computed; `/stats` shows how much that was.

mod answer;
mod command;
mod conversation;
mod input;
mod totals;

use super::{
    engine_args::{EngineArgs, LoadWorker},
    numbers::count,
    render_chat::TemplateArgs,
    terminal::print_note,
};
use conversation::{Conversation, message};
use input::Input;
use stairwell::{
    engine::Continuous,
    error::{Error, Result},
    request::{Checkpoint, Fields},
    server::{
        components::{Components, QueueOptions},
        status::{Phase, Status},
        tokenizer_manager::TokenizerManager,
    },
};
use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
    thread,
};

/// Requests that may wait: an answer that was interrupted may still be in the queue when the next one is asked for.
const QUEUED: usize = 16;

/// Talk to a model in the terminal
#[derive(clap::Args)]
#[command(
    // One conversation is one sequence. Log-probabilities and traces have no place in it.
    mut_arg("max_num_seqs", |arg| arg.default_value("1").hide(true)),
    mut_arg("logprobs", |arg| arg.hide(true)),
    mut_arg("trace", |arg| arg.hide(true)),
    after_help = "\
Ctrl-C ends an answer, Ctrl-D the program; /help lists the commands. A line that ends with \\ goes on with the next one.
If standard input is no terminal, each line is a message, and standard output has the answers alone.

Examples:
  stairwell chat
  stairwell chat --model Qwen3-0.6B --system \"Answer in one sentence.\" --enable-thinking false
  echo \"Tell me a story about a cat.\" | stairwell chat --temperature 0"
)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// A system message before the conversation
    #[arg(long, help_heading = "Conversation", value_name = "TEXT")]
    system: Option<String>,
    /// The longest answer in tokens [default: generation_config.json, or what the context has room for]
    #[arg(long, help_heading = "Conversation", value_name = "N", value_parser = count())]
    max_tokens: Option<usize>,
    /// Don't read and write the file of what was typed, $XDG_STATE_HOME/stairwell/chat_history
    #[arg(long, help_heading = "Conversation")]
    no_history: bool,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    sampling: Fields,
}

impl Args {
    /// Threads of this process's rank.
    pub fn threads(&self) -> usize {
        self.engine.parallel.threads()
    }

    /// What every request of the conversation has, besides its messages.
    fn fields(&self) -> Result<Fields> {
        let refuse = |message: &str| Err(Error::Usage(message.into()));
        if self.engine.trace().is_some() {
            return refuse("--trace: a conversation has no trace; `batch` writes one");
        }
        if self.sampling.logprobs.is_some() {
            return refuse("--logprobs: a conversation shows none; use `generate --json`");
        }
        Ok(Fields {
            tools: self.template.tools()?,
            chat_template_kwargs: Some(self.template.variables()?),
            max_tokens: self.max_tokens,
            ..self.sampling.clone()
        })
    }
}

/// Talks until the input ends.
pub fn run(args: Args) -> Result<ExitCode> {
    let fields = args.fields()?;
    match args.engine.lead()? {
        Some(lead) => run_with(args, fields, lead),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn run_with(args: Args, fields: Fields, lead: LoadWorker) -> Result<ExitCode> {
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let checkpoint = args.engine.load.checkpoint()?;
    try_first_message(&checkpoint, &fields, args.system.as_deref())?;
    let longest = checkpoint.config.context();
    let mut engine = args.engine.engine(lead, &checkpoint.config, longest, Box::new(Continuous))?;
    if interactive {
        args.engine.note(&mut engine, longest)?;
    }
    let status = Arc::<Status>::default();
    let queue = QueueOptions { max_queued_requests: QUEUED, request_timeout: None };
    let components = Components::start(checkpoint, engine, queue, status.clone(), Arc::default())?;
    status.enter(Phase::Serving);

    // The engine keeps this thread, which is one of those that compute; the person has the other.
    let manager = components.manager.clone();
    let talk = move || {
        let _end = EndOfEngine(manager.clone());
        let mut input = Input::open(interactive, !args.no_history)?;
        Conversation::new(manager.clone(), fields, args.system, interactive)?.run(&mut input)
    };
    let terminal = thread::Builder::new().name("terminal".into()).spawn(talk);
    let terminal = terminal.map_err(|error| Error::Device(format!("no thread for the terminal: {error}")))?;
    let served = components.run();
    let talked = terminal.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    served.and(talked)
}

/// Shuts the engine down when the conversation is over, however it ended.
struct EndOfEngine(Arc<TokenizerManager>);

impl Drop for EndOfEngine {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// Makes a request of the flags before the weights are read, so that a wrong flag, a model without a chat template, or one whose template
/// takes no system message, is an error now and not at the first answer.
fn try_first_message(checkpoint: &Checkpoint, fields: &Fields, system: Option<&str>) -> Result<()> {
    let system = system.map(|text| message("system", text));
    let messages = system.into_iter().chain([message("user", "Hi")]).collect();
    let request = checkpoint.resolve(Fields { messages: Some(messages), ..fields.clone() })?;
    if let Some(note) = &request.defaults.note {
        print_note(note);
    }
    Ok(())
}
