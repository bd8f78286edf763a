//! The exercises of chapter 2 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step2-kv-cache"]
mod step2_kv_cache {
    pub mod exercise;
    pub mod solution;
    pub mod wrong_attend;
    pub mod wrong_ring;
    pub mod wrong_write;
}

use crate::contracts::step2;
use crate::rig::{self, Case, KEPT};
use step2_kv_cache::{
    exercise as stub, solution, wrong_attend as attend, wrong_ring as ring, wrong_write as write,
};

const STUBS: &[Case] = &[
    ("write", || step2::write(&stub::MyWrite), Some("not written yet: copy k and v")),
    ("write's story", || step2::tells_the_demo_story(stub::MyWrite), Some("not written yet: copy k and v")),
    ("attend", || step2::attend(&stub::MyAttend), Some("not written yet: write softmax(q · k · scale) v")),
    (
        "attend's story",
        || step2::tells_the_demo_story(stub::MyAttend),
        Some("not written yet: write softmax(q · k · scale) v"),
    ),
    ("ring", || step2::ring(&stub::MyRing), Some("not written yet: return the place of a position")),
    (
        "ring's story",
        || step2::tells_the_windowed_story(stub::MyRing),
        Some("not written yet: return the fewest places"),
    ),
];

const SOLUTIONS: &[Case] = &[
    ("write", || step2::write(&solution::MyWrite), KEPT),
    ("write's story", || step2::tells_the_demo_story(solution::MyWrite), KEPT),
    ("attend", || step2::attend(&solution::MyAttend), KEPT),
    ("attend's story", || step2::tells_the_demo_story(solution::MyAttend), KEPT),
    ("ring", || step2::ring(&solution::MyRing), KEPT),
    ("ring's story", || step2::tells_the_windowed_story(solution::MyRing), KEPT),
];

const STORY_DIFFERS: Option<&str> = Some("story differs at token");

const WRONG: &[Case] = &[
    (
        "OverwritesPosition0",
        || step2::write(&write::OverwritesPosition0),
        Some("did you overwrite position 0 every time?"),
    ),
    (
        "OverwritesPosition0's story",
        || step2::tells_the_demo_story(write::OverwritesPosition0),
        STORY_DIFFERS,
    ),
    ("WithoutWidth", || step2::write(&write::WithoutWidth), Some("it starts at place * k.len()")),
    ("ForgetsV", || step2::write(&write::ForgetsV), Some("did you leave out V?")),
    ("ForgetsV's story", || step2::tells_the_demo_story(write::ForgetsV), STORY_DIFFERS),
    ("ForgetsToScale", || step2::attend(&attend::ForgetsToScale), Some("did you forget to scale?")),
    ("ForgetsToScale's story", || step2::tells_the_demo_story(attend::ForgetsToScale), STORY_DIFFERS),
    (
        "WithoutItself",
        || step2::attend(&attend::WithoutItself),
        Some("did you attend over one position too few, without the token's own?"),
    ),
    (
        "SeesTheFuture",
        || step2::attend(&attend::SeesTheFuture),
        Some("did you attend over one position too many, the future?"),
    ),
    (
        "HeadOfItsOwn",
        || step2::attend(&attend::HeadOfItsOwn),
        Some("did you give each query head a KV head of its own?"),
    ),
    (
        "ReadsForEachHead",
        || step2::attend(&attend::ReadsForEachHead),
        Some("was read 2 times: did you read it again for each query head?"),
    ),
    ("ReadsForEachHead's story", || step2::tells_the_demo_story(attend::ReadsForEachHead), KEPT),
    ("WindowAlone", || step2::ring(&ring::WindowAlone), Some("is the ring as long as the window alone?")),
    ("WindowAlone's story", || step2::tells_the_windowed_story(ring::WindowAlone), STORY_DIFFERS),
    (
        "WithoutTheCap",
        || step2::ring(&ring::WithoutTheCap),
        Some("did you forget that no sequence is longer than max_tokens?"),
    ),
    ("StopsAtTheEnd", || step2::ring(&ring::StopsAtTheEnd), Some("did you stop at the last place?")),
    ("StopsAtTheEnd's story", || step2::tells_the_windowed_story(ring::StopsAtTheEnd), STORY_DIFFERS),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step2-kv-cache/exercise.rs"))
}
