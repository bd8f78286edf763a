//! A page of Markdown as the checks see it: fences with the comments right before them, and the prose between.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Pages by their path from the root, with `/`.
pub fn pages() -> Vec<(String, String)> {
    let fixed = [
        "BOOK.md",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "models/demo/README.md",
        "kernels/README.md",
        "tests/fixtures/README.md",
    ];
    let mut paths: Vec<PathBuf> = fixed.iter().map(|p| root().join(p)).filter(|p| p.is_file()).collect();
    paths.extend(files_below(&root().join("steps"), &["md"]));
    let name = |p: &Path| p.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    paths.into_iter().map(|p| (name(&p), fs::read_to_string(&p).unwrap())).collect()
}

/// Files with one of the extensions, at any depth, sorted.
pub fn files_below(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|e| e.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_below(&path, extensions));
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A fenced block.
#[derive(Debug, PartialEq)]
pub struct Fence<'a> {
    /// Index of the opening line.
    pub open: usize,
    /// Index of the closing line.
    pub close: usize,
    /// Spaces before the fence.
    pub indent: &'a str,
    /// The first word after the backticks.
    pub tag: &'a str,
    /// What the comments on the lines right before it say.
    pub notes: Vec<&'a str>,
}

/// The fences of a page.
pub fn fences<'a>(lines: &[&'a str]) -> Vec<Fence<'a>> {
    let mut fences = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim_start();
        let ticks = line.len() - line.trim_start_matches('`').len();
        if ticks >= 3 {
            let ends = |l: &&str| l.trim().len() >= ticks && l.trim().chars().all(|c| c == '`');
            let close = lines[at + 1..].iter().position(ends).map_or(lines.len() - 1, |n| at + 1 + n);
            let mut notes: Vec<&str> = lines[..at].iter().rev().map_while(|l| comment(l)).collect();
            notes.reverse();
            let indent = &lines[at][..lines[at].len() - line.len()];
            fences.push(Fence { open: at, close, indent, tag: line[ticks..].trim(), notes });
            at = close;
        }
        at += 1;
    }
    fences
}

/// What a line says that is one comment and nothing else.
pub fn comment(line: &str) -> Option<&str> {
    let inside = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    (!inside.contains("<!--")).then_some(inside.trim())
}

/// The lines outside of fences with their indices; `code spans` are blanked if asked.
pub fn prose(text: &str, blank_code: bool) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let fences = fences(&lines);
    let outside = |i: &usize| !fences.iter().any(|f| (f.open..=f.close).contains(i));
    let indices = (0..lines.len()).filter(outside);
    indices.map(|i| (i, if blank_code { without_code(lines[i]) } else { lines[i].into() })).collect()
}

fn without_code(line: &str) -> String {
    line.split('`')
        .enumerate()
        .map(|(i, part)| if i % 2 == 0 { part } else { "" })
        .collect::<Vec<_>>()
        .join("`")
}

#[test]
fn fences_are_found_with_their_notes() {
    let text = "a\n<!-- src/x.rs#y -->\n<!-- exit code 1 -->\n```rust\nlet `x`;\n```\n  ````text\n```\n  ````\nz `c` d";
    let lines: Vec<&str> = text.lines().collect();
    let found = fences(&lines);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].open, found[0].close, found[0].tag), (3, 5, "rust"));
    assert_eq!(found[0].notes, ["src/x.rs#y", "exit code 1"]);
    assert_eq!((found[1].open, found[1].close, found[1].indent, found[1].tag), (6, 8, "  ", "text"));
    let outside: Vec<(usize, String)> = prose(text, true);
    assert_eq!(outside.last().unwrap(), &(9, "z `` d".into()));
    assert_eq!(outside.len(), 4);
}
