//! New weights while requests run. (Step 4.)

use super::{Engine, Worker};
use crate::{error::Result, tensor::HostTensor};

/// What becomes of running requests when weights are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnUpdate {
    /// They finish first.
    #[value(help = "They finish with the old weights")]
    Drain,
    /// They end at once, with what they have.
    Abort,
}

impl<W: Worker> Engine<W> {
    // ANCHOR: update_weights
    /// Replaces weights by name, between two steps. Requests that have started finish first, or are aborted; those that have not are
    /// computed with the new weights. What was cached is forgotten.
    ///
    /// # Errors
    /// Those of the worker: then the weights are as they were. And those of the steps that finish the requests.
    pub fn update_weights(
        &mut self,
        tensors: impl IntoIterator<Item = (String, HostTensor)>,
        on_update: OnUpdate,
    ) -> Result<()> {
        let limits = self.limits();
        let drained = self.drain(on_update);
        self.scheduler.limits = limits;
        drained?;
        self.worker.update_weights(&mut tensors.into_iter())?;
        self.scheduler.kv.flush();
        self.weight_version += 1;
        Ok(())
    }

    fn drain(&mut self, on_update: OnUpdate) -> Result<()> {
        if on_update == OnUpdate::Abort {
            self.scheduler.started().into_iter().for_each(|id| _ = self.abort(id));
        }
        while !self.scheduler.started().is_empty() {
            // Seats for those that have started only: if one gave way, it is at the front of the queue.
            self.scheduler.limits.max_num_seqs = self.scheduler.started().len();
            let updates = self.step()?;
            self.updates.extend(updates); // the next step tells
        }
        Ok(())
    }
    // ANCHOR_END: update_weights
}
