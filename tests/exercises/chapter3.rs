//! The exercises of chapter 3 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step3-scheduling"]
mod step3_scheduling {
    pub mod exercise;
    pub mod solution;
    pub mod wrong_share;
    pub mod wrong_slots;
}

use crate::contracts::step3;
use crate::rig::{self, Case, KEPT};
use step3_scheduling::{exercise as stub, solution, wrong_share as share, wrong_slots as slots};

const STUBS: &[Case] = &[
    ("share", || step3::share(&mut stub::MyPolicy), Some("not written yet: divide the step's budget")),
    (
        "share's stories",
        || step3::tells_the_demo_stories(stub::MyPolicy),
        Some("not written yet: divide the step's budget"),
    ),
    ("slots", || step3::slots(stub::MySlots::new), Some("not written yet: count what is reserved")),
    (
        "slots' stories",
        || step3::tells_the_demo_stories_in_slots(stub::MySlots::new),
        Some("not written yet: give the request a slot"),
    ),
];

const SOLUTIONS: &[Case] = &[
    ("share", || step3::share(&mut solution::MyPolicy), KEPT),
    ("share's stories", || step3::tells_the_demo_stories(solution::MyPolicy), KEPT),
    ("slots", || step3::slots(solution::MySlots::new), KEPT),
    ("slots' stories", || step3::tells_the_demo_stories_in_slots(solution::MySlots::new), KEPT),
];

const WRONG: &[Case] = &[
    (
        "WaitingFirst",
        || step3::share(&mut share::WaitingFirst),
        Some("Did you serve the waiting ones first?"),
    ),
    (
        "WholePrompts",
        || step3::share(&mut share::WholePrompts),
        Some("Did you leave a prompt out because it does not fit whole?"),
    ),
    (
        "WholePrompts's stories",
        || step3::tells_the_demo_stories(share::WholePrompts),
        Some("lets nobody go on"),
    ),
    ("NoBudget", || step3::share(&mut share::NoBudget), Some("Did you take it off after each share?")),
    ("NoBudget's stories", || step3::tells_the_demo_stories(share::NoBudget), Some("of a budget of 6")),
    ("NoLimit", || step3::share(&mut share::NoLimit), Some("Did you check max_running()?")),
    ("SharedSlots", || step3::slots(slots::SharedSlots::new), Some("two requests have the same slot")),
    (
        "SharedSlots's stories",
        || step3::tells_the_demo_stories_in_slots(slots::SharedSlots::new),
        Some("does not follow"),
    ),
    ("LeakedSlots", || step3::slots(slots::LeakedSlots::new), Some("did you forget to keep it?")),
    (
        "LeakedSlots's stories",
        || step3::tells_the_demo_stories_in_slots(slots::LeakedSlots::new),
        Some("lets nobody go on"),
    ),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step3-scheduling/exercise.rs"))
}
