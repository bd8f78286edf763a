//! Runs contracts that must be kept and contracts that must be broken, one after the other.

use std::{
    panic::{self, PanicHookInfo},
    sync::Mutex,
};

/// A contract with a piece in it, and a part of what it must say; `None` if it must be kept.
pub type Case = (&'static str, fn(), Option<&'static str>);

pub const KEPT: Option<&str> = None;

/// What the last panic said, on any thread: the engine runs kernels on many.
static SAID: Mutex<Option<String>> = Mutex::new(None);

/// Runs every case, and says how many fail. `exercise` is the text of the file that the stubs are in.
pub fn run(stubs: &[Case], solutions: &[Case], wrong: &[Case], exercise: &str) -> usize {
    panic::set_hook(Box::new(|info: &PanicHookInfo| {
        let said = info.payload_as_str().unwrap_or("a panic without words").to_owned();
        SAID.lock().expect("no panic here").get_or_insert(said);
    }));
    let show = std::env::args().any(|a| a == "--nocapture");
    let groups = [("stub", stubs), ("solution", solutions), ("wrong solution", wrong)];
    let cases = groups.iter().flat_map(|(kind, cases)| cases.iter().map(move |case| (kind, case)));
    let mut failed = 0;
    for (kind, (name, contract, want)) in cases {
        let kept = panic::catch_unwind(contract).is_ok();
        let said = SAID.lock().expect("no panic here").take().unwrap_or_else(|| "nothing".into());
        let good = kept == want.is_none() && want.is_none_or(|part| said.contains(part));
        // A reader who works on an exercise has replaced its stub. That all are in place is checked by the script.
        let verdict = match () {
            () if good => "ok",
            () if *kind == "stub" && want.is_some_and(|part| !has_stub(exercise, part)) => "written",
            () => "FAILED",
        };
        println!("{kind}: {name} ... {verdict}");
        if verdict == "FAILED" {
            failed += 1;
            println!("  expected: {}", want.unwrap_or("that the contract is kept"));
        }
        if verdict == "FAILED" || show {
            println!("  said: {}", if kept { "the contract is kept" } else { &said });
        }
    }
    failed
}

/// Whether the exercise still holds the sentence that its stub says.
fn has_stub(exercise: &str, said: &str) -> bool {
    exercise.contains(said.trim_start_matches("not written yet: "))
}
