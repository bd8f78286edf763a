//! Without the feature `hub`, models are paths and names in the local cache.

use stairwell::checkpoint::{self, Directory};
use stairwell::demo;
use stairwell::error::Result;

pub use HubArgs as ModelHubArgs;

/// No flags.
#[derive(clap::Args, Clone)]
pub struct HubArgs {}

impl HubArgs {
    /// The directory that `--model` names.
    pub fn locate(&self, model: &str, revision: Option<&str>) -> Result<Directory> {
        Ok(checkpoint::locate(model, revision)?)
    }

    /// The same, or the demo.
    pub fn directory(&self, model: Option<&str>, revision: Option<&str>) -> Result<Directory> {
        model.map_or(Ok(demo::directory()), |model| self.locate(model, revision))
    }
}
