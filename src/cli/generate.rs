//! `stairwell generate`: text from a model.

use super::auto_args::{AutoArgs, Step};
use super::model_args::{DeviceArgs, LoadArgs, TokenIds};
use super::render_chat::{TemplateArgs, messages_and_tools};
use super::terminal::{json_line, print, print_note};
use super::text::{Text, TokenLogprobs};
use super::{KvArgs, terminal};
use super::{numbers::count, one_request::lead, parallel_args::ParallelArgs, stats::Stats};
use clap::ArgGroup;
use serde::Serialize;
use serde_json::json;
use stairwell::error::{Error, Result};
use stairwell::machine::Machine;
use stairwell::request::{Checkpoint, Fields, Resolved};
use std::{io, path::PathBuf, time::Instant};

/// Generate text after a prompt, streaming it as it comes
#[derive(clap::Args)]
#[command(group = ArgGroup::new("input").required(true).args(["prompt", "prompt_ids", "chat", "messages"]))]
#[command(group = ArgGroup::new("conversation").args(["chat", "messages"]))]
#[command(mut_arg("tools", |arg| arg.requires("conversation")))]
#[command(mut_arg("enable_thinking", |arg| arg.requires("conversation")))]
#[command(mut_arg("chat_template_kwargs", |arg| arg.requires("conversation")))]
#[command(after_help = "\
Examples:
  stairwell generate --prompt \"Once upon a time\"
  stairwell generate --model Qwen3-0.6B --chat \"Why is the sky blue?\" --max-tokens 200
  stairwell generate --model Llama-3.2-1B --prompt \"The capital of France is\" --temperature 0 --json")]
pub struct Args {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    on: DeviceArgs,
    #[command(flatten)]
    kv: KvArgs,
    #[command(flatten)]
    auto: AutoArgs,
    #[command(flatten)]
    pub parallel: ParallelArgs,
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Token ids to continue, such as 5,17,3; needs no tokenizer
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    prompt_ids: Option<TokenIds>,
    /// A user's message, put into the model's chat template
    #[arg(long, value_name = "TEXT")]
    chat: Option<String>,
    /// A system message before it
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// JSON file of a chat's messages, as render-chat takes it
    #[arg(long, value_name = "FILE.json")]
    messages: Option<PathBuf>,
    #[command(flatten)]
    template: TemplateArgs,
    /// The longest output in tokens [default: generation_config.json, or 256]
    #[arg(long, value_name = "N", value_parser = count())]
    max_tokens: Option<usize>,
    /// Tokens of one pass; a longer prompt is computed in chunks [default: the whole prompt]
    #[arg(long, value_name = "N", value_parser = count())]
    max_batched_tokens: Option<usize>,
    #[command(flatten)]
    sampling: Fields,
    /// Print one JSON object instead of streaming text
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The request that the flags describe.
    fn fields(&self) -> Result<Fields> {
        let message = |role: &str, text: &String| json!({"role": role, "content": text});
        let system = self.system.iter().map(|text| message("system", text));
        let user = |text: &String| system.chain([message("user", text)]).collect();
        let (messages, tools) = match &self.messages {
            Some(file) => {
                let (messages, tools) = messages_and_tools(file)?;
                (Some(messages), tools)
            }
            None => (self.chat.as_ref().map(user), None),
        };
        Ok(Fields {
            prompt: self.prompt.clone(),
            messages,
            tools: self.template.tools()?.or(tools),
            chat_template_kwargs: Some(self.template.variables()?),
            prompt_ids: self.prompt_ids.clone().map(|TokenIds(ids)| ids),
            max_tokens: self.max_tokens,
            ..self.sampling.clone()
        })
    }
}

pub fn run(args: Args) -> Result<()> {
    on_device!(args.on, args.load, |machine| run_on(args, machine))
}

fn run_on<B: Machine>(args: Args, machine: B) -> Result<()> {
    let room = machine.room();
    let Some(lead) = lead(&args.parallel, machine, &args.load)? else { return Ok(()) };
    let checkpoint = args.load.checkpoint()?;
    let request = read_request(&args, &checkpoint)?;
    let prompt = &request.prompt;
    let start = Instant::now();
    let chunk = args.max_batched_tokens.map_or(prompt.len(), |n| prompt.len().min(n));
    let mut kv = args.kv.options(&checkpoint.config, Some(chunk))?;
    if args.max_batched_tokens.is_some() && kv.keeps_nothing() {
        let message = "--max-batched-tokens: attention 'recompute' keeps no K and V, so every pass has the whole sequence; leave the flag out, or take \
                       --attention contiguous (--features step2)";
        return Err(Error::Usage(message.into()));
    }
    let longest = prompt.len().saturating_add(request.params.max_tokens);
    let step = Step { tokens: chunk, sequences: 1, length: longest };
    args.auto.choose((&args.load, &args.parallel), &checkpoint.config, room, step, &mut kv)?;
    let mut model = lead.load(&args.load, &checkpoint.config, longest, kv)?;
    let load_seconds = start.elapsed().as_secs_f64();
    if !args.json {
        args.kv.note(&model.report()?.0, checkpoint.config.context(), None);
    }

    let mut text = Text::new(checkpoint.tokenizer().ok().cloned(), request.text_after(), &request.stop);
    if let (Some(prompt), false, true) = (&args.prompt, args.json, terminal::colours(&io::stdout())) {
        print(&terminal::styled(prompt, "1", true))?;
    }
    let stop = checkpoint.stop_matcher(&request);
    let output = model.generate(&request, stop, &mut |sampled| {
        let piece = text.push(sampled);
        if args.json { Ok(()) } else { print(&piece) }
    })?;
    let rest = text.finish();
    if !args.json {
        print(&rest)?;
    }

    let class = checkpoint.config.architecture.class_name();
    let sampling = request.defaults.describe().into_iter().collect();
    let stats = Stats::new(model.report()?, class, request.prompt.len(), &output, load_seconds, sampling);
    if !args.json {
        print("\n")?;
        stats.print();
        return Ok(());
    }
    print(&json_line(&Report {
        prompt_ids: &request.prompt,
        output_ids: &output.ids,
        text: checkpoint.tokenizer().is_ok().then_some(text.text),
        finish_reason: output.finish_reason.name(),
        stats,
        logprobs: args.sampling.logprobs.is_some().then_some(text.logprobs),
    }))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt_ids: &'a [u32],
    output_ids: &'a [u32],
    text: Option<String>,
    finish_reason: &'static str,
    stats: Stats,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenLogprobs>>,
}

/// The request, checked; notes say what the user may not expect.
fn read_request(args: &Args, checkpoint: &Checkpoint) -> Result<Resolved> {
    if args.prompt_ids.is_none() {
        checkpoint.tokenizer().map_err(|why| Error::Request(why.to_owned()))?;
    } else if let (Err(error), false) = (checkpoint.tokenizer(), args.json) {
        print_note(&format!("output is printed as token ids: {error}"));
    }
    let request = checkpoint.resolve(args.fields()?).map_err(|error| match error {
        Error::Request(_) if args.prompt.as_deref() == Some("") => {
            Error::Request("--prompt: the prompt is empty; give some text".into())
        }
        error => error,
    })?;
    if let Some(note) = &request.defaults.note {
        print_note(note);
    }
    Ok(request)
}
