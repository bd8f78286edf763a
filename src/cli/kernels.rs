//! `stairwell kernels`: what the kernels do, told by the simulator.

use super::terminal::{json_line, print, table};
use comfy_table::Cell;
use serde::Serialize;
use stairwell::backend::cuda::{KernelShape, Profile, Site, profile_kernel};
use stairwell::error::Result;

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

pub fn run(args: Args) -> Result<()> {
    let What::Profile(args) = args.what;
    let shape = KernelShape::parse(&args.name, &args.shape)?;
    let profile = profile_kernel(&args.name, &shape)?;
    let report = Report::new(&args.name, &shape, &profile);
    print(&if args.json { json_line(&report) } else { report.text() })
}

/// What is printed.
#[derive(Serialize)]
struct Report<'a> {
    kernel: &'a str,
    shape: String,
    read: Side,
    written: Side,
    barriers: u64,
    bank_conflicts: u64,
    sites: &'a [Site],
}

/// Global memory in one direction.
#[derive(Serialize)]
struct Side {
    bytes: u64,
    sectors: u64,
    sector_bytes: u64,
    least_bytes: u64,
}

impl<'a> Report<'a> {
    fn new(kernel: &'a str, shape: &KernelShape, profile: &'a Profile) -> Report<'a> {
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
            sites: &profile.sites,
        }
    }

    /// The report as a person reads it.
    fn text(&self) -> String {
        let Report { kernel, shape, sites, barriers, bank_conflicts, .. } = self;
        let heads = ["line", "", ">requests", ">bytes", ">sectors", ">a request", ""];
        let lines = table(heads, sites.iter().map(row));
        let moved = |what: &str, side: &Side| {
            let Side { bytes, sector_bytes, least_bytes, .. } = side;
            let [moved, asked] = [sector_bytes, bytes].map(|n| *n as f64 / (*least_bytes).max(1) as f64);
            format!(
                "global memory {what}: {sector_bytes} bytes in sectors, {moved:.2} times the {least_bytes} bytes that it must; lanes asked \
                 for {asked:.2} times\n"
            )
        };
        format!("{kernel}, {shape}\n\n{lines}\n")
            + &moved("read", &self.read)
            + &moved("written", &self.written)
            + &format!("barriers {barriers}, turns lost to bank conflicts {bank_conflicts}\n")
    }
}

/// A line of the table.
fn row(site: &Site) -> [Cell; 7] {
    let Site { shared, writes, requests, bytes, sectors, turns, .. } = *site;
    let line = site.file.as_ref().zip(site.line).map_or("?".into(), |(file, line)| format!("{file}:{line}"));
    let what = match (shared, writes) {
        (false, false) => "read",
        (false, true) => "write",
        (true, false) => "shared",
        (true, true) => "sh. wr.",
    };
    let (moved, unit) = if shared { (turns, "turns") } else { (sectors, "") };
    let each = format!("{:.2}", moved as f64 / requests as f64);
    let sectors = if shared { "–".to_owned() } else { sectors.to_string() };
    [line.into(), what.into(), requests.into(), bytes.into(), sectors.into(), each.into(), unit.into()]
}
