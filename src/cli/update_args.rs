//! Flags that update the weights of a running engine, as training with rollouts does.

use super::engine_args::{LocalEngine, WeightUpdate};
use super::model_args::{LoadArgs, inputs};
use clap::Args;
use stairwell::checkpoint::StateDict;
use stairwell::error::{Error, Result};
use stairwell::{engine::PauseMode, files::check_outputs};
use std::path::Path;

/// When to take other weights, and what becomes of those who are running.
#[derive(Args)]
#[command(next_help_heading = "Weights")]
pub struct UpdateArgs {
    /// Go on with the weights of this checkpoint, of the same model, after --update-after requests
    #[arg(long, value_name = "DIR", requires = "update_after")]
    update_weights: Option<String>,
    /// Update the weights when so many requests have finished
    #[arg(long, value_name = "N", requires = "update_weights")]
    update_after: Option<usize>,
    /// What becomes of the requests that are running then
    #[arg(long, value_enum, default_value_t = PauseMode::Drain, requires = "update_weights")]
    on_update: PauseMode,
}

impl UpdateArgs {
    /// Opens the other checkpoint, so that what is wrong with it is said before anything runs. `outputs` will be written.
    ///
    /// # Errors
    /// If it can't be opened, or an output is a file of it.
    pub fn open(&self, load: &LoadArgs, outputs: &[(&str, &Path)]) -> Result<Option<WeightUpdate>> {
        let (Some(model), Some(after)) = (&self.update_weights, self.update_after) else { return Ok(None) };
        let directory = load.model.hub.locate(model, None)?;
        let directory = if load.no_mmap { directory.unmapped() } else { directory };
        check_outputs(outputs, &inputs(&directory))?;
        let weights = StateDict::open(&directory)?;
        let model = model.clone();
        let mut mode = Some(self.on_update);
        let run = move |engine: &mut LocalEngine| {
            if let Some(mode) = mode.take() {
                engine.pause(mode);
            }
            if !engine.is_paused() {
                return Ok(false);
            }
            let refused = |e: Error| Error::Request(format!("--update-weights {model}: {e}"));
            let swapped = engine.swap_weights(weights.tensors()).map_err(refused);
            engine.resume();
            swapped.map(|()| true)
        };
        Ok(Some((after, Box::new(run))))
    }
}
