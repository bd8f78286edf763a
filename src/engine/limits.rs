//! What an engine takes, and how long it waits: bounds on the queue, deadlines, and what happens when a step fails.

use super::{Engine, NewRequest, Update, Worker};
use crate::{
    error::{Error, Result},
    generate::FinishReason,
};
use std::{mem, time::Instant};

/// A bound on the requests that wait for a seat. Beyond it a request is refused, so that its client can go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests that wait, besides those that the next step has a seat for.
    pub requests: usize,
    /// Tokens of the prompts of all that wait.
    pub tokens: usize,
}

impl Default for QueueLimits {
    /// No bound.
    fn default() -> QueueLimits {
        QueueLimits { requests: usize::MAX, tokens: usize::MAX }
    }
}

/// Whether the engine can go on.
#[derive(Debug, Default)]
pub(super) enum Health {
    #[default]
    Good,
    /// The last step failed, and is tried once more.
    Failed,
    /// It failed twice, for this reason.
    Dead(String),
}

impl<W: Worker> Engine<W> {
    /// Whether it can still serve.
    ///
    /// # Errors
    /// [`Error::Dead`], with the reason, after a step failed twice.
    pub fn alive(&self) -> Result<()> {
        match &self.health {
            Health::Dead(why) => Err(Error::Dead(why.clone())),
            _ => Ok(()),
        }
    }

    /// Whether there is room in the queue.
    pub(super) fn check_queue(&self, new: &NewRequest) -> Result<()> {
        let QueueLimits { requests, tokens } = self.queue_limits;
        let (waiting, _) = self.queues();
        if waiting >= requests.saturating_add(self.scheduler.seats()) {
            let message = format!(
                "the queue is full: {waiting} requests wait, and it takes {requests}; try again later"
            );
            return Err(Error::Refused(message));
        }
        let held = self.scheduler.waiting.iter().map(|request| request.prompt_len).sum::<usize>();
        if held.saturating_add(new.prompt.len()) > tokens {
            let prompt = new.prompt.len();
            let message = format!(
                "the queue is full: it holds {held} tokens of {tokens}, and the prompt has {prompt}; try again later"
            );
            return Err(Error::Refused(message));
        }
        Ok(())
    }

    /// Ends the requests whose time is over.
    pub(super) fn end_late(&mut self, now: Instant) {
        for id in self.scheduler.late(now) {
            self.end(id, FinishReason::Abort, Some("its deadline has passed".into()));
        }
    }

    /// A pass failed: all its requests are computed again, from their first tokens. The second time in a row ends every request with the
    /// error, since nobody knows what state the device or the ranks are in.
    pub(super) fn failed(&mut self, error: Error) -> Result<Vec<Update>> {
        // A batch that attention refuses is wrong in the books, and would be refused again.
        let may_pass = !matches!(error, Error::Request(_) | Error::Limit(_));
        match self.health {
            Health::Good if may_pass => {
                self.health = Health::Failed;
                self.scheduler.recompute_all();
                self.step()
            }
            _ => {
                let why = error.to_string();
                for id in self.scheduler.all() {
                    self.end(id, FinishReason::Error, Some(why.clone()));
                }
                self.health = Health::Dead(why);
                Ok(mem::take(&mut self.updates))
            }
        }
    }
}
