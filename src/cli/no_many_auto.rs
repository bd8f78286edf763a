//! The place of `auto_args.rs` in step 3, where nothing is planned.

use super::model_args::LoadArgs;
use super::parallel_args::ParallelArgs;
use clap::Args;
use stairwell::attention::KvOptions;
use stairwell::config::ModelConfig;
use stairwell::error::Result;
use stairwell::machine::Machine;

/// `--auto` comes with step 4.
#[derive(Args)]
pub struct ManyAutoArgs {}

impl ManyAutoArgs {
    /// Nobody asks.
    pub fn see<B: Machine>(&self, _: &B) {}

    /// What is asked for.
    pub fn choose(
        &self,
        _: (&LoadArgs, &ParallelArgs),
        _: &ModelConfig,
        [_, _, asked]: [usize; 3],
        _: &mut KvOptions,
    ) -> Result<usize> {
        Ok(asked)
    }

    /// Nothing was chosen.
    pub fn sequences(&self) -> Option<usize> {
        None
    }
}
