//! `stairwell generate`: text from a model.

use super::{
    Outcome,
    model_args::{LoadArgs, TokenIds},
    terminal::{self, human_bytes, peak_memory, print, print_note},
};
use clap::ArgGroup;
use serde_json::{Map, Value, json};
use stairwell::{
    backend::cpu::Cpu,
    config::generation::{GenerationConfig, Knobs, SamplingDefaults},
    error::{Error, Result},
    generate::{GenerateParams, Generated, generate},
    runner::{ModelRunner, check_prompt, read_config},
    sampling::{Sampled, SamplingParams},
    tokenizer::{ChatOptions, Detokenizer, Emit, StopStrings, Tokenizer},
};
use std::{io, ops::ControlFlow, time::Instant};

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
    let mut runner = args.load.load(Some(prompt.len() + params.max_tokens), |_| ())?;
    let load_seconds = start.elapsed().as_secs_f64();

    let mut text = Text::new(&args, tokenizer.as_ref(), &prompt);
    if let (Some(prompt), false, true) = (&args.prompt, args.json, terminal::colours(&io::stdout())) {
        print(&terminal::styled(prompt, "1", true))?;
    }
    let mut failed = None;
    let output = generate(&mut runner, &prompt, &params, &mut |sampled| {
        text.push(sampled).unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        })
    })?;
    failed.map_or(Ok(()), Err)?;
    text.finish()?;

    let mut stats = stats(&runner, prompt.len(), &output, load_seconds);
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
fn read_prompt(args: &Args) -> Result<(Vec<u32>, Option<Tokenizer>)> {
    if let Some(TokenIds(ids)) = &args.prompt_ids {
        let tokenizer = args.load.model.tokenizer();
        if let (Err(error), false) = (&tokenizer, args.json) {
            print_note(&format!("output is printed as token ids: {error}"));
        }
        return Ok((ids.clone(), tokenizer.ok()));
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
    Ok((ids, Some(tokenizer)))
}

/// The output's text as it comes, cut at stop strings.
struct Text<'a> {
    tokenizer: Option<&'a Tokenizer>,
    detokenizer: Option<Detokenizer>,
    stop: StopStrings,
    stream: bool,
    text: String,
    logprobs: Vec<Value>,
}

impl<'a> Text<'a> {
    fn new(args: &Args, tokenizer: Option<&'a Tokenizer>, prompt: &[u32]) -> Text<'a> {
        let detokenizer = tokenizer.map(|t| match args.chat {
            Some(_) => Detokenizer::new(t, true),
            None => Detokenizer::after_prompt(t, prompt, true),
        });
        let stop = StopStrings::new(&args.sampling.stop);
        Text { tokenizer, detokenizer, stop, stream: !args.json, text: String::new(), logprobs: Vec::new() }
    }

    fn push(&mut self, sampled: &Sampled) -> Result<ControlFlow<()>> {
        if sampled.logprob.is_some() {
            self.logprobs.push(self.logprob_entry(sampled));
        }
        let Some(detokenizer) = &mut self.detokenizer else {
            self.emit(&format!("{} ", sampled.token))?;
            return Ok(ControlFlow::Continue(()));
        };
        match self.stop.push(&detokenizer.push(sampled.token)) {
            Emit::Text(text) => self.emit(&text).map(ControlFlow::Continue),
            Emit::Stopped { text, .. } => self.emit(&text).map(ControlFlow::Break),
        }
    }

    fn finish(&mut self) -> Result<()> {
        let rest = self.detokenizer.as_mut().map(Detokenizer::finish).unwrap_or_default();
        let (Emit::Text(text) | Emit::Stopped { text, .. }) = self.stop.push(&rest);
        self.emit(&text)?;
        let held = self.stop.finish();
        self.emit(&held)
    }

    fn emit(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        if self.stream && !text.is_empty() { print(text) } else { Ok(()) }
    }

    fn logprob_entry(&self, sampled: &Sampled) -> Value {
        let piece = |id: u32| self.tokenizer.and_then(|t| t.piece(id));
        let entry = |id: u32, logprob: f32| json!({"id": id, "token": piece(id), "logprob": logprob});
        let mut object = entry(sampled.token, sampled.logprob.unwrap_or(f32::NEG_INFINITY));
        object["top"] = sampled.top_logprobs.iter().map(|&(id, l)| entry(id, l)).collect();
        object
    }
}

fn stats(
    runner: &ModelRunner<Cpu>,
    prompt_tokens: usize,
    output: &Generated,
    load_seconds: f64,
) -> Map<String, Value> {
    let (n, total) = (output.ids.len(), output.total_time.as_secs_f64());
    let first = output.time_to_first_token.as_secs_f64();
    let per_token = (n > 1).then(|| (total - first) / (n - 1) as f64);
    let stats = json!({
        "device": "cpu",
        "attention": runner.attention.name(),
        "dtype": "f32",
        "isa": runner.backend.isa().name(),
        "threads": rayon::current_num_threads(),
        "model": runner.config.architecture.class_name(),
        "prompt_tokens": prompt_tokens,
        "output_tokens": n,
        "tokens_computed": runner.tokens_computed(),
        "load_seconds": load_seconds,
        "time_to_first_token_seconds": first,
        "time_per_output_token_seconds": per_token,
        "total_seconds": total,
        "output_tokens_per_second": n as f64 / total.max(1e-9),
        "peak_memory_bytes": peak_memory(),
        "seed": output.seed,
    });
    match stats {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One line for a person.
fn print_figures(stats: &Map<String, Value>) {
    let number = |key: &str| stats[key].as_f64().unwrap_or_default();
    let memory = stats["peak_memory_bytes"].as_u64().map_or("unknown".into(), human_bytes);
    let seed = stats["seed"].as_u64().map_or(String::new(), |seed| format!(", seed {seed}"));
    eprintln!(
        "{} prompt + {} output tokens, first after {:.2} s, {:.1} tok/s, {} attention, peak memory {memory}{seed}",
        stats["prompt_tokens"],
        stats["output_tokens"],
        number("time_to_first_token_seconds"),
        number("output_tokens_per_second"),
        stats["attention"].as_str().unwrap_or_default(),
    );
}
