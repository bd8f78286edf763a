//! `stairwell timeline`: a page that draws a recorded schedule.

use super::terminal::print_note;
use stairwell::error::{Error, Result};
use stairwell::files;
use stairwell::trace::{Schedule, Tab, View, page};
use std::{fs, path::PathBuf};

/// Draw a schedule that --trace has recorded: when each request waits, prefills and decodes
#[derive(clap::Args)]
#[command(after_help = "\
The page is one file for a browser. Where the trace has blocks, it shows the KV cache too.

Example:
  stairwell bench throughput --num-requests 12 --max-num-seqs 4 --trace trace.json
  stairwell timeline trace.json --out timeline.html")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Show the steps from this time on, in milliseconds from the first arrival
    #[arg(long, value_name = "MS")]
    from: Option<f64>,
    /// Show the steps before this time
    #[arg(long, value_name = "MS")]
    to: Option<f64>,
}

/// A trace, and the page that is made of it.
#[derive(clap::Args)]
pub struct Files {
    /// What --trace wrote
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,
    /// The page
    #[arg(long, value_name = "FILE.html", value_parser = html)]
    pub out: PathBuf,
}

fn html(name: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(name);
    let ends = path.extension().is_some_and(|extension| extension == "html");
    ends.then_some(path).ok_or_else(|| "the name must end in .html".into())
}

impl Files {
    /// The trace's text, and what `parse` reads in it.
    ///
    /// # Errors
    /// A file that can't be read or is no trace, by its name.
    pub fn read<T>(&self, parse: fn(&str) -> Result<T>) -> Result<(String, T)> {
        files::check_outputs(&[("--out", &self.out)], &[("the trace", self.trace.clone())])?;
        let bytes = files::read_input(&self.trace)?;
        let text = String::from_utf8(bytes).map_err(|e| Error::Request(format!("not a trace ({e})")));
        let read = text.and_then(|text| parse(&text).map(|read| (text, read)));
        read.map_err(|error| {
            Error::Request(format!(
                "{}: {error}; `--trace FILE` of batch and bench writes a trace, with blocks under `--attention paged`",
                self.trace.display()
            ))
        })
    }

    /// Writes the page.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, record: &str, view: &View) -> Result<()> {
        let written = fs::write(&self.out, page(record, view));
        written.map_err(|error| Error::Io { path: self.out.clone(), error })
    }
}

pub fn run(args: Args) -> Result<()> {
    let (record, schedule) = args.files.read(Schedule::parse)?;
    let end = schedule.end();
    let (from, to) = (args.from.unwrap_or(0.0), args.to.unwrap_or(end).min(end));
    if !(from >= 0.0 && from < to) {
        let asked = args.to.map_or(String::new(), |to| format!(" --to {to}"));
        let message = format!(
            "--from {from}{asked}: there is nothing between them; {} goes from 0 to {end:.1} ms",
            args.files.trace.display()
        );
        return Err(Error::Usage(message));
    }
    args.files.write(&record, &View { tab: Tab::Schedule, steps: schedule.between(from, to) })?;
    let (requests, steps) = (schedule.requests(), schedule.steps());
    print_note(&format!("{}: {requests} requests, {steps} steps", args.files.out.display()));
    Ok(())
}
