//! What the fuzz tests are run by: the inputs, how many of them, an allocator that counts, and a watch on the time.

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner},
};
use serde_json::{Map, Value};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env, fs,
    path::PathBuf,
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicIsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How much a parser is tried, and what it may take.
pub struct Budget {
    /// Inputs of each of the three kinds, where the environment asks for no more.
    pub cases: u32,
    /// Bytes of memory that it may hold whatever its input.
    pub base: usize,
    /// Bytes more for each byte of its input.
    pub factor: usize,
}

/// Bytes of memory that a parser of JSON may use at a time for each byte of its input. A number in a JSON list takes two bytes and
/// becomes a value of 72; growing a list holds the old and the new one.
pub const MEMORY_FACTOR: usize = 160;

/// The longest that a parser may take for an input.
const MOST_TIME: Duration = Duration::from_secs(2);

/// Parsers that are fuzzed (three of them with feature `serve`, five with `quantized`), each with three kinds of inputs: the environment's
/// effort is divided among them.
const RUNS: u32 = 16 * 3;

/// The system's allocator, with the bytes that the process holds and the most that it held.
struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(held, Relaxed);
}

// SAFETY: both methods pass their arguments on to the system's allocator. `count` allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps alloc's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `pointer` came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, since memory is counted for the whole process: a parser may start threads of its own.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most memory that `run` held at a time, in bytes. `run` may measure parts of itself.
pub fn peak_of(run: impl FnOnce()) -> usize {
    let before = HELD.load(Relaxed);
    let outer = PEAK.swap(before, Relaxed);
    run();
    let peak = PEAK.load(Relaxed);
    PEAK.fetch_max(outer, Relaxed);
    (peak - before).max(0) as usize
}

/// How many inputs there are: see the head of main.rs.
#[derive(Clone, Copy)]
enum Effort {
    /// The budget's, the same in every run.
    Short,
    Cases(u32),
    Time(Duration),
}

impl Effort {
    /// One run's part of what the environment asks for.
    fn of_run() -> Effort {
        let number = |name: &str| {
            let text = env::var(name).ok()?;
            Some(text.parse::<u32>().unwrap_or_else(|_| panic!("{name} is {text}, which is no number")))
        };
        match (number("FUZZ_CASES"), number("FUZZ_SECONDS")) {
            (Some(cases), _) => Effort::Cases(cases.div_ceil(RUNS)),
            (None, Some(seconds)) => Effort::Time(Duration::from_secs(seconds.into()) / RUNS),
            (None, None) => Effort::Short,
        }
    }
}

/// The input that is being parsed, and since when: a watchman ends the process if it stays too long.
static PARSED: Mutex<Option<(Instant, &str, Vec<u8>)>> = Mutex::new(None);

fn watch() {
    const HANGS: Duration = Duration::from_secs(60);
    loop {
        thread::sleep(Duration::from_secs(5));
        let parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((start, name, bytes)) = parsed.as_ref()
            && start.elapsed() > HANGS
        {
            eprintln!("{name} hangs on {}", keep(name, bytes).display());
            process::abort();
        }
    }
}

/// Where the inputs that once failed are kept. They are tried first in every run.
fn seeds(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fuzz/seeds", name].iter().collect()
}

/// Keeps an input that failed.
fn keep(name: &str, bytes: &[u8]) -> PathBuf {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let path = seeds(name).join(format!("{hash:016x}"));
    fs::create_dir_all(seeds(name)).and_then(|()| fs::write(&path, bytes)).expect("the input is kept");
    path
}

/// Parses an input; what is wrong, if it takes too much.
fn check(name: &'static str, budget: &Budget, parse: &dyn Fn(&[u8]), bytes: &[u8]) -> TestCaseResult {
    *PARSED.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), name, bytes.to_vec()));
    let start = Instant::now();
    let peak = peak_of(|| parse(bytes));
    // Others may have had the processor: only an input that is slow three times is slow.
    let mut took = start.elapsed();
    for _ in 0..2 {
        if took > MOST_TIME {
            let start = Instant::now();
            parse(bytes);
            took = took.min(start.elapsed());
        }
    }
    *PARSED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let allowed = budget.base + budget.factor * bytes.len();
    prop_assert!(peak <= allowed, "{peak} bytes for an input of {}", bytes.len());
    prop_assert!(took <= MOST_TIME, "{took:?} for an input of {}", bytes.len());
    Ok(())
}

/// Feeds a parser with all three kinds. `parse` says whether it took the input. A panic fails the test; so does too much
/// memory or time, and inputs that are all refused, or all taken though they were changed, since they would try little.
pub fn fuzz(
    name: &'static str,
    budget: Budget,
    parse: impl Fn(&[u8]) -> bool,
    valid: Vec<Vec<u8>>,
    structured: impl Strategy<Value = Vec<u8>> + 'static,
) {
    let _alone = alone();
    static WATCHMAN: Mutex<bool> = Mutex::new(false);
    if !std::mem::replace(&mut *WATCHMAN.lock().unwrap(), true) {
        thread::spawn(watch);
    }
    let (tried, taken) = (Cell::new(0), Cell::new(0));
    let counted = |bytes: &[u8]| {
        tried.set(tried.get() + 1);
        taken.set(taken.get() + u32::from(parse(bytes)));
    };
    let check = |bytes: Vec<u8>| check(name, &budget, &counted, &bytes);
    for seed in fs::read_dir(seeds(name)).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        check(fs::read(&seed).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", seed.display()));
    }
    taken.set(0);
    valid.iter().for_each(|bytes| check(bytes.clone()).expect("a valid file takes no more than it may"));
    assert_eq!(taken.get() as usize, valid.len(), "valid files are taken");
    let run = |kind: &str, strategy: BoxedStrategy<Vec<u8>>| {
        tried.set(0);
        taken.set(0);
        let start = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        for round in 0u128.. {
            let (cases, rng, last) = match Effort::of_run() {
                Effort::Short => (budget.cases, TestRng::deterministic_rng(RngAlgorithm::ChaCha), true),
                effort => {
                    let seed = [now.to_le_bytes(), round.to_le_bytes()].concat();
                    let (cases, last) = match effort {
                        Effort::Cases(cases) => (cases, true),
                        Effort::Time(time) => (50, start.elapsed() >= time),
                        Effort::Short => unreachable!("it is the arm before"),
                    };
                    (cases, TestRng::from_seed(RngAlgorithm::ChaCha, &seed), last)
                }
            };
            let config =
                Config { cases, failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
            match TestRunner::new_with_rng(config, rng).run(&strategy, check) {
                Ok(()) => {}
                Err(TestError::Fail(reason, bytes)) => {
                    panic!("{reason}; the input is {}", keep(name, &bytes).display())
                }
                Err(error) => panic!("{error}"),
            }
            if last {
                break;
            }
        }
        println!("{name}, {kind}: {} inputs, {} taken", tried.get(), taken.get());
    };
    run("random", vec(any::<u8>(), 0..300).boxed());
    for (kind, strategy) in [("mutated", mutated(valid.clone()).boxed()), ("structured", structured.boxed())]
    {
        run(kind, strategy);
        let (tried, taken) = (tried.get(), taken.get());
        assert!(taken > tried / 200, "{kind}: {taken} of {tried} were taken");
        assert!(taken < tried || kind == "structured", "{kind}: all {tried} were taken");
    }
}

/// Numbers at the edges of the types that hold them.
const NUMBERS: [&str; 17] = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "255",
    "65536",
    "100000000",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-1e-308",
    "0.5",
    "1e999",
];

/// A valid file with one to six changes.
pub fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0u8..6, any::<u32>(), any::<u32>(), any::<u8>());
    (select(valid), vec(change, 1..7)).prop_map(|(mut bytes, changes)| {
        for (kind, at, length, byte) in changes {
            let at = at as usize % (bytes.len() + 1);
            let end = (at + length as usize % 40).min(bytes.len());
            let number = NUMBERS[byte as usize % NUMBERS.len()].as_bytes();
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => drop(bytes.splice(at..at, [byte])),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at),
                4 => bytes.extend_from_within(at..end),
                // The next number in the text becomes one that is hard to hold.
                _ => {
                    let start =
                        bytes[at..].iter().position(u8::is_ascii_digit).map_or(bytes.len(), |i| at + i);
                    let digits = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                    bytes.splice(start..start + digits, number.iter().copied());
                }
            }
        }
        bytes
    })
}

/// A JSON value, as text: a hard number, one of these words, or a list or object of such.
pub fn any_json(words: &'static [&'static str]) -> BoxedStrategy<String> {
    let text = select(words).prop_map(|word| format!("{word:?}"));
    let leaf = prop_oneof![
        4 => select(&NUMBERS[..]).prop_map(String::from),
        2 => text,
        1 => Just("null".to_owned()),
        1 => any::<bool>().prop_map(|b| b.to_string()),
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        let field = (select(words), inner.clone()).prop_map(|(key, value)| format!("{key:?}:{value}"));
        prop_oneof![
            vec(inner, 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            vec(field, 0..4).prop_map(|fields| format!("{{{}}}", fields.join(","))),
        ]
    })
    .boxed()
}

/// `base` with up to three of its fields, or of `words`, replaced by any JSON.
pub fn replaced(base: Value, words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    vec((select(words), any_json(words)), 0..4).prop_map(move |fields| {
        let mut object: Map<String, Value> = base.as_object().unwrap().clone();
        let mut raw = String::new();
        for (key, value) in fields {
            object.remove(key);
            raw += &format!("{key:?}:{value},"); // as text, since serde_json can't hold 1e999
        }
        let rest = serde_json::to_string(&object).unwrap();
        format!("{{{raw}{}", &rest[1..]).replace(",}", "}").into_bytes()
    })
}
