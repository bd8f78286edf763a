//! Wrong answers to the first exercise of chapter 3.

use stairwell::engine::{Policy, Queues};

/// New prompts first: every prompt that arrives stalls those who decode.
pub struct WaitingFirst;

impl Policy for WaitingFirst {
    fn name(&self) -> &'static str {
        "waiting first"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        let mut budget = queues.limits.max_batched_tokens;
        let room = queues.limits.max_running().saturating_sub(queues.running.len());
        let mut take = |left: usize| {
            let tokens = left.min(budget);
            budget -= tokens;
            tokens
        };
        let admitted: Vec<usize> = queues.waiting.iter().take(room).map(|&left| take(left)).collect();
        let running: Vec<usize> = queues.running.iter().map(|&left| take(left)).collect();
        running.into_iter().chain(admitted.into_iter().take_while(|&n| n > 0)).collect()
    }
}

/// A prompt runs whole or not at all: one that is longer than the budget never runs.
pub struct WholePrompts;

impl Policy for WholePrompts {
    fn name(&self) -> &'static str {
        "whole prompts"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        let mut budget = queues.limits.max_batched_tokens;
        let mut shares = Vec::new();
        for &left in queues.running.iter().chain(queues.waiting) {
            if left > budget || shares.len() == queues.limits.max_running() {
                break;
            }
            budget -= left;
            shares.push(left);
        }
        shares
    }
}

/// Everybody gets what he wants.
pub struct NoBudget;

impl Policy for NoBudget {
    fn name(&self) -> &'static str {
        "no budget"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        queues.running.iter().chain(queues.waiting).copied().take(queues.limits.max_running()).collect()
    }
}

/// More requests run than tokens, or than may.
pub struct NoLimit;

impl Policy for NoLimit {
    fn name(&self) -> &'static str {
        "no limit"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        let mut budget = queues.limits.max_batched_tokens;
        let take = |&left: &usize| {
            let tokens = left.min(budget);
            budget -= tokens;
            tokens
        };
        queues.running.iter().chain(queues.waiting).map(take).take_while(|&n| n > 0).collect()
    }
}
