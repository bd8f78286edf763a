//! The book says what the code does: listings, figures, commands and links of every page are compared with what they speak of.
//!
//! `UPDATE_BOOK=1 cargo test --test book` rewrites listings and figures from the source and the recorded results.
//! `cargo test --test book -- --ignored` runs the commands, which takes minutes; `.ci/run` does it. With `BOOK_PAGE=loading.md`
//! only those of one page.
//! The head of each module in tests/book/ says what to write in a page.

mod console;
mod figures;
mod house;
mod links;
mod listings;
mod page;

use links::Target;
use page::{pages, root};
use std::{
    env, fs,
    process::Command,
    sync::{Mutex, PoisonError},
};

/// What a check found on a page.
#[derive(Debug, Default, PartialEq)]
pub struct Checked {
    /// The page as it should be.
    pub text: String,
    /// What UPDATE_BOOK=1 mends, each with its line.
    pub stale: Vec<String>,
    /// What only an author can mend.
    pub wrong: Vec<String>,
}

impl Checked {
    fn stale(&mut self, at: usize, message: impl AsRef<str>) {
        self.stale.push(format!("{}: {}", at + 1, message.as_ref()));
    }

    fn wrong(&mut self, at: usize, message: impl AsRef<str>) {
        self.wrong.push(format!("{}: {}", at + 1, message.as_ref()));
    }

    fn keep(&mut self, lines: &[impl AsRef<str>]) {
        lines.iter().for_each(|line| self.text += &format!("{}\n", line.as_ref()));
    }
}

/// Runs a check on every page. Mends what can be mended if UPDATE_BOOK is set; panics with all that is left.
fn every_page(command: &str, mut check: impl FnMut(&str, &str) -> Checked) {
    // Two tests that mend the same page take turns.
    static MENDING: Mutex<()> = Mutex::new(());
    let _turn = MENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut complaints = String::new();
    for (name, text) in pages() {
        let checked = check(&name, &text);
        let update = env::var_os("UPDATE_BOOK").is_some();
        if update && checked.text != text {
            fs::write(root().join(&name), &checked.text).unwrap();
        }
        for message in &checked.wrong {
            complaints += &format!("\n{name}:{message}");
        }
        for message in checked.stale.iter().filter(|_| !update) {
            complaints += &format!("\n{name}:{message}\n    to mend it: UPDATE_BOOK=1 {command}");
        }
    }
    assert!(complaints.is_empty(), "{complaints}\n");
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

#[test]
fn listings_equal_the_source() {
    every_page("cargo test --test book", |_, text| listings::check(text, &read));
}

#[test]
fn figures_equal_the_recorded_results() {
    every_page("cargo test --test book", |_, text| figures::check(text, &read));
}

#[test]
fn times_and_speeds_name_their_results() {
    every_page("", |_, text| figures::unsourced(text));
}

#[test]
fn links_lead_somewhere() {
    let look = |path: &str| match read(path) {
        Some(text) if path.ends_with(".md") => Target::Page(text),
        _ if root().join(path).exists() => Target::Other,
        _ => Target::Absent,
    };
    every_page("", |name, text| links::check(name, text, &look));
}

#[test]
fn commands_are_in_console_fences() {
    every_page("", |_, text| console::check(text, &read));
}

#[test]
#[ignore = "takes minutes; .ci/run does it"]
fn commands_run() {
    let (mut shell, before) = (console::shell(), uncommitted());
    let (inside, only) = (env::var_os(console::INSIDE).is_some(), env::var("BOOK_PAGE").unwrap_or_default());
    every_page("cargo test --test book -- --ignored", |name, text| match !inside && name.contains(&only) {
        true => console::run(name, text, &mut shell),
        false => Checked { text: text.into(), ..Checked::default() },
    });
    let after = uncommitted();
    assert!(
        before == after || env::var_os("UPDATE_BOOK").is_some(),
        "a command of the book left files behind:\n{after}"
    );
}

/// What git sees as changed; nothing outside of a clone.
fn uncommitted() -> String {
    let status = Command::new("git").args(["status", "--porcelain"]).current_dir(root()).output();
    status.map_or(String::new(), |s| String::from_utf8_lossy(&s.stdout).into_owned())
}
