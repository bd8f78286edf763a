//! What this machine does at most, measured, and how near to it a kernel comes.
//!
//! A kernel that does so many operations and must read so many bytes takes at least max(operations / peak, bytes / bandwidth): the roofline
//! (Williams, Waterman and Patterson 2009), where peak is what its instructions reach when they do nothing but multiply. All cores work.

mod peaks;
mod read;
mod report;

pub use report::{Report, Work};

use serde_json::{Map, Value, json};
use stairwell::backend::cpu::Isa;
use std::{
    thread,
    time::{Duration, Instant},
};

/// What a bench reads before it reads any of it again, so that no cache holds it, as none holds a model: twice a last-level cache of 300 MB,
/// which a virtual machine shares with others and has now less of, now more.
pub const BEYOND_CACHES: usize = 600 << 20;

/// The machine's limits.
pub struct Roofline {
    /// Bytes a second that can be read from memory.
    bandwidth: f64,
    /// Operations a second, by the name of an instruction set.
    peaks: Vec<(&'static str, f64)>,
}

impl Roofline {
    /// Measures them: a few seconds, or if it must be quick a moment, and then the numbers are worth nothing.
    pub fn measure(quick: bool) -> Roofline {
        let (bytes, turns) = if quick { (1 << 24, 1_000) } else { (1 << 30, 1_000_000) };
        let peak = |isa: Isa| (isa.name(), threads() as f64 * peaks::operations_per_second(isa, turns));
        Roofline {
            bandwidth: read::bandwidth(bytes),
            peaks: Isa::supported().into_iter().map(peak).collect(),
        }
    }

    /// The better of two measurements: other programs can only make it worse.
    pub fn better(self, other: Roofline) -> Roofline {
        let peak = |((name, a), (_, b)): (_, (_, f64))| (name, f64::max(a, b));
        Roofline {
            bandwidth: self.bandwidth.max(other.bandwidth),
            peaks: self.peaks.into_iter().zip(other.peaks).map(peak).collect(),
        }
    }

    /// The least seconds that this work takes.
    pub fn seconds(&self, work: &Work) -> f64 {
        let peak = self.peaks.iter().find(|(name, _)| *name == work.peak);
        let (_, peak) = peak.expect("the peak of an instruction set that this CPU has");
        (work.operations / peak).max(work.bytes / self.bandwidth)
    }

    pub fn json(&self) -> Value {
        let mut found = Map::new();
        found.insert("threads".into(), json!(threads()));
        found.insert("read_gigabytes_per_second".into(), json!(self.bandwidth / 1e9));
        for (name, peak) in &self.peaks {
            found.insert(format!("{name}_gflops"), json!(peak / 1e9));
        }
        Value::Object(found)
    }
}

pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `body` on all cores, again and again for half a second. Seconds until the last core is done, in the fastest round: other programs can
/// only make it worse, and of short rounds some are left alone.
fn on_all_cores(body: impl Fn(usize) + Sync) -> f64 {
    let (body, begin) = (&body, Instant::now());
    let round = || {
        let start = Instant::now();
        thread::scope(|scope| (0..threads()).for_each(|i| drop(scope.spawn(move || body(i)))));
        start.elapsed().as_secs_f64()
    };
    let mut fastest = round();
    while begin.elapsed() < Duration::from_millis(500) {
        fastest = fastest.min(round());
    }
    fastest
}
