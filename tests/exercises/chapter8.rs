//! The exercises of chapter 8 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step8-serve"]
mod step8_serve {
    pub mod exercise;
    pub mod solution;
    pub mod wrong;
}

use crate::contracts::step8;
use crate::rig::{self, Case, KEPT};
use step8_serve::{
    exercise as stub,
    solution::{self, my_frame},
    wrong,
};

const FRAME: Option<&str> = Some("not written yet: write each line of the text");
const READER: Option<&str> = Some("not written yet: gather bytes to lines");
const GUARD: Option<&str> = Some("not written yet: remember the request");
const QUEUE: Option<&str> = Some("not written yet: take all places or none");
const STOPS: Option<&str> = Some("not written yet: give out what can be in no stop string");

const STUBS: &[Case] = &[
    ("frame", || step8::frame(stub::my_frame), FRAME),
    ("reader", || step8::reader(stub::MyReader::new), READER),
    ("guard", step8::guard::<stub::MyGuard>, GUARD),
    ("the guard's blocks", step8::guard_frees_blocks::<stub::MyGuard>, GUARD),
    ("queue", step8::queue::<stub::MyQueue>, QUEUE),
    ("queue under load", step8::queue_under_load::<stub::MyQueue>, QUEUE),
    ("stops", || step8::stops(stub::MyStops::new), STOPS),
    ("the story's stop", || step8::stops_the_demo_story(stub::MyStops::new), STOPS),
];

const SOLUTIONS: &[Case] = &[
    ("frame", || step8::frame(my_frame), KEPT),
    ("reader", || step8::reader(solution::MyReader::new), KEPT),
    ("guard", step8::guard::<solution::MyGuard>, KEPT),
    ("the guard's blocks", step8::guard_frees_blocks::<solution::MyGuard>, KEPT),
    ("queue", step8::queue::<solution::MyQueue>, KEPT),
    ("queue under load", step8::queue_under_load::<solution::MyQueue>, KEPT),
    ("stops", || step8::stops(solution::MyStops::new), KEPT),
    ("the story's stop", || step8::stops_the_demo_story(solution::MyStops::new), KEPT),
];

const WRONG: &[Case] = &[
    (
        "one_data_line",
        || step8::frame(wrong::one_data_line),
        Some("did you give each line of the text its own `data: `?"),
    ),
    (
        "ends_with_one_newline",
        || step8::frame(wrong::ends_with_one_newline),
        Some("did you end it with an empty line"),
    ),
    ("by_lines", || step8::frame(wrong::by_lines), Some("did you lose the text's last line")),
    ("no_space", || step8::frame(wrong::no_space), Some("did you write a space after the colon?")),
    (
        "ForgetsBetweenChunks",
        || step8::reader(|| wrong::ForgetsBetweenChunks),
        Some("did you keep the beginning of an event for the next bytes?"),
    ),
    (
        "TextOfChunks",
        || step8::reader(wrong::TextOfChunks::default),
        Some("did you make text of bytes that end inside a character?"),
    ),
    (
        "TwoLineEnds",
        || step8::reader(wrong::TwoLineEnds::default),
        Some("did you take CR and LF for two line ends"),
    ),
    ("NeverAborts", step8::guard::<wrong::NeverAborts>, Some("did you write `Drop`?")),
    (
        "NeverAborts's blocks",
        step8::guard_frees_blocks::<wrong::NeverAborts>,
        Some("places of K and V in use"),
    ),
    ("AlwaysAborts", step8::guard::<wrong::AlwaysAborts>, Some("did you look whether samples are left?")),
    ("FirstEnd", step8::guard::<wrong::FirstEnd>, Some("did you take the first end for the end of all?")),
    ("Unwraps", step8::guard::<wrong::Unwraps>, Some("a scheduler")),
    ("StaysOpen", step8::guard::<wrong::StaysOpen>, Some("did you count it out?")),
    (
        "LooksThenCounts",
        step8::queue_under_load::<wrong::LooksThenCounts>,
        Some("did you look first and count later"),
    ),
    ("CountsRefused", step8::queue::<wrong::CountsRefused>, Some("did you count what you refused?")),
    ("CountsRefused under load", step8::queue_under_load::<wrong::CountsRefused>, Some("were places lost?")),
    ("OnePlaceEach", step8::queue::<wrong::OnePlaceEach>, Some("samples that wait after a request of 3")),
    ("RetryAtOnce", step8::queue::<wrong::RetryAtOnce>, Some("0 makes every client come back at once")),
    ("RetryForEver", step8::queue::<wrong::RetryForEver>, Some("would come back for ever")),
    (
        "GivesBackOne",
        step8::queue::<wrong::GivesBackOne>,
        Some("did you give back one place for each sample?"),
    ),
    (
        "EachPiece",
        || step8::stops(wrong::EachPiece::new),
        Some("did you give out what may still become a stop string"),
    ),
    (
        "EachPiece's story",
        || step8::stops_the_demo_story(wrong::EachPiece::new),
        Some("is spread over tokens of the demo story, and was not found"),
    ),
    (
        "HoldsTooMuch",
        || step8::stops(wrong::HoldsTooMuch::new),
        Some("did you hold back more than the longest end"),
    ),
    (
        "LosesTheEnd",
        || step8::stops(wrong::LosesTheEnd::new),
        Some("did you give out at the end what was held back?"),
    ),
    ("StartsAnew", || step8::stops(wrong::StartsAnew::new), Some("did you")),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step8-serve/exercise.rs"))
}
