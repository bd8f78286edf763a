//! The exercises of chapter 3. Write the bodies that say `stub!`, then run
//!
//!     cargo test --features step3 --test exercise3            all of them
//!     cargo test --features step3 --test exercise3 share      one of them
//!
//! Each exercise has a contract, which says what is wrong, and stories: the engine serves four requests of the demo model at once
//! with your piece in it, and each must read as it does alone. Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet
#![allow(dead_code)] // fields that nobody reads yet

use crate::contracts::step3;
use crate::contracts::stub;
use stairwell::engine::{KvManager, KvUsage, Policy, Queues, RequestId};

// 1. The budget ---------------------------------------------------------------------------------------------------------

pub struct MyPolicy;

impl Policy for MyPolicy {
    fn name(&self) -> &'static str {
        "mine"
    }

    /// `queues.running` and `queues.waiting` hold how many tokens each request has left to compute: 1 for one that decodes.
    /// Give a number to every running request, then to each waiting one that you admit, in their order. Together at most
    /// `queues.limits.max_batched_tokens`; at most `queues.limits.max_running()` requests. The last prompt may be cut.
    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        stub!(
            "divide the step's budget, running requests first; read \"The budget\" in steps/step3-scheduling/README.md"
        )
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

// 2. The slots ----------------------------------------------------------------------------------------------------------

pub struct MySlots {
    count: usize,
    max_tokens: usize,
    // Add what you need: which slots are free, who has which, how many tokens it uses.
}

impl MySlots {
    /// `count` slots, each for a sequence of `max_tokens`.
    pub fn new(count: usize, max_tokens: usize) -> MySlots {
        MySlots { count, max_tokens }
    }
}

impl KvManager for MySlots {
    /// A request has `tokens` tokens now. Give it a slot if it has none; false if none is free, or the tokens don't fit.
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        stub!(
            "give the request a slot that is free, once; read \"Slots\" in steps/step3-scheduling/README.md"
        )
    }

    /// The slot's number, alone in a slice.
    fn table(&self, id: RequestId) -> &[u32] {
        stub!("return the slot of this request; read \"Slots\" in steps/step3-scheduling/README.md")
    }

    /// The request is gone. It may never have had a slot.
    fn release(&mut self, id: RequestId) {
        stub!("take the slot back; read \"Slots\" in steps/step3-scheduling/README.md")
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokens that there is room for in all, that are reserved by slots in use, and that are really there.
    fn usage(&self) -> KvUsage {
        stub!("count what is reserved and what is used; read \"Slots\" in steps/step3-scheduling/README.md")
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
