//! The exercises of chapter 7 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step7-parallel"]
mod step7_parallel {
    pub mod exercise;
    pub mod solution;
    pub mod wrong;
}

use crate::contracts::step7;
use crate::rig::{self, Case, KEPT};
use step7_parallel::{
    exercise as stub,
    solution::{my_all_reduce, my_slice},
    wrong,
};

const SLICE: Option<&str> = Some("not written yet: say which rows and columns");
const RING: Option<&str> = Some("not written yet: add up chunk by chunk");

const STUBS: &[Case] = &[
    ("slice", || step7::slice(stub::my_slice), SLICE),
    ("the slices' story", || step7::slices_write_the_story(stub::my_slice), SLICE),
    ("ring", || step7::ring(stub::my_all_reduce), RING),
    ("the ring's story", || step7::ring_writes_the_story(stub::my_all_reduce), RING),
];

const SOLUTIONS: &[Case] = &[
    ("slice", || step7::slice(my_slice), KEPT),
    ("the slices' story", || step7::slices_write_the_story(my_slice), KEPT),
    ("ring", || step7::ring(my_all_reduce), KEPT),
    ("the ring's story", || step7::ring_writes_the_story(my_all_reduce), KEPT),
];

const WRONG: &[Case] = &[
    (
        "neighbours_slice",
        || step7::slice(wrong::neighbours_slice),
        Some("did you take the neighbour's part?"),
    ),
    (
        "neighbours_slice's story",
        || step7::slices_write_the_story(wrong::neighbours_slice),
        Some("the demo story differs"),
    ),
    ("cuts_inputs's story", || step7::slices_write_the_story(wrong::cuts_inputs), Some("and rank")),
    ("cuts_heads's story", || step7::slices_write_the_story(wrong::cuts_heads), Some("and rank")),
    ("rounds_down", || step7::slice(wrong::rounds_down), Some("did you round down?")),
    ("cuts_inputs", || step7::slice(wrong::cuts_inputs), Some("did you cut the inputs?")),
    ("cuts_heads", || step7::slice(wrong::cuts_heads), Some("did you cut a head?")),
    (
        "no_second_round",
        || step7::ring(wrong::no_second_round),
        Some("did you pass the sums on, all the way round?"),
    ),
    (
        "no_second_round's story",
        || step7::ring_writes_the_story(wrong::no_second_round),
        Some("the demo story differs"),
    ),
    (
        "sends_everything",
        || step7::ring(wrong::sends_everything),
        Some("did you send all numbers each time?"),
    ),
    ("adds_own_twice", || step7::ring(wrong::adds_own_twice), Some("did you add your own numbers twice?")),
    ("asks_the_line", || step7::ring(wrong::asks_the_line), Some("use send and recv")),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step7-parallel/exercise.rs"))
}
