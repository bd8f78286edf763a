//! Requests that are held: whoever reads the output is behind, so more of it is not computed yet. (Step 4.)
//!
//! ```text
//! running ──hold──▶ held ──unhold──▶ the front of the queue ──▶ running
//! ```
//! A held request gives up its seat and counts as running. It keeps K and V as long as nobody else needs their memory.

use super::{Engine, Pause, Request, RequestId, Scheduler, Worker};
use crate::{kv::Manager, trace::Phase};
use std::time::Instant;

impl Scheduler {
    /// Takes a request that decodes out of those that run. Others go on: samples of a prompt may wait for the first one to compute it.
    fn hold(&mut self, id: RequestId) -> bool {
        let decodes = |request: &Request| request.id == id && request.phase() == Phase::Decode;
        // New weights wait for all that have started, so these are not held up.
        let at = self.running.iter().position(decodes).filter(|_| self.pause != Pause::Draining);
        self.held.extend(at.map(|at| self.running.remove(at)));
        at.is_some()
    }

    fn unhold(&mut self, id: RequestId) -> bool {
        let at = self.held.iter().position(|request| request.id == id);
        at.map(|at| self.waiting.push_front(self.held.remove(at))).is_some()
    }

    /// Ends every hold.
    pub(super) fn unhold_all(&mut self) {
        self.held.drain(..).rev().for_each(|request| self.waiting.push_front(request));
    }
}

/// Takes the K and V of one of these requests, which don't run; false if none has any. The last one gives way first.
pub(super) fn give_way<'a>(
    mut idle: impl DoubleEndedIterator<Item = &'a mut Request>,
    kv: &mut dyn Manager,
) -> bool {
    let Some(request) = idle.rfind(|request| !kv.table(request.id).is_empty()) else { return false };
    let kept = kv.preempt(request.id);
    request.preempt(kept);
    true
}

impl<W: Worker> Engine<W> {
    /// Gives a request no more tokens until [`unhold`](Engine::unhold). False, and nothing happens, if no such request decodes, and while
    /// a pause waits for all requests to finish.
    pub fn hold(&mut self, id: RequestId) -> bool {
        self.scheduler.hold(id)
    }

    /// Ends a hold: the request gets the next free seat. False if it is not held.
    pub fn unhold(&mut self, id: RequestId) -> bool {
        self.scheduler.unhold(id)
    }

    /// When the first deadline of a held request passes. Nobody else's deadline needs a clock, since steps look at it.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.scheduler.held.iter().filter_map(|request| request.deadline).min()
    }
}
