//! Console fences: every command of the book runs as written, from the repository's root.
//!
//! A line `$ command` is run; the lines below it are its stdout, in which `…` stands for anything. The comment before a fence
//! may be `<!-- exit code 101 -->`: a failure, whose reason the output shown must tell; `<!-- not run: why -->`; or
//! `<!-- run by .ci/run -->`: that script has the same commands, word for word.

use super::page::{Fence, fences, root};
use crate::Checked;
use std::{
    collections::HashMap,
    env,
    process::{Command, Stdio},
    time::Instant,
};

/// One command of a fence.
#[derive(Debug, PartialEq)]
pub struct Step<'a> {
    /// Index of the line with the `$`.
    pub line: usize,
    /// The command, its continued lines included.
    pub command: String,
    /// Lines of the page that show its output.
    pub output: Vec<&'a str>,
    /// Index of the first of them.
    pub output_at: usize,
}

/// Set for the commands, so that one that runs these tests does not run the commands again.
pub const INSIDE: &str = "STAIRWELL_BOOK_RUNS";

/// What a command did.
#[derive(Clone)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The commands of a fence. A trailing backslash continues a command on the next line.
fn steps<'a>(fence: &Fence, lines: &[&'a str]) -> Vec<Step<'a>> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in lines.iter().enumerate().take(fence.close).skip(fence.open + 1) {
        let line = line.strip_prefix(fence.indent).unwrap_or(line);
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { line: at, command: command.into(), output: vec![], output_at: at + 1 })
            }
            (None, Some(step)) if step.output.is_empty() && step.command.ends_with('\\') => {
                step.command += &format!("\n{line}");
                step.output_at = at + 1;
            }
            (None, Some(step)) => step.output.push(line),
            (None, None) => {}
        }
    }
    steps
}

/// Whether fences and the comments before them are in order. `read` gives scripts by path.
pub fn check(text: &str, read: &dyn Fn(&str) -> Option<String>) -> Checked {
    let lines: Vec<&str> = text.lines().collect();
    let mut checked = Checked { text: text.into(), ..Checked::default() };
    for fence in fences(&lines) {
        let first = lines.get(fence.open + 1).map_or("", |l| l.trim_start());
        if fence.tag != "console" {
            if first.starts_with("$ ") {
                checked.wrong(
                    fence.open,
                    format!("commands stand in a `console` fence, not in `{}`", fence.tag),
                );
            }
            continue;
        }
        if !first.starts_with("$ ") {
            checked.wrong(fence.open, "a `console` fence starts with a line `$ command`");
        }
        let fails = fence.notes.iter().find_map(|n| exit_code(n)).is_some_and(|code| code != 0);
        if fails && steps(&fence, &lines).iter().all(|step| step.output.is_empty()) {
            let why = "a command fails for many reasons; show a line of the output that tells the right one";
            checked.wrong(fence.open, why);
        }
        for note in &fence.notes {
            let script = note.strip_prefix("run by ");
            let known = note.starts_with("not run: ") || exit_code(note).is_some() || script.is_some();
            if !known && !note.starts_with("figures: ") {
                let forms = "'not run: why', 'run by SCRIPT' and 'exit code N'";
                checked.wrong(fence.open, format!("'{note}' says nothing about commands; known are {forms}"));
            }
            let Some(script) = script else { continue };
            let Some(body) = read(script) else {
                checked.wrong(fence.open, format!("there is no script '{script}'"));
                continue;
            };
            for step in steps(&fence, &lines) {
                if !body.lines().any(|l| l.trim() == step.command) {
                    checked.wrong(step.line, format!("'{}' is not a line of {script}", step.command));
                }
            }
        }
    }
    checked
}

fn exit_code(note: &str) -> Option<i32> {
    note.strip_prefix("exit code ")?.parse().ok()
}

/// Runs a page's commands in order and compares what they give. Output without `…` can be mended.
pub fn run(name: &str, text: &str, shell: &mut dyn FnMut(&str) -> Ran) -> Checked {
    let lines: Vec<&str> = text.lines().collect();
    let mut checked = Checked::default();
    let mut at = 0;
    for fence in fences(&lines) {
        if fence.tag != "console"
            || fence.notes.iter().any(|n| n.starts_with("not run: ") || n.starts_with("run by "))
        {
            continue;
        }
        let expected = fence.notes.iter().find_map(|n| exit_code(n)).unwrap_or(0);
        for step in steps(&fence, &lines) {
            // Such a command asks only that tests pass, and `.ci/run` has seen all of them do so.
            if as_tested() && step.command.starts_with("cargo test") && step.output.is_empty() {
                println!("{name}:{}: run already: {}", step.line + 1, step.command);
                continue;
            }
            let start = Instant::now();
            let ran = shell(&step.command);
            println!("{name}:{}: {:.1} s: {}", step.line + 1, start.elapsed().as_secs_f64(), step.command);
            if ran.code != Some(expected) {
                let code = ran.code.map_or("a signal".into(), |c| format!("exit code {c}"));
                let message =
                    format!("'{}' gave {code}, expected exit code {expected}\n{}", step.command, ran.stderr);
                checked.wrong(step.line, message);
            }
            let got: Vec<&str> = ran.stdout.lines().map(str::trim_end).collect();
            if step.output.is_empty() || fits(&step.output, &got) {
                continue;
            }
            let shown = got.join("\n");
            let message = format!("'{}' printed something else than the page shows:\n{shown}", step.command);
            if step.output.iter().any(|l| l.contains('…')) {
                checked.wrong(step.line, message);
                continue;
            }
            checked.stale(step.line, message);
            checked.keep(&lines[at..step.output_at]);
            checked.keep(&got.iter().map(|l| format!("{}{l}", fence.indent)).collect::<Vec<_>>());
            at = step.output_at + step.output.len();
        }
    }
    checked.keep(&lines[at..]);
    checked
}

/// Whether lines fit what a page shows: `…` alone stands for any lines, within a line for any text.
fn fits(shown: &[&str], got: &[&str]) -> bool {
    match (shown, got) {
        ([], []) => true,
        ([first, shown @ ..], _) if first.trim() == "…" => (0..=got.len()).any(|n| fits(shown, &got[n..])),
        ([first, shown @ ..], [line, got @ ..]) => line_fits(first.trim_end(), line) && fits(shown, got),
        _ => false,
    }
}

fn line_fits(shown: &str, line: &str) -> bool {
    match shown.split_once('…') {
        None => shown == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| line_fits(after, &rest[i..]))
        }),
    }
}

/// A shell in the repository's root, as a reader has it: without what `cargo test` sets, and without the network, since all
/// crates are there. The same command is run once.
pub fn shell() -> impl FnMut(&str) -> Ran {
    let mut known: HashMap<String, Ran> = HashMap::new();
    move |command| {
        let run = || {
            let mut bash = Command::new("bash");
            bash.args(["-c", &as_full(command)]).current_dir(root()).stdin(Stdio::null());
            let own = ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS"];
            let set_by_cargo = |v: &String| v.starts_with("CARGO") && !own.contains(&v.as_str());
            for variable in env::vars().map(|(v, _)| v).filter(set_by_cargo) {
                bash.env_remove(variable);
            }
            // OUT_DIR too: the build of a dependency (ring) starts again, and with it this crate's, when that changes.
            for variable in ["LD_LIBRARY_PATH", "OUT_DIR", "RUST_BACKTRACE", "UPDATE_BOOK"] {
                bash.env_remove(variable);
            }
            bash.env("CARGO_NET_OFFLINE", "true").env("NO_COLOR", "1").env(INSIDE, "1");
            // Shown numbers have the last digits of one instruction set; this one is everywhere.
            bash.env("STAIRWELL_ISA", "portable");
            let output = bash.output().expect("bash");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
        };
        known.entry(command.to_owned()).or_insert_with(run).clone()
    }
}

/// Whether BOOK_AS_TESTED is set: the tests have just run, and what they have built is used.
fn as_tested() -> bool {
    env::var_os("BOOK_AS_TESTED").is_some()
}

/// The command as `.ci/run` has time for: on the build of everything for the steps that BOOK_AS_FULL names (`step4,step5`), since features are
/// cumulative and these steps show the same in it; and without `--release` on the program that the tests have built.
fn as_full(command: &str) -> String {
    let steps = env::var("BOOK_AS_FULL").unwrap_or_default();
    let asked = steps.split(',').filter(|step| !step.is_empty());
    let command = asked.fold(command.to_owned(), |command, step| {
        command.replace(&format!("--features {step} "), "--features full ")
    });
    if as_tested() { command.replace("--release ", "") } else { command }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "```console\n$ one \\\n  more\n$ two\na\nb c\n```\ntext\n<!-- exit code 3 -->\n```console\n$ three\n…\nlast …!\n```\n\
        <!-- not run: it is slow -->\n```console\n$ four\n```\n<!-- run by ci -->\n```console\n$ five\n```\n";

    fn answer(command: &str) -> Ran {
        let (code, stdout) = match command {
            "one \\\n  more" => (0, "anything"),
            "two" => (0, "a\nb c\n"),
            "three" => (3, "x\ny\nlast one!\n"),
            other => panic!("'{other}' was run"),
        };
        Ran { code: Some(code), stdout: stdout.into(), stderr: String::new() }
    }

    #[test]
    fn a_page_that_tells_the_truth_passes() {
        assert_eq!(run("p", PAGE, &mut answer), Checked { text: PAGE.into(), ..Checked::default() });
        let read = |path: &str| (path == "ci").then(|| "x\n  five\n".to_owned());
        assert_eq!(check(PAGE, &read), Checked { text: PAGE.into(), ..Checked::default() });
    }

    #[test]
    fn other_output_is_found_and_mended() {
        for (from, to) in [("b c\n", "b d\n"), ("a\nb", "b"), ("b c\n", "b c\n\n")] {
            let checked = run("p", &PAGE.replacen(from, to, 1), &mut answer);
            assert!(checked.stale[0].starts_with("4: 'two' printed something else"), "{checked:?}");
            assert_eq!(checked.text, PAGE);
        }
        for (from, to) in [("last …!", "last …?"), ("…\nlast", "last"), ("…\nlast", "z\n…\nlast")] {
            let checked = run("p", &PAGE.replacen(from, to, 1), &mut answer);
            assert!(checked.wrong.len() + checked.stale.len() == 1, "{checked:?}");
        }
    }

    #[test]
    fn another_exit_code_is_found() {
        let checked = run("p", &PAGE.replace("exit code 3", "exit code 4"), &mut answer);
        assert!(
            checked.wrong[0].starts_with("11: 'three' gave exit code 3, expected exit code 4"),
            "{checked:?}"
        );
        let checked = run("p", PAGE, &mut |c| Ran {
            code: Some(i32::from(c == "two") + 3 * i32::from(c == "three")),
            ..answer(c)
        });
        assert!(
            checked.wrong.len() == 1 && checked.wrong[0].starts_with("4: 'two' gave exit code 1"),
            "{checked:?}"
        );
    }

    #[test]
    fn exceptions_are_stated_in_known_words() {
        let cases = [
            ("not run: it", "not ran: it", "says nothing about commands"),
            ("run by ci", "run by cd", "there is no script 'cd'"),
            ("$ five", "$ six", "'six' is not a line of ci"),
            ("console\n$ four", "text\n$ four", "`console` fence"),
            ("$ four", "four", "starts with a line `$ command`"),
            ("…\nlast …!\n", "", "show a line of the output"),
        ];
        for (from, to, want) in cases {
            let read = |path: &str| (path == "ci").then(|| "five\n".to_owned());
            let checked = check(&PAGE.replacen(from, to, 1), &read);
            assert!(checked.wrong.len() == 1 && checked.wrong[0].contains(want), "{checked:?}");
        }
    }

    #[test]
    fn the_shell_runs_in_the_root() {
        let ran = shell()("ls Cargo.toml; echo $CARGO_MANIFEST_DIR; exit 5");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), "Cargo.toml\n\n"));
    }
}
