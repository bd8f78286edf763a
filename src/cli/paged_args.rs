//! Flags of step 4: the pool of blocks, and how requests share it.

use super::terminal::{human_bytes, print_note};
use super::{engine_args::ManagerArgs, kv_args::KvArgs, numbers::count};
use clap::Args;
use stairwell::attention::{AttentionKind, KvBudget, KvOptions, KvSwap};
use stairwell::error::{Error, Result};
use stairwell::kv::{ManagerOptions, Preemption};
use stairwell::{config::ModelConfig, runner::RunnerReport};

/// How K and V are kept, in a pool of blocks or otherwise.
#[derive(Args)]
#[command(next_help_heading = "Attention")]
pub struct PagedArgs {
    #[command(flatten)]
    base: KvArgs,
    /// Memory for K and V, such as 2GiB [default: what the sequences need, or what fits into free memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "max_kv_tokens")]
    kv_memory: Option<u64>,
    /// The same in tokens, over all sequences
    #[arg(long, value_name = "N", value_parser = count())]
    max_kv_tokens: Option<usize>,
    /// Tokens of a block, a power of two [default: 16]
    #[arg(long, value_name = "N", value_parser = parse_block_size)]
    block_size: Option<usize>,
}

/// How requests share the pool.
#[derive(Args)]
#[command(next_help_heading = "Attention")]
pub struct SharedArgs {
    #[command(flatten)]
    pool: PagedArgs,
    /// Compute every prompt, also where an earlier request began the same way
    #[arg(long)]
    no_prefix_cache: bool,
    /// What happens to K and V of a request that must give way when the pool is full
    #[arg(long, value_enum, default_value_t = Preemption::Recompute)]
    preemption: Preemption,
    /// Host memory for requests that are swapped out [default: as much as the pool has]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    swap_memory: Option<u64>,
}

/// A number of bytes: 2GiB, 500MB, 1048576.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|e| format!("'{text}' is no size ({e}); write 2GiB or 500MB"))
}

fn parse_block_size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size: &usize| size.is_power_of_two() && *size <= 1 << 16);
    size.ok_or_else(|| format!("'{text}' is no power of two up to 65536; give 1, 2, 4, 8, 16, …"))
}

impl PagedArgs {
    /// The flags as options; `max_chunk` is the longest part of a sequence that a forward pass gets, if it is known.
    ///
    /// # Errors
    /// For what does not go together.
    pub fn options(&self, config: &ModelConfig, max_chunk: Option<usize>) -> Result<KvOptions> {
        let options = self.base.options(config, max_chunk)?;
        let bytes = self.kv_memory.map(|bytes| ("--kv-memory", KvBudget::Bytes(bytes)));
        let tokens = self.max_kv_tokens.map(|n| ("--max-kv-tokens", KvBudget::Tokens(n)));
        let budget = bytes.or(tokens);
        match options.attention.unwrap_or(AttentionKind::BEST) {
            AttentionKind::Recompute if budget.is_some() => {
                let flag = budget.map_or("", |(flag, _)| flag);
                let message = format!("{flag}: attention 'recompute' keeps no K and V; leave the flag out");
                Err(Error::Usage(message))
            }
            kind if kind != AttentionKind::Paged && self.block_size.is_some() => Err(Error::Usage(format!(
                "--block-size: attention '{}' has no blocks; leave the flag out",
                kind.name()
            ))),
            _ => Ok(KvOptions {
                budget: budget.map(|(_, budget)| budget),
                block_size: self.block_size,
                ..options
            }),
        }
    }

    /// Says what was reserved.
    pub fn note(&self, runner: &RunnerReport, context: usize, wanted: Option<usize>) {
        let memory = runner.memory;
        let Some(pool) = memory.pool else { return self.base.note(runner, context, wanted) };
        self.base.note_scales(runner);
        let source = match (self.kv_memory, self.max_kv_tokens) {
            (Some(_), _) => " (--kv-memory)",
            (_, Some(_)) => " (--max-kv-tokens)",
            _ => "",
        };
        let (size, blocks, length) = (pool.block_size, pool.blocks, runner.max_model_len);
        let (tokens, at_a_time) = (size * blocks, blocks / length.div_ceil(size).max(1));
        let concurrent = match at_a_time {
            0 => format!("less than one sequence of {length} tokens"),
            1 => format!("one sequence of {length} tokens"),
            n => format!("{n} sequences of {length} tokens at a time, or more shorter ones"),
        };
        print_note(&format!(
            "KV cache{source}: {blocks} blocks of {size} tokens, {tokens} tokens, {}: {concurrent} ({})",
            human_bytes(memory.reserved_bytes),
            self.base.source_of_length(length, context, wanted),
        ));
    }
}

impl SharedArgs {
    /// As [`PagedArgs::options`], with memory for those that are swapped out.
    ///
    /// # Errors
    /// For what does not go together.
    pub fn options(&self, config: &ModelConfig, max_chunk: Option<usize>) -> Result<KvOptions> {
        let mut options = self.pool.options(config, max_chunk)?;
        let paged = options.attention.unwrap_or(AttentionKind::BEST) == AttentionKind::Paged;
        let asked = match () {
            () if self.no_prefix_cache => Some("--no-prefix-cache"),
            () if self.preemption == Preemption::Swap => Some("--preemption swap"),
            () if self.swap_memory.is_some() => Some("--swap-memory"),
            () => None,
        };
        if let Some(flag) = asked.filter(|_| !paged) {
            let message = format!("{flag}: only attention 'paged' shares blocks; leave the flag out");
            return Err(Error::Usage(message));
        }
        options.swap = match self.preemption {
            Preemption::Recompute => KvSwap::None,
            Preemption::Swap => self.swap_memory.map_or(KvSwap::AsThePool, KvSwap::Bytes),
        };
        Ok(options)
    }

    /// Says what was reserved.
    pub fn note(&self, runner: &RunnerReport, context: usize, wanted: Option<usize>) {
        self.pool.note(runner, context, wanted);
    }
}

impl ManagerArgs for SharedArgs {
    fn manager(&self) -> ManagerOptions {
        ManagerOptions { prefix_cache: !self.no_prefix_cache, preemption: self.preemption }
    }
}
