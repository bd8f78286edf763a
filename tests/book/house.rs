//! House rules that a machine can check.

use super::page::{files_below, pages, root};
use std::{fs, path::PathBuf};

fn sources(dirs: &[&str]) -> Vec<(String, String)> {
    let files = dirs.iter().flat_map(|dir| files_below(&root().join(dir), &["rs"]));
    let name = |p: &PathBuf| p.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    files.map(|p| (name(&p), fs::read_to_string(&p).unwrap())).collect()
}

/// Lines that ask for a step's feature.
fn asks_for_a_step(text: &str) -> Vec<usize> {
    let asks = |line: &str| line.split_whitespace().collect::<String>().contains("feature=\"step");
    text.lines().enumerate().filter(|(_, l)| asks(l)).map(|(i, _)| i + 1).collect()
}

fn is_staircase(path: &str) -> bool {
    path == "src/lib.rs" || path.starts_with("src/") && path.ends_with("/mod.rs")
}

/// Where a step's feature may stand before a `mod` line, and nowhere else.
const MODULES_OF_STEPS: [&str; 3] =
    ["tests/suite/main.rs", "tests/exercises/main.rs", "steps/contracts/mod.rs"];

/// Whether the line that a step's feature stands before declares a module.
fn is_before_a_module(text: &str, line: usize) -> bool {
    let declared = text.lines().skip(line).find(|l| !l.trim_start().starts_with("#["));
    declared.is_some_and(|l| l.starts_with("mod ") || l.starts_with("pub mod "))
}

/// Steps add files and never rewrite: what depends on a step is a `mod` line, or the choice of the best implementation there.
#[test]
fn step_features_are_named_in_the_staircase_only() {
    for (path, text) in sources(&["src", "tests", "benches", "steps"]) {
        let is_this_file = path == "tests/book/house.rs";
        if !is_staircase(&path) && !is_this_file {
            let of_modules = MODULES_OF_STEPS.contains(&path.as_str());
            let mut lines = asks_for_a_step(&text);
            lines.retain(|line| !(of_modules && is_before_a_module(&text, *line)));
            assert_eq!(
                lines, [0; 0],
                "{path}: step features stand in lib.rs, mod.rs files and before modules only"
            );
        }
    }
}

#[test]
fn every_way_to_ask_for_a_step_is_found() {
    let text =
        "#[cfg(feature = \"step2\")]\nx\nif cfg!(not(feature=\"step3\")) {\n#[cfg(feature = \"full\")]\n";
    assert_eq!(asks_for_a_step(text), [1, 3]);
    assert!(is_staircase("src/lib.rs") && is_staircase("src/kv/mod.rs") && is_staircase("src/cli/mod.rs"));
    assert!(
        !is_staircase("src/attention/paged.rs")
            && !is_staircase("tests/mod.rs")
            && !is_staircase("src/mod.rs.rs")
    );
}

#[test]
fn source_files_have_400_lines_at_most() {
    for (path, text) in sources(&["src"]) {
        let lines = text.lines().count();
        assert!(lines <= 400, "{path} has {lines} lines; split it");
    }
}

#[test]
fn pages_name_no_machine_paths() {
    let machine = ["/home/", "/root/", "/tmp/", "/work/", "/Users/", "C:\\"];
    for (path, text) in pages() {
        for (at, line) in text.lines().enumerate() {
            let found = machine.iter().find(|m| line.contains(*m));
            assert_eq!(found, None, "{path}:{}: a path of one machine", at + 1);
        }
    }
}
