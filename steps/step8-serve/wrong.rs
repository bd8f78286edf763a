//! Wrong answers to the exercises of chapter 8: each has one mistake.

use super::solution::{MyReader, MyStops};
use crate::contracts::step8::{EventReader, Guard, Queue, Refused, StopFilter};
use stairwell::server::io_struct::{AbortReq, GroupId, Piece, SchedulerInput};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc::Sender,
};

// 1. Events -------------------------------------------------------------------------------------------------------------

/// One `data: ` for the whole text, as mini-sglang's `/generate` does it.
pub fn one_data_line(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("data: {text}\n\n").as_bytes());
}

/// Without an empty line, no reader knows that the event is whole.
pub fn ends_with_one_newline(text: &str, out: &mut Vec<u8>) {
    text.split('\n').for_each(|line| out.extend_from_slice(format!("data: {line}\n").as_bytes()));
}

/// `lines` leaves out an empty line at the end.
pub fn by_lines(text: &str, out: &mut Vec<u8>) {
    text.lines().for_each(|line| out.extend_from_slice(format!("data: {line}\n").as_bytes()));
    out.push(b'\n');
}

/// A reader takes away one space after the colon.
pub fn no_space(text: &str, out: &mut Vec<u8>) {
    text.split('\n').for_each(|line| out.extend_from_slice(format!("data:{line}\n").as_bytes()));
    out.push(b'\n');
}

/// Each chunk of bytes is taken for whole events.
pub struct ForgetsBetweenChunks;

impl EventReader for ForgetsBetweenChunks {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        MyReader::new().push(bytes)
    }
}

/// Each chunk is made text by itself.
#[derive(Default)]
pub struct TextOfChunks(MyReader);

impl EventReader for TextOfChunks {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.push(String::from_utf8_lossy(bytes).as_bytes())
    }
}

/// CR and LF are two line ends, each for itself.
#[derive(Default)]
pub struct TwoLineEnds(MyReader);

impl EventReader for TwoLineEnds {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let lines: Vec<u8> = bytes.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
        self.0.push(&lines)
    }
}

// 2. A client leaves ----------------------------------------------------------------------------------------------------

/// What a guard of one mistake does.
pub struct Faulty<const MISTAKE: u8> {
    group: GroupId,
    left: usize,
    to_scheduler: Sender<SchedulerInput>,
    open: Arc<AtomicUsize>,
}

/// No abort: the request runs to its end, as vLLM #9428 tells of answers that do not stream.
pub type NeverAborts = Faulty<0>;
/// An abort for each request, also after its end.
pub type AlwaysAborts = Faulty<1>;
/// The first sample's end is taken for the end of all.
pub type FirstEnd = Faulty<2>;
/// Nobody listens any more, and the guard panics: mistral.rs #213.
pub type Unwraps = Faulty<3>;
/// Counted in and never out.
pub type StaysOpen = Faulty<4>;

impl<const MISTAKE: u8> Guard for Faulty<MISTAKE> {
    fn new(
        group: GroupId,
        samples: usize,
        to_scheduler: Sender<SchedulerInput>,
        open: Arc<AtomicUsize>,
    ) -> Self {
        open.fetch_add(1, Relaxed);
        Faulty { group, left: samples, to_scheduler, open }
    }

    fn saw(&mut self, pieces: &[Piece]) {
        let ends = pieces.iter().filter(|piece| piece.end.is_some()).count();
        self.left = if MISTAKE == 2 && ends > 0 { 0 } else { self.left - ends };
    }
}

impl<const MISTAKE: u8> Drop for Faulty<MISTAKE> {
    fn drop(&mut self) {
        if MISTAKE != 4 {
            self.open.fetch_sub(1, Relaxed);
        }
        if MISTAKE != 0 && (self.left > 0 || MISTAKE == 1) {
            let sent = self.to_scheduler.send(SchedulerInput::Abort(AbortReq::Group(self.group)));
            if MISTAKE == 3 {
                sent.expect("a scheduler");
            }
        }
    }
}

// 3. A bounded queue ----------------------------------------------------------------------------------------------------

/// A queue of one mistake.
pub struct FaultyQueue<const MISTAKE: u8> {
    places: usize,
    taken: AtomicUsize,
}

pub struct FaultyPlace<const MISTAKE: u8> {
    queue: Arc<FaultyQueue<MISTAKE>>,
    samples: usize,
}

/// Looks, and counts later: in between, others count too.
pub type LooksThenCounts = FaultyQueue<0>;
/// Counts first, and does not take back what it refuses.
pub type CountsRefused = FaultyQueue<1>;
/// A request takes one place, whatever its samples.
pub type OnePlaceEach = FaultyQueue<2>;
/// Come back at once.
pub type RetryAtOnce = FaultyQueue<3>;
/// Come back, for ever.
pub type RetryForEver = FaultyQueue<4>;
/// Gives back one place of several.
pub type GivesBackOne = FaultyQueue<5>;

impl<const MISTAKE: u8> Queue for FaultyQueue<MISTAKE> {
    type Place = FaultyPlace<MISTAKE>;

    fn new(places: usize) -> Self {
        FaultyQueue { places, taken: AtomicUsize::new(0) }
    }

    fn enter(self: &Arc<Self>, samples: usize) -> Result<FaultyPlace<MISTAKE>, Refused> {
        let samples = if MISTAKE == 2 { 1 } else { samples };
        if samples > self.places && MISTAKE != 4 {
            return Err(Refused::TooLarge);
        }
        let room = |taken: usize| (taken + samples <= self.places).then_some(taken + samples);
        let entered = match MISTAKE {
            0 => {
                let taken = room(self.taken.load(Relaxed));
                std::thread::yield_now();
                taken.inspect(|_| _ = self.taken.fetch_add(samples, Relaxed)).is_some()
            }
            1 => self.taken.fetch_add(samples, Relaxed) + samples <= self.places,
            _ => self.taken.fetch_update(Relaxed, Relaxed, room).is_ok(),
        };
        let place = || FaultyPlace { queue: self.clone(), samples };
        entered.then(place).ok_or(Refused::Busy { retry_after: u32::from(MISTAKE != 3) })
    }

    fn waiting(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

impl<const MISTAKE: u8> Drop for FaultyPlace<MISTAKE> {
    fn drop(&mut self) {
        self.queue.taken.fetch_sub(if MISTAKE == 5 { 1 } else { self.samples }, Relaxed);
    }
}

// 4. Stop strings across tokens -----------------------------------------------------------------------------------------

/// Looks at each piece by itself.
pub struct EachPiece(Vec<String>);

impl EachPiece {
    pub fn new(stops: &[&str]) -> EachPiece {
        EachPiece(stops.iter().map(|stop| (*stop).to_owned()).collect())
    }
}

impl StopFilter for EachPiece {
    fn push(&mut self, piece: &str) -> (String, bool) {
        let stops: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let (text, stopped) = MyStops::new(&stops).push(piece);
        if stopped { (text, true) } else { (piece.to_owned(), false) }
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}

/// Holds back as many bytes as the longest stop string has, less one.
pub struct HoldsTooMuch {
    stops: MyStops,
    most: usize,
    text: String,
}

impl HoldsTooMuch {
    pub fn new(stops: &[&str]) -> HoldsTooMuch {
        let most = stops.iter().map(|stop| stop.chars().count()).max().unwrap_or(1) - 1;
        HoldsTooMuch { stops: MyStops::new(stops), most, text: String::new() }
    }
}

impl StopFilter for HoldsTooMuch {
    fn push(&mut self, piece: &str) -> (String, bool) {
        let (sure, stopped) = self.stops.push(piece);
        self.text += &sure;
        if stopped {
            return (std::mem::take(&mut self.text), true);
        }
        let keep = self.text.char_indices().rev().nth(self.most.saturating_sub(1)).map_or(0, |(at, _)| at);
        let keep = if self.most == 0 { self.text.len() } else { keep };
        (self.text.drain(..keep).collect(), false)
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.text) + &self.stops.finish()
    }
}

/// What is held at the end is lost.
pub struct LosesTheEnd(MyStops);

impl LosesTheEnd {
    pub fn new(stops: &[&str]) -> LosesTheEnd {
        LosesTheEnd(MyStops::new(stops))
    }
}

impl StopFilter for LosesTheEnd {
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.0.push(piece)
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}

/// After a mismatch it begins anew behind what was held: `aab` is not found in `aaab`.
pub struct StartsAnew {
    stops: Vec<String>,
    held: String,
}

impl StartsAnew {
    pub fn new(stops: &[&str]) -> StartsAnew {
        StartsAnew { stops: stops.iter().map(|stop| (*stop).to_owned()).collect(), held: String::new() }
    }
}

impl StopFilter for StartsAnew {
    fn push(&mut self, piece: &str) -> (String, bool) {
        let mut out = String::new();
        for c in piece.chars() {
            self.held.push(c);
            if self.stops.contains(&self.held) {
                return (out, true);
            }
            if !self.stops.iter().any(|stop| stop.starts_with(&self.held)) {
                out += &std::mem::take(&mut self.held);
            }
        }
        (out, false)
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
