//! What everybody may read at any time without asking the scheduler: whether the server serves, and how full it is.

use crate::{engine::EngineStats, kv::KvUsage};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// From the start to the end of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The port is bound, and the weights are being read.
    Loading,
    Serving,
    /// Requests that run finish; new ones are refused.
    Draining,
    /// The engine can't go on, and the process is about to end.
    Dead,
}

/// Gauges of a server, each by itself: two of them may be of two different steps.
#[derive(Debug, Default)]
pub struct Status {
    phase: AtomicU8,
    /// Samples on their way to the scheduler.
    in_channel: AtomicUsize,
    pub waiting: AtomicUsize,
    pub running: AtomicUsize,
    /// Tokens that have K and V in the cache's memory, of requests that run.
    pub kv_used: AtomicUsize,
    pub kv_total: AtomicUsize,
    pub preemptions: AtomicU64,
    pub weight_version: AtomicU64,
}

impl Status {
    /// Where the server is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Loading,
            1 => Phase::Serving,
            2 => Phase::Draining,
            _ => Phase::Dead,
        }
    }

    /// Goes on to a later phase; there is no way back.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Samples that wait, also those that the scheduler has not taken yet.
    pub fn queued(&self) -> usize {
        self.waiting.load(Relaxed) + self.in_channel.load(Relaxed)
    }

    // ANCHOR: enter_channel
    /// Whether so many samples more may be sent to the scheduler; if so, they count from now on.
    pub(super) fn enter_channel(&self, samples: usize, most: usize) -> bool {
        let room = |sent: usize| (sent == 0 || sent + samples <= most).then_some(sent + samples);
        self.in_channel.fetch_update(Relaxed, Relaxed, room).is_ok()
    }
    // ANCHOR_END: enter_channel

    /// The scheduler has taken them.
    pub(super) fn left_channel(&self, samples: usize) {
        self.in_channel.fetch_sub(samples, Relaxed);
    }

    /// What the engine says of itself after a step.
    pub(super) fn publish(
        &self,
        waiting: usize,
        running: usize,
        kv: KvUsage,
        stats: &EngineStats,
        weight_version: u64,
    ) {
        self.waiting.store(waiting, Relaxed);
        self.running.store(running, Relaxed);
        self.kv_used.store(kv.used, Relaxed);
        self.kv_total.store(kv.total, Relaxed);
        self.preemptions.store(stats.preemptions, Relaxed);
        self.weight_version.store(weight_version, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_go_one_way() {
        let status = Status::default();
        assert_eq!(status.phase(), Phase::Loading);
        for (enter, then) in [
            (Phase::Serving, Phase::Serving),
            (Phase::Draining, Phase::Draining),
            (Phase::Serving, Phase::Draining),
            (Phase::Dead, Phase::Dead),
        ] {
            status.enter(enter);
            assert_eq!(status.phase(), then);
        }
    }

    #[test]
    fn the_channel_is_bounded() {
        let status = Status::default();
        assert!(status.enter_channel(100, 10), "a single request is for the engine to judge");
        assert!(!status.enter_channel(1, 10));
        status.left_channel(100);
        assert!(status.enter_channel(6, 10) && status.enter_channel(4, 10) && !status.enter_channel(1, 10));
        assert_eq!(status.queued(), 10);
    }
}
