//! What the fuzz tests are run by: the inputs, and an allocator that counts.

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner},
};
use serde_json::{Map, Value};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// How much a parser is tried, and what it may take.
pub struct Budget {
    /// Inputs of each of the three kinds.
    pub cases: u32,
    /// Bytes of memory that it may hold whatever its input.
    pub base: usize,
}

/// Bytes of memory that a parser may use at a time for each byte of its input. A number in a JSON list takes two bytes and
/// becomes a value of 72; growing a list holds the old and the new one.
pub const MEMORY_FACTOR: usize = 160;

/// The system's allocator, and for each thread the bytes that it holds and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // Not while the thread is being torn down.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: both methods pass their arguments on to the system's allocator. `count` allocates nothing: its cells are
// initialised at compile time and have no destructor.
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

/// The most memory that `run` held at a time, in bytes.
pub fn peak_of(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    run();
    (PEAK.get() - before) as usize
}

/// Feeds a parser with all three kinds. `parse` says whether it took the input. A panic fails the test; so does too much
/// memory, and inputs that are all taken or all refused, since they would try little.
pub fn fuzz(
    budget: Budget,
    parse: impl Fn(&[u8]) -> bool,
    valid: Vec<Vec<u8>>,
    structured: impl Strategy<Value = Vec<u8>> + 'static,
) {
    let taken = Cell::new(0);
    let check = |bytes: Vec<u8>| -> TestCaseResult {
        let peak = peak_of(|| taken.set(taken.get() + parse(&bytes) as u32));
        let allowed = budget.base + MEMORY_FACTOR * bytes.len();
        prop_assert!(peak <= allowed, "{peak} bytes for an input of {}", bytes.len());
        Ok(())
    };
    valid.iter().for_each(|bytes| check(bytes.clone()).expect("a valid file takes no more than it may"));
    assert_eq!(taken.get() as usize, valid.len(), "valid files are taken");
    let run = |strategy: BoxedStrategy<Vec<u8>>| {
        let config = Config { cases: budget.cases, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng).run(&strategy, check).unwrap_or_else(|e| panic!("{e}"));
        taken.replace(0)
    };
    run(vec(any::<u8>(), 0..300).boxed());
    for (kind, taken) in [("mutated", run(mutated(valid).boxed())), ("structured", run(structured.boxed()))] {
        assert!(
            taken > budget.cases / 200 && taken < budget.cases,
            "{kind}: {taken} of {} were taken",
            budget.cases
        );
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
