//! Answers to exercise.rs: `cargo test --features step8 --test solution8`.

use crate::contracts::step8::{self, EventReader, Guard, Queue, Refused, StopFilter};
use stairwell::server::io_struct::{AbortReq, GroupId, Piece, SchedulerInput};
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::Sender,
    },
};

// 1. Events -------------------------------------------------------------------------------------------------------------

pub fn my_frame(text: &str, out: &mut Vec<u8>) {
    // Not `lines()`: that would lose an empty line at the end.
    for line in text.split('\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[test]
fn frame() {
    step8::frame(my_frame);
}

#[derive(Default)]
pub struct MyReader {
    /// Bytes of a line that has not ended.
    line: Vec<u8>,
    /// Lines of data of an event that has not ended.
    data: Option<String>,
    /// The last byte was CR, so an LF now ends no other line.
    after_cr: bool,
}

impl MyReader {
    pub fn new() -> MyReader {
        MyReader::default()
    }

    /// Takes the line that has ended; gives the event that ends with it.
    fn end_line(&mut self) -> Option<String> {
        // No character of a whole line is cut in two: CR and LF are no part of one in UTF-8.
        let line = String::from_utf8_lossy(&mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            return self.data.take();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => *data += &format!("\n{value}"),
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

impl EventReader for MyReader {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half = mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                _ if second_half => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                byte => self.line.push(byte),
            }
        }
        events
    }
}

#[test]
fn reader() {
    step8::reader(MyReader::new);
}

// 2. A client leaves ----------------------------------------------------------------------------------------------------

pub struct MyGuard {
    group: GroupId,
    /// Samples without an end.
    left: usize,
    to_scheduler: Sender<SchedulerInput>,
    open: Arc<AtomicUsize>,
}

impl Guard for MyGuard {
    fn new(
        group: GroupId,
        samples: usize,
        to_scheduler: Sender<SchedulerInput>,
        open: Arc<AtomicUsize>,
    ) -> MyGuard {
        open.fetch_add(1, Relaxed);
        MyGuard { group, left: samples, to_scheduler, open }
    }

    fn saw(&mut self, pieces: &[Piece]) {
        self.left -= pieces.iter().filter(|piece| piece.end.is_some()).count();
    }
}

impl Drop for MyGuard {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        if self.left > 0 {
            // The scheduler may be gone: then there is nothing to take back.
            _ = self.to_scheduler.send(SchedulerInput::Abort(AbortReq::Group(self.group)));
        }
    }
}

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
        if samples > self.places {
            return Err(Refused::TooLarge);
        }
        // Looks and counts in one step: what somebody else counts in between is seen.
        let room = |taken: usize| (taken + samples <= self.places).then_some(taken + samples);
        match self.taken.fetch_update(Relaxed, Relaxed, room) {
            Ok(_) => Ok(MyPlace { queue: self.clone(), samples }),
            Err(_) => Err(Refused::Busy { retry_after: 1 }),
        }
    }

    fn waiting(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

impl Drop for MyPlace {
    fn drop(&mut self) {
        self.queue.taken.fetch_sub(self.samples, Relaxed);
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

    /// Where the first stop string to be complete begins.
    fn find(&self) -> Option<usize> {
        let places =
            self.stops.iter().filter_map(|stop| Some((self.held.find(stop)? + stop.len(), stop.len())));
        places.min_by_key(|(end, length)| (*end, usize::MAX - length)).map(|(end, length)| end - length)
    }

    /// The first place from which a stop string may still become complete.
    fn undecided(&self) -> usize {
        let begins = |from: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[from..]));
        let mut places = self.held.char_indices().map(|(at, _)| at);
        places.find(|at| begins(*at)).unwrap_or(self.held.len())
    }
}

impl StopFilter for MyStops {
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.held += piece;
        if let Some(start) = self.find() {
            let text = self.held[..start].to_owned();
            self.held.clear();
            return (text, true);
        }
        let sure = self.undecided();
        (self.held.drain(..sure).collect(), false)
    }

    fn finish(&mut self) -> String {
        mem::take(&mut self.held)
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
