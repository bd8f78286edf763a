//! The place of `parallel_args.rs` in builds without step 7.

use super::model_args::LoadArgs;
use clap::Args;
use stairwell::{
    attention::KvOptions,
    error::{Error, Result},
    machine::Machine,
    runner::ModelRunner,
};

/// There are several ranks from step 7 on.
#[derive(Args)]
pub struct NoParallel {}

/// The only rank.
pub struct Lead<B>(B);

impl NoParallel {
    /// As many as there are cores.
    pub fn threads(&self) -> usize {
        0
    }

    /// The only rank leads.
    ///
    /// # Errors
    /// Never.
    pub fn lead<B: Machine>(&self, machine: B, _load: &LoadArgs) -> Result<Option<Lead<B>>> {
        Ok(Some(Lead(machine)))
    }
}

/// Whether it is for this process to say what went wrong: there is no other.
pub fn speaks(_error: &Error) -> bool {
    true
}

/// Ends what ranks have begun together: nothing.
pub fn finish(_well: bool) {}

impl<B: Machine> Lead<B> {
    /// Loads the model.
    ///
    /// # Errors
    /// Those of loading.
    pub fn load(self, load: &LoadArgs, max_length: usize, kv: KvOptions) -> Result<ModelRunner<B>> {
        load.load(self.0, Some(max_length), kv, |_| ())
    }
}
