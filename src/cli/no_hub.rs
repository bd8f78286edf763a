//! Without the feature `hub`, models are paths and names in the local cache.

use stairwell::checkpoint::{self, Directory};
use stairwell::error::Result;

/// No flags.
#[derive(clap::Args, Clone)]
pub struct HubArgs {}

impl HubArgs {
    /// The directory that `--model` names.
    pub fn locate(&self, model: &str, revision: Option<&str>) -> Result<Directory> {
        Ok(checkpoint::locate(model, revision)?)
    }
}
