//! `--auto`: what `stairwell plan` would choose for the memory that is free.

use super::model_args::LoadArgs;
use super::parallel_args::ParallelArgs;
use super::plan::weights_of;
use super::terminal::{human_bytes, print_note};
use clap::Args;
use stairwell::attention::{AttentionKind, KvDtype, KvOptions, KvPlan, MemoryPlan};
use stairwell::config::ModelConfig;
use stairwell::error::{Error, Result};
use stairwell::machine::Machine;
use std::sync::OnceLock;

/// The most requests at a time that are chosen; more rows of logits would take more memory than they give speed.
const MOST: usize = 256;

/// The length that is planned for where no request is known: `plan`'s.
const LENGTH: usize = 4096;

/// The flag of a command with one request.
#[derive(Args)]
#[command(next_help_heading = "Attention")]
pub struct AutoArgs {
    /// Choose KV dtype and longest sequence for the memory that is free, as `stairwell plan` does
    #[arg(long, conflicts_with_all = ["kv_dtype", "max_model_len", "kv_memory", "max_kv_tokens"])]
    auto: bool,
}

/// The flag of a command with many requests.
#[derive(Args)]
#[command(next_help_heading = "Attention")]
pub struct ManyAutoArgs {
    /// Choose KV dtype, longest sequence and requests at a time for the memory that is free, as `stairwell plan` does
    #[arg(long, conflicts_with_all = ["kv_dtype", "max_model_len", "kv_memory", "max_kv_tokens", "max_num_seqs"])]
    auto: bool,
    /// Bytes that the machine could give, once there is a machine.
    #[arg(skip)]
    room: OnceLock<u64>,
    /// Requests at a time, once they are chosen.
    #[arg(skip)]
    sequences: OnceLock<usize>,
}

/// One step of a run.
#[derive(Clone, Copy)]
pub struct Step {
    /// Its tokens at most.
    pub tokens: usize,
    /// Requests at a time that are possible.
    pub sequences: usize,
    /// Length of a sequence in tokens.
    pub length: usize,
}

impl AutoArgs {
    /// Chooses, if that is asked for.
    ///
    /// # Errors
    /// Flags that do not go together, and a model for which there is no memory.
    pub fn choose(
        &self,
        (load, parallel): (&LoadArgs, &ParallelArgs),
        config: &ModelConfig,
        room: u64,
        step: Step,
        kv: &mut KvOptions,
    ) -> Result<()> {
        if self.auto {
            check(parallel, kv)?;
            let chosen = plan(load, config, room, step)?;
            (kv.dtype, kv.max_model_len) = (chosen.dtype, Some(chosen.longest));
            print_note(&note(room, &chosen, None));
        }
        Ok(())
    }
}

impl ManyAutoArgs {
    /// Keeps what the machine could give.
    pub fn see<B: Machine>(&self, machine: &B) {
        let _ = self.room.set(machine.room());
    }

    /// Chooses, if that is asked for: K and V, and how many requests run at a time, which is `asked` otherwise. `longest` is the longest
    /// request, or the model's context.
    ///
    /// # Errors
    /// As [`AutoArgs::choose`].
    pub fn choose(
        &self,
        (load, parallel): (&LoadArgs, &ParallelArgs),
        config: &ModelConfig,
        [tokens, longest, asked]: [usize; 3],
        kv: &mut KvOptions,
    ) -> Result<usize> {
        if !self.auto {
            return Ok(asked);
        }
        check(parallel, kv)?;
        let room = self.room.get().copied().unwrap_or_default();
        let length = if longest < config.context() { longest } else { config.context().min(LENGTH) };
        let chosen = plan(load, config, room, Step { tokens, sequences: MOST, length })?;
        (kv.dtype, kv.max_model_len) = (chosen.dtype, Some(chosen.longest));
        let sequences = chosen.sequences.clamp(1, MOST.min(tokens));
        let _ = self.sequences.set(sequences);
        print_note(&note(room, &chosen, Some((sequences, length))));
        Ok(sequences)
    }

    /// The requests at a time that were chosen.
    pub fn sequences(&self) -> Option<usize> {
        self.sequences.get().copied()
    }
}

fn check(parallel: &ParallelArgs, kv: &KvOptions) -> Result<()> {
    let refuse = |why: &str| Err(Error::Usage(format!("--auto: {why}")));
    match kv.attention.unwrap_or(AttentionKind::BEST) {
        AttentionKind::Paged if parallel.ranks() == 1 => Ok(()),
        AttentionKind::Paged => refuse("it plans for one rank; leave out --tp and --pp, or --auto"),
        kind => refuse(&format!("it plans for attention 'paged', not '{}'; leave one flag out", kind.name())),
    }
}

/// The widest dtype in which a sequence of the wanted length fits, as [`super::plan`] chooses it; or the narrowest, in which fewer tokens do.
fn plan(load: &LoadArgs, config: &ModelConfig, room: u64, step: Step) -> Result<KvPlan> {
    let (model, weights) = weights_of(load, config)?;
    let rows = step.sequences.min(step.tokens);
    let memory = MemoryPlan {
        memory: room,
        weights: weights.held(),
        activations: config.activation_bytes(step.tokens, rows),
        step_tokens: step.tokens,
    };
    let shape = model.attention_shape();
    let length = step.length.clamp(1, config.context());
    let plans = KvDtype::ALL.map(|dtype| memory.kv(&shape, dtype, length));
    let chosen = plans.iter().find(|plan| plan.sequences > 0).unwrap_or(&plans[plans.len() - 1]);
    match chosen.longest {
        0 => Err(Error::Request(format!(
            "--auto: {} are free, and the weights take {}: there is no room for K and V; free some memory, or take a smaller model \
             (`stairwell plan --memory {room}` says what fits)",
            human_bytes(room),
            human_bytes(memory.weights)
        ))),
        _ => Ok(*chosen),
    }
}

fn note(room: u64, chosen: &KvPlan, many: Option<(usize, usize)>) -> String {
    let KvPlan { dtype, longest, .. } = chosen;
    let many = many.map_or(String::new(), |(sequences, length)| {
        format!(" --max-num-seqs {sequences} (sequences of {length} tokens)")
    });
    format!("--auto: {} are free: --kv-dtype {dtype} --max-model-len {longest}{many}", human_bytes(room))
}
