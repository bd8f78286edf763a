//! A pause, for new weights while requests run. (Step 4.)
//!
//! ```text
//! running ──pause(mode)──▶ draining ──step, step, …──▶ still ──swap_weights──▶ still ──resume──▶ running
//! ```
//! The caller makes the steps, so that it can take requests and abort them meanwhile: what arrives waits. The modes are those of SGLang's
//! `pause_generation`, and `Drain`, which is vLLM's `wait`.

use super::{Engine, Scheduler, Worker};
use crate::{
    error::{Error, Result},
    tensor::HostTensor,
};

/// What becomes of requests that have started, when the engine pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PauseMode {
    /// They finish first.
    #[value(help = "They finish with the old weights")]
    Drain,
    /// They end at once, with what they have.
    #[value(help = "They end at once, with what they have")]
    Abort,
    /// They wait, and K and V of all their tokens are computed again with the new weights.
    #[value(help = "They go on with the new weights, which compute all their tokens again")]
    Retract,
    /// They stand still, and go on with the K and V that they have.
    #[value(help = "They go on with the new weights, and with K and V of the old ones")]
    InPlace,
}

/// Whether requests run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pause {
    #[default]
    Off,
    /// Only those that have started.
    Draining,
    /// None.
    Still,
}

impl Scheduler {
    /// Waiting requests that may be admitted now, at most. One that had to give way is at the front of the queue.
    pub(super) fn seats(&self) -> usize {
        let free = self.limits.max_num_seqs.saturating_sub(self.running.len());
        match self.pause {
            Pause::Off => free,
            Pause::Draining => free.min(self.waiting.iter().take_while(|r| r.started()).count()),
            Pause::Still => 0,
        }
    }

    /// Whether nobody runs because of a pause.
    pub(super) fn stands_still(&self) -> bool {
        match self.pause {
            Pause::Off => false,
            Pause::Draining => self.started().is_empty(),
            Pause::Still => true,
        }
    }
}

impl<W: Worker> Engine<W> {
    // ANCHOR: update_weights
    /// Stops admitting requests. When [`is_paused`](Engine::is_paused) says so, after some steps, nobody runs.
    pub fn pause(&mut self, mode: PauseMode) {
        match mode {
            PauseMode::Drain => self.scheduler.unhold_all(),
            PauseMode::Abort => self.scheduler.started().into_iter().for_each(|id| _ = self.abort(id)),
            PauseMode::Retract => self.scheduler.recompute_all(),
            PauseMode::InPlace => {}
        }
        let drains = mode == PauseMode::Drain;
        self.scheduler.pause = if drains { Pause::Draining } else { Pause::Still };
    }

    /// Whether the pause has come: steps compute nothing, until [`resume`](Engine::resume).
    pub fn is_paused(&self) -> bool {
        self.scheduler.stands_still()
    }

    /// Replaces weights by their names in the checkpoint. What was cached is forgotten.
    ///
    /// # Errors
    /// [`Error::Refused`] while requests run, and those of the worker: then the weights are as they were.
    pub fn swap_weights(&mut self, tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Result<()> {
        if !self.is_paused() {
            let message = "requests run with the old weights; pause, and step until the engine is paused";
            return Err(Error::Refused(message.into()));
        }
        self.worker.update_weights(&mut tensors.into_iter())?;
        self.scheduler.kv.flush();
        self.weight_version += 1;
        Ok(())
    }

    /// Forgets what was cached for requests to come. False, and nothing happens, while there are requests.
    pub fn flush_cache(&mut self) -> bool {
        let idle = self.queues() == (0, 0);
        if idle {
            self.scheduler.kv.flush();
        }
        idle
    }

    /// Ends the pause.
    pub fn resume(&mut self) {
        self.scheduler.pause = Pause::Off;
    }
    // ANCHOR_END: update_weights
}
