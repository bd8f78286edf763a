//! The exercises of chapter 8. Write the bodies that say `stub!`, then run
//!
//!     cargo test --features step8 --test exercise8            all of them
//!     cargo test --features step8 --test exercise8 frame      one of them
//!
//! Each has a contract, which says what is wrong. `--features serve` builds less, and does as well. Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet
#![allow(dead_code)] // fields that nobody reads yet
#![allow(clippy::ptr_arg)] // a buffer that does not grow yet

use crate::contracts::step8::{self, EventReader, Guard, Queue, Refused, StopFilter};
use crate::contracts::stub;
use stairwell::server::io_struct::{GroupId, Piece, SchedulerInput};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::Sender,
};

// 1. Events -------------------------------------------------------------------------------------------------------------

/// Writes one server-sent event to the end of `out`, whose data is `text` as it is, without JSON. `text` has no carriage return, since the format can't carry one.
pub fn my_frame(text: &str, out: &mut Vec<u8>) {
    stub!(
        "write each line of the text as a line of data, and end the event; read \"The format of a stream\" in steps/step8-serve/README.md"
    )
}

#[test]
fn frame() {
    step8::frame(my_frame);
}

pub struct MyReader {
    // Add what you need: what has come of a line, and what has come of an event.
}

impl MyReader {
    pub fn new() -> MyReader {
        MyReader {}
    }
}

impl EventReader for MyReader {
    /// Bytes come as the network cuts them: inside a character, or between CR and LF. A line ends with LF, CR, or both.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        stub!(
            "gather bytes to lines and lines to events; read \"The format of a stream\" in steps/step8-serve/README.md"
        )
    }
}

#[test]
fn reader() {
    step8::reader(MyReader::new);
}

// 2. A client leaves ----------------------------------------------------------------------------------------------------

pub struct MyGuard {
    group: GroupId,
    to_scheduler: Sender<SchedulerInput>,
    open: Arc<AtomicUsize>,
    // Add what you need.
}

impl Guard for MyGuard {
    fn new(
        group: GroupId,
        samples: usize,
        to_scheduler: Sender<SchedulerInput>,
        open: Arc<AtomicUsize>,
    ) -> MyGuard {
        stub!(
            "remember the request, and count it as open; read \"A client leaves\" in steps/step8-serve/README.md"
        )
    }

    fn saw(&mut self, pieces: &[Piece]) {
        stub!("see which samples have ended; read \"A client leaves\" in steps/step8-serve/README.md")
    }
}

// Also to be written: `impl Drop for MyGuard`. It sends `SchedulerInput::Abort(AbortReq::Group(…))`, if that is needed.

#[test]
fn guard() {
    step8::guard::<MyGuard>();
}

#[test]
fn guard_frees_blocks() {
    step8::guard_frees_blocks::<MyGuard>();
}

// 3. A bounded queue ----------------------------------------------------------------------------------------------------

pub struct MyQueue {
    places: usize,
    taken: AtomicUsize,
}

/// Gives the places back when it is dropped: that is yours to write, too.
pub struct MyPlace {
    queue: Arc<MyQueue>,
    samples: usize,
}

impl Queue for MyQueue {
    type Place = MyPlace;

    fn new(places: usize) -> MyQueue {
        MyQueue { places, taken: AtomicUsize::new(0) }
    }

    fn enter(self: &Arc<Self>, samples: usize) -> Result<MyPlace, Refused> {
        stub!(
            "take all places or none, in one step, and say when to come back; read \"Limits before work\" in steps/step8-serve/README.md"
        )
    }

    fn waiting(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

#[test]
fn queue() {
    step8::queue::<MyQueue>();
}

#[test]
fn queue_under_load() {
    step8::queue_under_load::<MyQueue>();
}

// 4. Stop strings across tokens -----------------------------------------------------------------------------------------

pub struct MyStops {
    stops: Vec<String>,
    held: String,
}

impl MyStops {
    pub fn new(stops: &[&str]) -> MyStops {
        MyStops { stops: stops.iter().map(|stop| (*stop).to_owned()).collect(), held: String::new() }
    }
}

impl StopFilter for MyStops {
    /// The first stop string to be complete ends the text; of two that end at one place, the longer one.
    fn push(&mut self, piece: &str) -> (String, bool) {
        stub!(
            "give out what can be in no stop string any more; read \"Text that is final\" in steps/step8-serve/README.md"
        )
    }

    fn finish(&mut self) -> String {
        stub!("give out what is held; read \"Text that is final\" in steps/step8-serve/README.md")
    }
}

#[test]
fn stops() {
    step8::stops(MyStops::new);
}

#[test]
fn stops_the_story() {
    step8::stops_the_demo_story(MyStops::new);
}
