//! The place of `parallel_args.rs`'s ranks in builds with an engine and without step 7.

use super::{engine_args::LoadWorker, model_args::LoadArgs, parallel_args::ParallelArgs};
use stairwell::{engine::LocalWorker, error::Result, machine::Machine};

impl ParallelArgs {
    /// The only rank leads.
    ///
    /// # Errors
    /// Never.
    pub fn lead<B: Machine>(&self, machine: B, _load: &LoadArgs) -> Result<Option<LoadWorker>> {
        Ok(Some(Box::new(move |load, config, longest, kv| {
            let runner = load.load(machine, Some(config.clone()), Some(longest), kv, |_| ())?;
            Ok(Box::new(LocalWorker { runner }))
        })))
    }
}
