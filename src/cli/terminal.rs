//! What stdout and stderr look like: colours only for people, progress bars only where they help.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stairwell::error::{Error, Result};
use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::{Duration, Instant},
};

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

/// A bar for work in bytes. It appears after a second, on a terminal, and leaves nothing behind.
pub struct Progress {
    what: &'static str,
    start: Instant,
    bar: OnceLock<ProgressBar>,
    done: std::sync::atomic::AtomicU64,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        Progress { what, start: Instant::now(), bar: OnceLock::new(), done: 0.into() }
    }

    /// Another `bytes` of `total` are done.
    pub fn add(&self, bytes: u64, total: u64) {
        let done = bytes + self.done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        if self.start.elapsed() > Duration::from_secs(1) && io::stderr().is_terminal() {
            self.bar.get_or_init(|| bar(self.what, total)).set_position(done);
        }
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
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
