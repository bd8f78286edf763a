//! The place of `update_args.rs` in builds without step 4.

use super::{engine_args::WeightUpdate, model_args::LoadArgs};
use clap::Args;
use stairwell::error::Result;
use std::path::Path;

/// Weights can be updated from step 4 on.
#[derive(Args)]
pub struct UpdateArgs {}

impl UpdateArgs {
    /// None.
    ///
    /// # Errors
    /// Never.
    pub fn open(&self, _: &LoadArgs, _: &[(&str, &Path)]) -> Result<Option<WeightUpdate>> {
        Ok(None)
    }
}
