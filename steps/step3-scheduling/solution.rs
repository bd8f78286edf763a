//! Answers to the exercises of chapter 3: `cargo test --features step3 --test solution3`.

use crate::contracts::step3;
use stairwell::engine::{KvManager, KvUsage, Policy, Queues, RequestId};
use std::collections::HashMap;

pub struct MyPolicy;

impl Policy for MyPolicy {
    fn name(&self) -> &'static str {
        "mine"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        let mut budget = queues.limits.max_batched_tokens;
        let mut shares = Vec::new();
        for &left in queues.running {
            let tokens = left.min(budget);
            budget -= tokens;
            shares.push(tokens);
        }
        for &left in queues.waiting {
            if budget == 0 || shares.len() == queues.limits.max_running() {
                break;
            }
            let tokens = left.min(budget);
            budget -= tokens;
            shares.push(tokens);
        }
        shares
    }
}

#[test]
fn share() {
    step3::share(&mut MyPolicy);
}

#[test]
fn share_tells_the_stories() {
    step3::tells_the_demo_stories(MyPolicy);
}

pub struct MySlots {
    max_tokens: usize,
    count: usize,
    free: Vec<u32>,
    /// Slot and tokens.
    held: HashMap<RequestId, ([u32; 1], usize)>,
}

impl MySlots {
    pub fn new(count: usize, max_tokens: usize) -> MySlots {
        MySlots { max_tokens, count, free: (0..count as u32).collect(), held: HashMap::new() }
    }
}

impl KvManager for MySlots {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        if tokens > self.max_tokens {
            return false;
        }
        if !self.held.contains_key(&id) {
            let Some(slot) = self.free.pop() else { return false };
            self.held.insert(id, ([slot], 0));
        }
        self.held.entry(id).and_modify(|(_, used)| *used = tokens);
        true
    }

    fn table(&self, id: RequestId) -> &[u32] {
        &self.held[&id].0
    }

    fn release(&mut self, id: RequestId) {
        if let Some(([slot], _)) = self.held.remove(&id) {
            self.free.push(slot);
        }
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn usage(&self) -> KvUsage {
        KvUsage {
            total: self.count * self.max_tokens,
            reserved: self.held.len() * self.max_tokens,
            used: self.held.values().map(|(_, tokens)| tokens).sum(),
        }
    }
}

#[test]
fn slots() {
    step3::slots(MySlots::new);
}

#[test]
fn slots_tell_the_stories() {
    step3::tells_the_demo_stories_in_slots(MySlots::new);
}
