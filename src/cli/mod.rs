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
            Some($machine) => $run,
        }
    };
}

#[cfg(not(feature = "step3"))]
mod alone;
#[cfg(feature = "step3")]
mod batch;
#[cfg(feature = "step3")]
mod batch_open;
#[cfg(feature = "step3")]
mod batch_request;
#[cfg(feature = "step3")]
mod batch_results;
#[cfg(feature = "step3")]
mod bench;
#[cfg(feature = "step3")]
mod bench_report;
#[cfg(feature = "step3")]
mod bench_run;
#[cfg(feature = "step3")]
mod bench_workload;
#[cfg(feature = "step4")]
mod blocks;
#[cfg(feature = "step3")]
mod engine_args;
#[cfg(feature = "step3")]
mod engine_stats;
mod generate;
#[cfg(feature = "step5")]
mod gpu_args;
mod inspect;
#[cfg(feature = "step5")]
mod kernels;
mod kv_args;
mod load;
mod logits;
mod model_args;
#[cfg(not(feature = "step5"))]
mod no_gpu;
#[cfg(not(feature = "step7"))]
mod no_parallel;
#[cfg(all(feature = "step3", not(feature = "step7")))]
mod no_ranks;
#[cfg(all(feature = "step3", not(feature = "step4")))]
mod no_update;
#[cfg(feature = "step3")]
mod one_request;
#[cfg(feature = "step4")]
mod paged_args;
#[cfg(feature = "step7")]
mod parallel_args;
#[cfg(feature = "step4")]
mod plan;
mod rank_stats;
mod render_chat;
mod stats;
mod terminal;
mod text;
#[cfg(feature = "step3")]
mod timeline;
mod tokenize;
#[cfg(feature = "step4")]
mod update_args;
mod verify;

// One request: by a loop of its own, or by an engine that has no other.
#[cfg(not(feature = "step3"))]
use alone::lead;
#[cfg(feature = "step3")]
use one_request::lead;
// The flags about K and V: each step's flatten those of the step before.
#[cfg(feature = "step5")]
use gpu_args::GpuArgs;
#[cfg(all(feature = "step3", not(feature = "step4")))]
use kv_args::KvArgs as SharedKvArgs;
#[cfg(not(feature = "step4"))]
use kv_args::KvArgs;
#[cfg(not(feature = "step5"))]
use no_gpu::NoGpu as GpuArgs;
#[cfg(not(feature = "step7"))]
use no_parallel::{NoParallel as ParallelArgs, finish, speaks};
#[cfg(all(feature = "step3", not(feature = "step4")))]
use no_update::NoUpdate as UpdateArgs;
#[cfg(feature = "step4")]
use paged_args::{PagedArgs as KvArgs, SharedArgs as SharedKvArgs};
#[cfg(feature = "step7")]
use parallel_args::{ParallelArgs, finish, speaks};
#[cfg(feature = "step4")]
use update_args::UpdateArgs;

use clap::{Parser, Subcommand, error::ErrorKind};
use stairwell::{backend::cpu::Isa, error::Error};
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
    Batch(batch::Args),
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
            _ => 0,
        }
    }
}

/// Commands that later steps bring.
const LATER: &[(&str, &str)] = &[
    ("batch", "step3"),
    ("bench", "step3"),
    ("timeline", "step3"),
    ("plan", "step4"),
    ("blocks", "step4"),
    ("kernels", "step5"),
];

/// `stairwell` alone: clap shows the help.
const MISSING_COMMAND: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// What a command says when it did its work and the answer is no (`verify`).
enum Outcome {
    Good,
    Bad,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && error.kind() != MISSING_COMMAND => return refuse(&error),
        Err(help) => help.exit(),
    };
    // The calling thread works too. Otherwise it would wake the others and sleep, some hundred times a step; on two cores that took
    // 5 % of a decode step at 0.6B shapes. (It fails only if there are threads already, and they will do.)
    let threads = cli.command.threads();
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global();
    if let Err(message) = Isa::asked() {
        terminal::print_error(&message);
        return ExitCode::from(2);
    }
    let outcome = run(cli.command);
    let well = outcome.is_ok();
    let code = match outcome {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    };
    finish(well);
    code
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    Ok(match command {
        Command::Generate(args) => generate::run(*args)?,
        Command::Logits(args) => logits::run(args)?,
        Command::Verify(args) => verify::run(args)?,
        Command::Inspect(args) => inspect::run(args)?,
        Command::Load(args) => load::run(args)?,
        Command::Tokenize(args) => tokenize::run(args)?,
        Command::RenderChat(args) => render_chat::run(args)?,
        #[cfg(feature = "step3")]
        Command::Batch(args) => batch::run(args)?,
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
    })
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
    if let Some((name, step)) = LATER.iter().find(|(name, _)| unknown && *name == asked) {
        terminal::print_error(&format!("`{name}` needs --features {step}; this build does not have it"));
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
