//! What stdout and stderr look like: colours only for people, progress bars only where they help.

use comfy_table::CellAlignment::{Left, Right};
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use stairwell::error::{Error, Result};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use std::{env, io};

/// Whether colours are wanted on a stream: it is a terminal, and `NO_COLOR` (<https://no-color.org>) is not set.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// The text in an ANSI style such as "1" (bold), if `on`.
pub fn styled(text: &str, style: &str, on: bool) -> String {
    if on { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

/// One line on stderr.
pub fn print_error(message: &str) {
    let label = styled("error:", "1;31", colours(&io::stderr()));
    let _ = writeln!(io::stderr(), "{label} {}", message.replace(char::is_control, " "));
}

/// What went wrong, in the words of the command line: where the library says `top_p`, the user gave `--top-p`.
pub fn in_flags(error: &Error) -> String {
    error.spelled(&|field| format!("--{}", field.replace('_', "-")))
}

/// A remark on stderr.
pub fn print_note(message: &str) {
    let label = styled("note:", "1;36", colours(&io::stderr()));
    let _ = writeln!(io::stderr(), "{label} {message}");
}

/// Writes to stdout, at once.
///
/// # Errors
/// If stdout can't be written; a closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Error::Io { path: "stdout".into(), error })
}

/// A report as one line of JSON.
pub fn json_line(report: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(report).expect("a report's keys are strings");
    json + "\n"
}

/// A progress bar on stderr, if that is a terminal. It leaves nothing behind.
pub fn bar(total: usize, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_finish(ProgressFinish::AndClear)
}

/// A bar for work in bytes. It appears after a second.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        let bar = bar(0, "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}").with_message(what);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        Progress(bar)
    }

    /// Another `bytes` of `total` are done.
    pub fn add(&self, bytes: u64, total: u64) {
        self.0.set_length(total);
        self.0.inc(bytes);
        if self.0.is_hidden() && self.0.elapsed() > Duration::from_secs(1) {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

/// A table without lines, its columns two spaces apart. Cells stand at the right where the head begins with `>`.
pub fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [Cell; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heads.map(|head| head.trim_start_matches('>'))).add_rows(rows);
    for (column, head) in table.column_iter_mut().zip(heads) {
        let right = head.starts_with('>');
        column.set_padding((0, 2)).set_cell_alignment(if right { Right } else { Left });
    }
    table.trim_fmt() + "\n"
}

/// Bytes as a person reads them: 1.2 GB.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// The most memory that this process has held, in bytes, where the system tells (Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
