//! The place of `update_args.rs` in builds without step 4.

use super::{
    engine_args::WeightUpdate,
    model_args::{Input, LoadArgs},
};
use clap::Args;
use stairwell::error::Result;

/// Weights can be updated from step 4 on.
#[derive(Args)]
pub struct UpdateArgs {}

impl UpdateArgs {
    /// None.
    ///
    /// # Errors
    /// Never.
    pub fn inputs(&self, _: &LoadArgs) -> Result<Vec<Input>> {
        Ok(Vec::new())
    }

    /// None.
    ///
    /// # Errors
    /// Never.
    pub fn open(&self, _: &LoadArgs) -> Result<Option<WeightUpdate>> {
        Ok(None)
    }
}
