//! `stairwell generate`: text from a model.

use super::{
    KvArgs, Outcome, ParallelArgs,
    model_args::{DeviceArgs, LoadArgs, TokenIds},
    rank_stats::ranks,
    stats::{print_figures, stats},
    terminal::{self, print, print_note},
    text::Text,
};
use clap::ArgGroup;
use serde_json::{Value, json};
use stairwell::{
    config::generation::{GenerationConfig, Knobs, SamplingDefaults},
    error::{Error, Result},
    generate::{GenerateParams, generate},
    machine::Machine,
    runner::{check_prompt, read_config},
    sampling::SamplingParams,
    tokenizer::ChatOptions,
    tokenizer::Tokenizer,
};
use std::{io, ops::ControlFlow, sync::Arc, time::Instant};

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
    top_k: Option<usize>,
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
fn parse_top_k(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(0),
        Ok(k) => usize::try_from(k).map_err(|_| format!("{k} is below 0; use 0 to keep all")),
        Err(_) => Err(format!("'{text}' is no whole number")),
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed =
        text.split_once('=').and_then(|(id, x)| Some((id.trim().parse().ok()?, x.trim().parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}' is no bias; write ID=X, such as 42=-100"))
}

impl SamplingArgs {
    fn knobs(&self, max_tokens: Option<u32>) -> Knobs {
        Knobs {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            max_tokens: max_tokens.map(|n| n as usize),
        }
    }

    fn params(&self, defaults: &SamplingDefaults) -> SamplingParams {
        SamplingParams {
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            logprobs: self.logprobs,
            ..defaults.params()
        }
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    on_device!(args.on, args.load, |machine| run_on(args, machine))
}

fn run_on<B: Machine>(args: Args, machine: B) -> Result<Outcome> {
    let Some(lead) = args.parallel.lead(machine, &args.load)? else { return Ok(Outcome::Good) };
    let directory = args.load.model.directory()?;
    let config = read_config(&directory)?;
    let generation = match directory.read("generation_config.json")? {
        Some(json) => Some(GenerationConfig::parse(&json, &directory.path("generation_config.json"))?),
        None => None,
    };
    let defaults = SamplingDefaults::resolve(&args.sampling.knobs(args.max_tokens), generation.as_ref())?;
    let params = GenerateParams {
        max_tokens: defaults.max_tokens.map_or(256, |n| n.value),
        sampling: args.sampling.params(&defaults),
        eos_token_id: match (args.sampling.ignore_eos, generation) {
            (true, _) => Vec::new(),
            (false, Some(g)) if !g.eos_token_id.is_empty() => g.eos_token_id,
            (false, _) => config.eos_token_id.clone(),
        },
    };
    params.sampling.validate(config.vocab_size)?;
    if let Some(note) = &defaults.note {
        print_note(note);
    }
    let (prompt, tokenizer) = read_prompt(&args)?;
    check_prompt(&config, &prompt)?;

    let start = Instant::now();
    let chunk = args.max_batched_tokens.map_or(prompt.len(), |n| prompt.len().min(n as usize));
    let kv = args.kv.options(&config, Some(chunk))?;
    let mut runner = lead.load(&args.load, prompt.len() + params.max_tokens, kv)?;
    runner.check_prompt(&prompt)?;
    if args.max_batched_tokens.is_some() && !runner.attention.remembers() {
        let message = "--max-batched-tokens: attention 'recompute' keeps no K and V, so every pass has the whole sequence; leave the flag out, or take \
                       --attention contiguous (--features step2)";
        return Err(Error::Usage(message.into()));
    }
    let load_seconds = start.elapsed().as_secs_f64();
    if !args.json {
        args.kv.note(&runner, None);
    }

    let after = if args.chat.is_some() { &[] } else { &prompt[..] };
    let mut text = Text::new(tokenizer.clone(), after, &args.sampling.stop);
    if let (Some(prompt), false, true) = (&args.prompt, args.json, terminal::colours(&io::stdout())) {
        print(&terminal::styled(prompt, "1", true))?;
    }
    let mut failed = None;
    let output = generate(&mut runner, &prompt, &params, &mut |sampled| {
        let (piece, flow) = text.push(sampled);
        match if args.json { Ok(()) } else { print(&piece) } {
            Ok(()) => flow,
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    let rest = text.finish();
    if !args.json {
        print(&rest)?;
    }

    let mut stats = stats(&runner, prompt.len(), &output, load_seconds);
    stats.extend(ranks(&mut runner)?);
    stats.extend(defaults.describe().into_iter().map(|(k, v)| (k.to_owned(), v.into())));
    if args.json {
        let mut object = json!({
            "prompt_ids": prompt,
            "output_ids": output.ids,
            "text": tokenizer.is_some().then_some(text.text),
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

/// The prompt's ids, and the tokenizer if there is one.
fn read_prompt(args: &Args) -> Result<(Vec<u32>, Option<Arc<Tokenizer>>)> {
    if let Some(TokenIds(ids)) = &args.prompt_ids {
        let tokenizer = args.load.model.tokenizer();
        if let (Err(error), false) = (&tokenizer, args.json) {
            print_note(&format!("output is printed as token ids: {error}"));
        }
        return Ok((ids.clone(), tokenizer.ok().map(Arc::new)));
    }
    let tokenizer = args.load.model.tokenizer()?;
    let ids = match (&args.prompt, &args.chat) {
        (Some(text), _) => tokenizer.encode_prompt(text)?,
        (None, chat) => {
            let message = |role: &str, text: &String| json!({"role": role, "content": text});
            let system = args.system.iter().map(|text| message("system", text));
            let messages: Vec<Value> = system.chain(chat.iter().map(|text| message("user", text))).collect();
            let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
            tokenizer.encode_chat(&messages, &options)?
        }
    };
    if ids.is_empty() {
        return Err(Error::Request("--prompt: the prompt is empty; give some text".into()));
    }
    Ok((ids, Some(Arc::new(tokenizer))))
}
