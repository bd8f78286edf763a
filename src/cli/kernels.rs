//! `stairwell kernels`: what the kernels do, told by the simulator.

use super::{
    Outcome,
    terminal::{json_line, print},
};
use serde::Serialize;
use stairwell::{
    backend::cuda::{KernelShape, Profile, Site, profile_kernel},
    error::Result,
};
use std::fmt::Write;

/// What the GPU's kernels read and write, counted without a GPU
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Run a kernel on the simulator and count its memory traffic, line by line
    #[command(after_help = "\
A request is one instruction of a warp of 32 threads. Global memory moves in sectors of 32 bytes: a request for 32 floats in a row takes 4.
Shared memory has 32 banks; a request takes more than one turn where lanes want different words of one bank.

Lines are known in builds with debug information: leave --release out.

Example:
  stairwell kernels profile rms_norm_v0 --shape rows=8,width=1024")]
    Profile(ProfileArgs),
}

#[derive(clap::Args)]
struct ProfileArgs {
    /// The kernel, such as rms_norm_v0 or paged_attention_v0_bf16
    name: String,
    /// Its shape, such as rows=8,width=1024; numbers that are left out have defaults
    #[arg(long, value_name = "NAME=N,…", default_value = "", hide_default_value = true)]
    shape: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<Outcome> {
    let What::Profile(args) = args.what;
    let shape = KernelShape::parse(&args.name, &args.shape)?;
    let profile = profile_kernel(&args.name, &shape)?;
    print(&if args.json {
        json_line(&Report::new(&args.name, &shape, &profile))
    } else {
        table(&args.name, &shape, &profile)
    })?;
    Ok(Outcome::Good)
}

fn table(name: &str, shape: &KernelShape, profile: &Profile) -> String {
    let mut text = format!(
        "{name}, {shape}\n\n{:<24} {:>6} {:>10} {:>12} {:>10} {:>9}\n",
        "line", "", "requests", "bytes", "sectors", "a request"
    );
    for site in &profile.sites {
        let line = site.line.as_ref().map_or("?".into(), |(file, line)| format!("{file}:{line}"));
        let what = match (site.shared, site.writes) {
            (false, false) => "read",
            (false, true) => "write",
            (true, false) => "shared",
            (true, true) => "sh. wr.",
        };
        let moved = if site.shared { site.turns } else { site.sectors };
        let each = moved as f64 / site.requests as f64;
        let sectors = if site.shared { String::from("–") } else { site.sectors.to_string() };
        let unit = if site.shared { " turns" } else { "" };
        let _ = writeln!(
            text,
            "{line:<24} {what:>7} {:>9} {:>12} {sectors:>10} {each:>9.2}{unit}",
            site.requests, site.bytes
        );
    }
    text.push('\n');
    for (what, writes, least) in
        [("read", false, profile.least_read), ("written", true, profile.least_written)]
    {
        let moved = 32 * profile.sectors(writes);
        let times = moved as f64 / least.max(1) as f64;
        let asked = profile.bytes(writes) as f64 / least.max(1) as f64;
        let _ = writeln!(
            text,
            "global memory {what}: {moved} bytes in sectors, {times:.2} times the {least} bytes that it must; lanes asked for {asked:.2} times"
        );
    }
    let _ = writeln!(
        text,
        "barriers {}, turns lost to bank conflicts {}",
        profile.barriers,
        profile.bank_conflicts()
    );
    text
}

/// The table in JSON.
#[derive(Serialize)]
struct Report<'a> {
    kernel: &'a str,
    shape: String,
    read: Side,
    written: Side,
    barriers: u64,
    bank_conflicts: u64,
    sites: Vec<SiteReport<'a>>,
}

/// Global memory in one direction.
#[derive(Serialize)]
struct Side {
    bytes: u64,
    sectors: u64,
    sector_bytes: u64,
    least_bytes: u64,
}

#[derive(Serialize)]
struct SiteReport<'a> {
    file: Option<&'a str>,
    line: Option<u32>,
    memory: &'static str,
    writes: bool,
    requests: u64,
    bytes: u64,
    sectors: u64,
    turns: u64,
}

impl<'a> Report<'a> {
    fn new(kernel: &'a str, shape: &KernelShape, profile: &'a Profile) -> Report<'a> {
        let site = |site: &'a Site| {
            let (file, line) = site.line.as_ref().map(|(file, line)| (file.as_str(), *line)).unzip();
            let memory = if site.shared { "shared" } else { "global" };
            let Site { writes, requests, bytes, sectors, turns, .. } = *site;
            SiteReport { file, line, memory, writes, requests, bytes, sectors, turns }
        };
        let side = |writes: bool, least_bytes: u64| {
            let sectors = profile.sectors(writes);
            Side { bytes: profile.bytes(writes), sectors, sector_bytes: 32 * sectors, least_bytes }
        };
        Report {
            kernel,
            shape: shape.to_string(),
            read: side(false, profile.least_read),
            written: side(true, profile.least_written),
            barriers: profile.barriers,
            bank_conflicts: profile.bank_conflicts(),
            sites: profile.sites.iter().map(site).collect(),
        }
    }
}
