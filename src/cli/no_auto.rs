//! The place of `auto_args.rs` in builds without step 4, where nothing is planned.

use super::model_args::LoadArgs;
use super::parallel_args::ParallelArgs;
use clap::Args;
use stairwell::attention::KvOptions;
use stairwell::config::ModelConfig;
use stairwell::error::Result;

/// `--auto` comes with step 4.
#[derive(Args)]
pub struct AutoArgs {}

/// One step of a run, which nobody looks at here.
#[derive(Clone, Copy)]
#[allow(dead_code)]
pub struct Step {
    pub tokens: usize,
    pub sequences: usize,
    pub length: usize,
}

impl AutoArgs {
    /// Leaves everything as it is.
    pub fn choose(
        &self,
        _: (&LoadArgs, &ParallelArgs),
        _: &ModelConfig,
        _: u64,
        _: Step,
        _: &mut KvOptions,
    ) -> Result<()> {
        Ok(())
    }
}
