//! `stairwell generate`: text from a model.

use super::{
    KvArgs, Outcome, ParallelArgs, lead,
    model_args::{DeviceArgs, LoadArgs, TokenIds},
    stats::{print_figures, stats},
    terminal::{self, print, print_note},
    text::Text,
};
use clap::ArgGroup;
use serde_json::json;
use stairwell::{
    error::{Error, Result},
    machine::Machine,
    request::{Checkpoint, Fields, Logprobs, Resolved, Stop},
};
use std::{io, time::Instant};

/// Generate text after a prompt, streaming it as it comes
#[derive(clap::Args)]
#[command(group = ArgGroup::new("input").required(true).args(["prompt", "prompt_ids", "chat"]))]
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
    /// The longest output in tokens [default: generation_config.json, or 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Tokens of one pass; a longer prompt is computed in chunks [default: the whole prompt]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    max_batched_tokens: Option<u32>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object instead of streaming text
    #[arg(long)]
    json: bool,
}

/// Flags of the sampler. Defaults come from generation_config.json.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the K largest logits; 0 keeps all
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = parse_top_k)]
    top_k: Option<i64>,
    /// Keep the smallest set of tokens that reaches this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least this probable, relative to the best
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1 weakens tokens that were there before
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtracted once from tokens in the output
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.0,
        hide_default_value = true
    )]
    presence_penalty: f32,
    /// Subtracted from tokens for each time they are in the output
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.0,
        hide_default_value = true
    )]
    frequency_penalty: f32,
    /// Added to a token's logit: 42=-100,7=1.5
    #[arg(long, value_name = "ID=X", value_delimiter = ',', value_parser = parse_bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers; the same seed gives the same tokens
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Report the log-probabilities of each token and of the N best (with --json)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    logprobs: Option<usize>,
    /// End where this text appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Do not end at the end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
}

/// vLLM writes -1 for "keep all".
fn parse_top_k(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(0),
        Ok(k) if k >= 0 => Ok(k),
        Ok(k) => Err(format!("{k} is below 0; use 0 to keep all")),
        Err(_) => Err(format!("'{text}' is no whole number")),
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed =
        text.split_once('=').and_then(|(id, x)| Some((id.trim().parse().ok()?, x.trim().parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}' is no bias; write ID=X, such as 42=-100"))
}

impl Args {
    /// The flags as the fields of a request.
    fn fields(&self) -> Fields {
        let sampling = &self.sampling;
        let message = |role: &str, text: &String| json!({"role": role, "content": text});
        let system = self.system.iter().map(|text| message("system", text));
        let user = |text: &String| system.chain([message("user", text)]).collect();
        Fields {
            prompt: self.prompt.clone(),
            messages: self.chat.as_ref().map(user),
            prompt_ids: self.prompt_ids.clone().map(|TokenIds(ids)| ids),
            max_tokens: self.max_tokens.map(|n| n as usize),
            seed: sampling.seed,
            stop: Stop::Many(sampling.stop.clone()),
            ignore_eos: sampling.ignore_eos,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.clone(),
            logprobs: sampling.logprobs.map(Logprobs::Number),
            ..Fields::default()
        }
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    on_device!(args.on, args.load, |machine| run_on(args, machine))
}

fn run_on<B: Machine>(args: Args, machine: B) -> Result<Outcome> {
    let Some(lead) = lead(&args.parallel, machine, &args.load)? else { return Ok(Outcome::Good) };
    let checkpoint = args.load.model.checkpoint()?;
    let request = read_request(&args, &checkpoint)?;
    let (prompt, params) = (request.prompt.clone(), request.params.clone());

    let start = Instant::now();
    let chunk = args.max_batched_tokens.map_or(prompt.len(), |n| prompt.len().min(n as usize));
    let kv = args.kv.options(&checkpoint.config, Some(chunk))?;
    if args.max_batched_tokens.is_some() && kv.keeps_nothing() {
        let message = "--max-batched-tokens: attention 'recompute' keeps no K and V, so every pass has the whole sequence; leave the flag out, or take \
                       --attention contiguous (--features step2)";
        return Err(Error::Usage(message.into()));
    }
    let longest = prompt.len().saturating_add(params.max_tokens);
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
    let output = model.generate(prompt, params, stop, &mut |sampled| {
        let piece = text.push(sampled);
        if args.json { Ok(()) } else { print(&piece) }
    })?;
    let rest = text.finish();
    if !args.json {
        print(&rest)?;
    }

    let (report, ranks) = model.report()?;
    let class = checkpoint.config.architecture.class_name();
    let mut stats = stats(&report, class, request.prompt.len(), &output, load_seconds);
    stats.extend(ranks);
    stats.extend(request.defaults.describe().into_iter().map(|(k, v)| (k.to_owned(), v.into())));
    if args.json {
        let mut object = json!({
            "prompt_ids": *request.prompt,
            "output_ids": output.ids,
            "text": checkpoint.tokenizer().is_ok().then_some(text.text),
            "finish_reason": output.finish_reason.name(),
            "stats": stats,
        });
        if args.sampling.logprobs.is_some() {
            object["logprobs"] = text.logprobs.into();
        }
        print(&format!("{object}\n"))?;
    } else {
        print("\n")?;
        print_figures(&stats);
    }
    Ok(Outcome::Good)
}

/// The request, checked; notes say what the user may not expect.
fn read_request(args: &Args, checkpoint: &Checkpoint) -> Result<Resolved> {
    if args.prompt_ids.is_none() {
        args.load.model.tokenizer_of(checkpoint)?;
    } else if let (Err(error), false) = (checkpoint.tokenizer(), args.json) {
        print_note(&format!("output is printed as token ids: {error}"));
    }
    let request = checkpoint.resolve(args.fields()).map_err(|error| match error {
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
