//! The place of `update_args.rs` in builds without step 4.

use super::engine_args::Update;
use clap::Args;
use stairwell::{error::Result, machine::Machine};

/// Weights can be updated from step 4 on.
#[derive(Args)]
pub struct NoUpdate {}

impl NoUpdate {
    /// None.
    ///
    /// # Errors
    /// Never.
    pub fn open<B: Machine>(&self) -> Result<Option<Update<B>>> {
        Ok(None)
    }
}
