//! The command line: parse, call, print. Results go to stdout, everything else to stderr.

/// Runs `$run` with the machine that `$on` asks for as `$machine`.
#[cfg(not(feature = "step5"))]
macro_rules! on_device {
    ($on:expr, $load:expr, |$machine:ident| $run:expr) => {
        match $on.device {
            None | Some(stairwell::machine::DeviceKind::Cpu) => {
                let $machine = $load.cpu()?;
                $run
            }
            Some(other) => Err(other.needs_a_feature()),
        }
    };
}
/// The same where there are devices.
#[cfg(feature = "step5")]
macro_rules! on_device {
    ($on:expr, $load:expr, |$machine:ident| $run:expr) => {
        match stairwell::machine::open($on.device, $on.gpu.options(&$load))? {
            None => {
                let $machine = $load.cpu()?;
                $run
            }
            Some($machine) => {
                $on.gpu.check(&$load)?;
                $run
            }
        }
    };
}

#[cfg(feature = "step3")]
mod batch;
#[cfg(feature = "step3")]
mod bench;
#[cfg(feature = "step4")]
mod blocks;
#[cfg(feature = "serve")]
mod chat;
#[cfg(feature = "quantized")]
mod compare;
#[cfg(feature = "quantized")]
mod convert;
#[cfg(feature = "step3")]
mod divergence;
#[cfg(feature = "step3")]
mod engine_args;
#[cfg(feature = "step3")]
mod engine_stats;
mod generate;
#[cfg(feature = "hub")]
mod hub_cache;
mod inspect;
#[cfg(feature = "step5")]
mod kernels;
mod kv_args;
mod load;
mod logits;
mod model_args;
#[cfg(all(feature = "step3", not(feature = "step7")))]
mod no_ranks;
mod numbers;
#[cfg(feature = "step4")]
mod paged_args;
#[cfg(feature = "step4")]
mod plan;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "quantized")]
mod quantize;
mod render_chat;
#[cfg(feature = "serve")]
mod serve;
mod stats;
mod terminal;
mod text;
#[cfg(feature = "step3")]
mod timeline;
mod tokenize;
mod verify;
#[cfg(feature = "hub")]
mod versions;

// Modules that a later step puts another file in the place of.
#[cfg(feature = "step4")]
mod auto_args;
#[cfg(not(feature = "step4"))]
#[path = "no_auto.rs"]
mod auto_args;
#[cfg(feature = "step5")]
mod gpu_args;
#[cfg(not(feature = "step5"))]
#[path = "no_gpu.rs"]
mod gpu_args;
#[cfg(feature = "hub")]
mod hub_args;
#[cfg(not(feature = "hub"))]
#[path = "no_hub.rs"]
mod hub_args;
#[cfg(all(feature = "step3", not(feature = "step4")))]
mod no_many_auto;
#[cfg(feature = "step3")]
mod one_request;
#[cfg(not(feature = "step3"))]
#[path = "alone.rs"]
mod one_request;
#[cfg(feature = "step7")]
mod parallel_args;
#[cfg(not(feature = "step7"))]
#[path = "no_parallel.rs"]
mod parallel_args;
#[cfg(feature = "step4")]
mod update_args;
#[cfg(all(feature = "step3", not(feature = "step4")))]
#[path = "no_update.rs"]
mod update_args;

// `--auto` of an engine with many requests.
#[cfg(feature = "step4")]
use auto_args::ManyAutoArgs;
#[cfg(all(feature = "step3", not(feature = "step4")))]
use no_many_auto::ManyAutoArgs;

// The flags about K and V: each step's flatten those of the step before.
#[cfg(all(feature = "step3", not(feature = "step4")))]
use kv_args::KvArgs as SharedKvArgs;
#[cfg(not(feature = "step4"))]
use kv_args::KvArgs;
#[cfg(feature = "step4")]
use paged_args::{PagedArgs as KvArgs, SharedArgs as SharedKvArgs};

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use parallel_args::{finish, speaks};
use stairwell::error::{Error, Result};
use stairwell::{backend::cpu::Isa, machine::threads_asked};
use std::process::ExitCode;

/// A nano LLM inference engine: point it at a Hugging Face checkpoint directory and get tokens.
///
/// Without --model, commands use the demo model that is built into the program.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Logits(logits::Args),
    Verify(verify::Args),
    Inspect(inspect::Args),
    Load(load::Args),
    Tokenize(tokenize::Args),
    RenderChat(render_chat::Args),
    #[cfg(feature = "step3")]
    Batch(Box<batch::Args>),
    #[cfg(feature = "step3")]
    Bench(bench::Args),
    #[cfg(feature = "step3")]
    Timeline(timeline::Args),
    #[cfg(feature = "step4")]
    Plan(plan::Args),
    #[cfg(feature = "step4")]
    Blocks(blocks::Args),
    #[cfg(feature = "step5")]
    Kernels(kernels::Args),
    #[cfg(feature = "quantized")]
    Quantize(quantize::Args),
    #[cfg(feature = "quantized")]
    Convert(convert::Args),
    #[cfg(feature = "quantized")]
    Compare(compare::Args),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    #[cfg(feature = "serve")]
    Chat(Box<chat::Args>),
    #[cfg(feature = "hub")]
    Pull(pull::Args),
    #[cfg(feature = "hub")]
    Cache(hub_cache::Args),
    #[cfg(feature = "hub")]
    Versions(versions::Args),
}

impl Command {
    /// Threads to compute with; 0 for as many as there are cores.
    fn threads(&self) -> usize {
        match self {
            Command::Generate(args) => args.parallel.threads(),
            #[cfg(feature = "step3")]
            Command::Batch(args) => args.threads(),
            #[cfg(feature = "step3")]
            Command::Bench(args) => args.threads(),
            #[cfg(feature = "serve")]
            Command::Serve(args) => args.threads(),
            #[cfg(feature = "serve")]
            Command::Chat(args) => args.threads(),
            _ => 0,
        }
    }
}

/// Commands that later steps bring.
const LATER: [(&str, &[&str]); 6] = [
    ("step3", &["batch", "bench", "timeline"]),
    ("step4", &["plan", "blocks"]),
    ("step5", &["kernels"]),
    ("step9", &["quantize", "convert", "compare"]),
    ("serve", &["serve", "chat"]),
    ("hub", &["pull", "cache", "versions"]),
];

/// `stairwell` alone: clap shows the help.
const MISSING_COMMAND: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && error.kind() != MISSING_COMMAND => return refuse(&error),
        Err(help) => help.exit(),
    };
    // The calling thread works too. Otherwise it would wake the others and sleep, some hundred times a step; on two cores that took
    // 5 % of a decode step at 0.6B shapes. (It fails only if there are threads already, and they will do.)
    let threads = Some(cli.command.threads()).filter(|threads| *threads > 0).or_else(threads_asked);
    let _ =
        rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).use_current_thread().build_global();
    if let Err(message) = Isa::asked() {
        terminal::print_error(&message);
        return ExitCode::from(2);
    }
    let outcome = run(cli.command);
    let well = outcome.is_ok();
    let code = outcome.unwrap_or_else(|error| fail(&error));
    finish(well);
    code
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = with_negative_numbers(Cli::command()).try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

/// Lets every flag that has a value take a number below 0, so that its own message refuses the number, by the flag's name.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let allow = |arg: Arg| {
        let takes = !arg.is_positional() && arg.get_action().takes_values();
        if takes { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
}

/// Runs a command. `verify` and `batch` may do their work and still answer no, by their exit code.
fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Generate(args) => generate::run(*args)?,
        Command::Logits(args) => logits::run(args)?,
        Command::Verify(args) => return Ok(verify::run(args)?),
        Command::Inspect(args) => inspect::run(args)?,
        Command::Load(args) => load::run(args)?,
        Command::Tokenize(args) => tokenize::run(args)?,
        Command::RenderChat(args) => render_chat::run(args)?,
        #[cfg(feature = "step3")]
        Command::Batch(args) => return Ok(batch::run(*args)?),
        #[cfg(feature = "step3")]
        Command::Bench(args) => bench::run(args)?,
        #[cfg(feature = "step3")]
        Command::Timeline(args) => timeline::run(args)?,
        #[cfg(feature = "step4")]
        Command::Plan(args) => plan::run(args)?,
        #[cfg(feature = "step4")]
        Command::Blocks(args) => blocks::run(args)?,
        #[cfg(feature = "step5")]
        Command::Kernels(args) => kernels::run(args)?,
        #[cfg(feature = "quantized")]
        Command::Quantize(args) => quantize::run(args)?,
        #[cfg(feature = "quantized")]
        Command::Convert(args) => convert::run(args)?,
        #[cfg(feature = "quantized")]
        Command::Compare(args) => compare::run(args)?,
        #[cfg(feature = "serve")]
        Command::Serve(args) => return Ok(serve::run(*args)?),
        #[cfg(feature = "serve")]
        Command::Chat(args) => return Ok(chat::run(*args)?),
        #[cfg(feature = "hub")]
        Command::Pull(args) => pull::run(args)?,
        #[cfg(feature = "hub")]
        Command::Cache(args) => return Ok(hub_cache::run(args)?),
        #[cfg(feature = "hub")]
        Command::Versions(args) => versions::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what went wrong, if that is for this process to say.
fn fail(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Error>() {
        // `stairwell … | head`: nobody reads on, and that is no error.
        Some(Error::Io { error, .. }) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Some(error) if !speaks(error) => {}
        Some(error) => terminal::print_error(&terminal::in_flags(error)),
        None => terminal::print_error(&format!("{error:#}")),
    }
    ExitCode::FAILURE
}

/// A command line that can't be parsed: clap's message in one line.
fn refuse(error: &clap::Error) -> ExitCode {
    let unknown = error.kind() == ErrorKind::InvalidSubcommand;
    let asked = std::env::args().nth(1).unwrap_or_default();
    if let Some((step, _)) = LATER.iter().find(|(_, names)| unknown && names.contains(&&*asked)) {
        terminal::print_error(&format!("`{asked}` needs --features {step}; this build does not have it"));
        return ExitCode::from(2);
    }
    let text = error.to_string();
    let wanted = |line: &&str| !line.is_empty() && !line.starts_with("For more information");
    let lines: Vec<&str> =
        text.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:")).filter(wanted).collect();
    let message = lines.join(" ");
    terminal::print_error(&format!("{} (see --help)", message.trim_start_matches("error: ")));
    ExitCode::from(2)
}
