//! A profiler that needs no GPU: the simulator counts the reads and writes of a kernel.

use super::device::{Arg, Grid, Launch};
use super::simulated::{ERROR_SIZE, Simulated, call};
use crate::error::Result;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use std::ffi::{c_char, c_int, c_void};

/// The traffic of one launch, or of several that follow one another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Each place of the program that reads or writes, the heaviest first.
    pub sites: Vec<Site>,
    /// Bytes of global memory that were read at least once, and written at least once: the least that could move. What one launch writes and
    /// the next one reads is not among them.
    pub least_read: u64,
    pub least_written: u64,
    /// Barriers that blocks have passed, over all blocks.
    pub barriers: u64,
}

/// One place that reads or writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Site {
    /// File and line, if the program has them (a release build has not).
    pub file: Option<String>,
    pub line: Option<u32>,
    /// In shared memory instead of global.
    #[serde(rename = "memory", serialize_with = "memory")]
    pub shared: bool,
    pub writes: bool,
    /// Instructions of a whole warp.
    pub requests: u64,
    /// Bytes over all lanes.
    pub bytes: u64,
    /// Of global memory: sectors of 32 bytes that the requests touch. A warp that reads 32 floats in a row touches 4.
    pub sectors: u64,
    /// Of shared memory: turns that the 32 banks need, and the least that so many different words could take.
    pub turns: u64,
    #[serde(skip)]
    pub least_turns: u64,
}

fn memory<S: Serializer>(shared: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *shared { "shared" } else { "global" })
}

impl Profile {
    /// Sectors of 32 bytes of global memory, over all reads or all writes.
    pub fn sectors(&self, writes: bool) -> u64 {
        self.sites.iter().filter(|s| !s.shared && s.writes == writes).map(|s| s.sectors).sum()
    }

    /// Bytes over all lanes of global memory, read or written.
    pub fn bytes(&self, writes: bool) -> u64 {
        self.sites.iter().filter(|s| !s.shared && s.writes == writes).map(|s| s.bytes).sum()
    }

    /// Turns of shared memory beyond the least.
    pub fn bank_conflicts(&self) -> u64 {
        self.sites.iter().filter(|s| s.shared).map(|s| s.turns - s.least_turns).sum()
    }
}

unsafe extern "C" {
    fn simulator_launch_counted(
        name: *const c_char,
        grid: *const u32,
        threads: *const u32,
        shared_bytes: usize,
        arguments: *mut *mut c_void,
        error: *mut c_char,
        error_size: usize,
    ) -> c_int;
    fn simulator_count_begin(allocations: *const u64, n: usize);
    fn simulator_count_launch();
    fn simulator_count_end(row: extern "C" fn(*mut c_void, *const u64), to: *mut c_void);
}

/// The counters are one for the process.
static COUNTERS: Mutex<()> = Mutex::new(());

extern "C" fn keep(to: *mut c_void, numbers: *const u64) {
    // SAFETY: `profile` gives a vector that lives as long as the call, and the simulator rows of eight numbers.
    let (rows, numbers) = unsafe { (&mut *to.cast::<Vec<[u64; 8]>>(), &*numbers.cast::<[u64; 8]>()) };
    rows.push(*numbers);
}

impl Simulated {
    /// Runs a kernel, and counts.
    ///
    /// # Errors
    /// As [`launch`](super::Device::launch).
    pub fn profile(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<Profile> {
        self.profile_all(&[Launch { kernel: kernel.into(), grid, arguments: arguments.into() }])
    }

    /// Runs kernels one after the other, and counts over all.
    ///
    /// # Errors
    /// As [`launch`](super::Device::launch).
    pub fn profile_all(&self, launches: &[Launch]) -> Result<Profile> {
        let _turn = COUNTERS.lock();
        let allocations: Vec<u64> =
            self.allocations().into_iter().flat_map(|(at, size)| [at.0, size]).collect();
        // SAFETY: pairs of numbers, n of them.
        unsafe { simulator_count_begin(allocations.as_ptr(), allocations.len() / 2) };
        let launched = launches.iter().try_for_each(|launch| {
            // SAFETY: it was begun.
            unsafe { simulator_count_launch() };
            counted(launch)
        });
        let mut rows: Vec<[u64; 8]> = Vec::new();
        // SAFETY: `keep` gets this vector.
        unsafe { simulator_count_end(keep, (&raw mut rows).cast()) };
        launched?;
        Ok(Profile::of(rows))
    }
}

fn counted(Launch { kernel, grid, arguments }: &Launch) -> Result<()> {
    let shared = grid.shared_bytes;
    call(kernel, *grid, arguments, |name, blocks, threads, values, error| {
        // SAFETY: as in `launch`.
        unsafe { simulator_launch_counted(name, blocks, threads, shared, values, error, ERROR_SIZE) }
    })
}

impl Profile {
    fn of(rows: Vec<[u64; 8]>) -> Profile {
        let mut profile = Profile::default();
        for [place, writes, shared, requests, bytes, sectors, turns, least_turns] in rows {
            if place == 0 {
                (profile.least_read, profile.least_written, profile.barriers) = (writes, shared, requests);
                continue;
            }
            let ((file, line), shared, writes) = (line_of(place).unzip(), shared == 1, writes == 1);
            let site = Site { file, line, shared, writes, requests, bytes, sectors, turns, least_turns };
            // A loop that the compiler has unrolled is several places with one line.
            let same = |other: &&mut Site| {
                let place = |site: &Site| (site.file.clone(), site.line, site.writes, site.shared);
                other.line.is_some() && place(other) == place(&site)
            };
            match profile.sites.iter_mut().find(same) {
                Some(other) => {
                    other.requests += requests;
                    other.bytes += bytes;
                    other.sectors += sectors;
                    other.turns += turns;
                    other.least_turns += least_turns;
                }
                None => profile.sites.push(site),
            }
        }
        profile.sites.sort_by_key(|site| std::cmp::Reverse((site.sectors, site.turns, site.bytes)));
        profile
    }
}

/// The line of an address in the program, from its debug information.
fn line_of(place: u64) -> Option<(String, u32)> {
    let mut line = None;
    // The address is that behind the call.
    backtrace::resolve((place - 1) as *mut c_void, |symbol| {
        let name = symbol.filename().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        // The innermost function comes first; a helper of common.cuh counts as itself, the simulator's own and instructions (ptx.cuh) as
        // whoever calls them.
        let a_kernels =
            |name: &String| name != "ptx.cuh" && (name.ends_with(".cu") || name.ends_with(".cuh"));
        if line.is_none() && name.as_ref().is_some_and(a_kernels) {
            line = name.zip(symbol.lineno());
        }
    });
    line
}
