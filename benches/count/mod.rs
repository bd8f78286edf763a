//! The counters of kernels, as a table and as JSON: what the benches of steps 5 and 9 share. And a line of what a GPU took.

use serde_json::{Value, json};
use stairwell::{
    backend::cuda::{KernelShape, Profile, Simulated, profile_kernel, with_workload},
    error::Result,
};

/// What the columns mean.
pub const HEAD: &str = "x least: bytes of the sectors read ÷ bytes that must be; x asked: bytes that lanes asked for ÷ bytes that must be";

/// A section of the table: kernels, and the shapes that each runs on.
pub struct Section {
    pub key: &'static str,
    pub title: &'static str,
    pub kernels: &'static [&'static str],
    pub shapes: &'static [&'static str],
}

/// The counters of one kernel on one shape.
fn counted(section: &Section, kernel: &str, shape: &KernelShape) -> Result<Value> {
    let profile: Profile = profile_kernel(kernel, shape)?;
    let device = Simulated::default();
    let (blocks, launches) = with_workload(&device, kernel, shape, |launches| {
        let blocks: u32 = launches[0].grid.blocks.iter().product();
        Ok((blocks, launches.len()))
    })?;
    let requests = |shared: bool| -> u64 {
        profile.sites.iter().filter(|site| site.shared == shared).map(|site| site.requests).sum()
    };
    let times = |bytes: u64| (1000.0 * bytes as f64 / profile.least_read as f64).round() / 1000.0;
    Ok(json!({
        "section": section.key,
        "kernel": kernel,
        "shape": shape.to_string(),
        "launches": launches,
        "blocks": blocks,
        "requests": requests(false),
        "bytes_read": 32 * profile.sectors(false),
        "bytes_written": 32 * profile.sectors(true),
        "least_read": profile.least_read,
        "times_the_least": times(32 * profile.sectors(false)),
        "times_asked": times(profile.bytes(false)),
        "shared_requests": requests(true),
        "bank_conflicts": profile.bank_conflicts(),
        "barriers": profile.barriers,
    }))
}

fn print_counted(row: &Value) {
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    println!(
        "{:<32} {:>7} {:>9} {:>11} {:>8.2} {:>8.2} {:>11} {:>9} {:>9}",
        row["kernel"].as_str().unwrap_or(""),
        number("blocks"),
        number("requests"),
        number("bytes_read"),
        row["times_the_least"].as_f64().unwrap_or(0.0),
        row["times_asked"].as_f64().unwrap_or(0.0),
        number("shared_requests"),
        number("bank_conflicts"),
        number("barriers"),
    );
}

/// Counts every kernel of some sections on every shape, prints a table, and adds the counters to `rows`.
pub fn count_all(sections: &[Section], rows: &mut Vec<Value>) -> Result<()> {
    for section in sections {
        println!("\n{}", section.title);
        for shape in section.shapes {
            let full = KernelShape::parse(section.kernels[0], shape)?;
            println!(
                "\n{full}\n{:<32} {:>7} {:>9} {:>11} {:>8} {:>8} {:>11} {:>9} {:>9}",
                "kernel",
                "blocks",
                "requests",
                "bytes read",
                "x least",
                "x asked",
                "req. shared",
                "conflicts",
                "barriers"
            );
            for kernel in section.kernels {
                let row = counted(section, kernel, &KernelShape::parse(kernel, shape)?)?;
                print_counted(&row);
                rows.push(row);
            }
        }
    }
    Ok(())
}

/// Prints the time of a kernel on a GPU, and gives it as JSON: the bytes that it must move, its seconds, and a copy's bytes per second.
pub fn print_timed(section: &Section, kernel: &str, shape: &str, [bytes, seconds, copy]: [f64; 3]) -> Value {
    let speed = bytes / seconds;
    println!("{kernel:<32} {:>10.1} {:>8.0} {:>8.1}", 1e6 * seconds, speed / 1e9, 100.0 * speed / copy);
    json!({
        "section": section.key, "kernel": kernel, "shape": shape, "microseconds": 1e6 * seconds,
        "gigabytes_per_second": speed / 1e9, "of_copy": speed / copy,
    })
}
