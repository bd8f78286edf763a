//! Benchmarks against the roofline: criterion runs and saves them, and a table tells what they reach.

use super::Roofline;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, measurement::WallTime};
use serde_json::{Map, Value, json};
use std::{
    env, fs,
    time::{Duration, Instant},
};

/// What one call of a benchmark does at least.
pub struct Work {
    pub operations: f64,
    /// Read from memory.
    pub bytes: f64,
    /// The instruction set that multiplies.
    pub peak: &'static str,
}

/// The limits of this machine and what was measured beside them.
pub struct Report {
    name: &'static str,
    criterion: Criterion,
    roofline: Roofline,
    /// Each case as the table tells it, what a call does, and seconds of a call.
    measured: Vec<(Value, Work, f64)>,
    quick: bool,
}

impl Report {
    /// Measures the limits. The results will be in `target/NAME.json`.
    pub fn new(name: &'static str) -> Report {
        let asked = |name: &str| env::args().any(|arg| arg == name);
        let quick = asked("--test") || !asked("--bench"); // what criterion takes for a test
        let criterion = Criterion::default()
            .sample_size(10)
            .nresamples(2_000)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(800))
            .configure_from_args();
        let roofline = Roofline::measure(quick);
        Report { name, criterion, roofline, measured: Vec::new(), quick }
    }

    /// Whether benchmarks are only tried, once each: then they may be smaller.
    pub fn quick(&self) -> bool {
        self.quick
    }

    /// Benchmarks a call of `body`, if the command line does not leave it out. `case` is what the table tells of it.
    pub fn bench(&mut self, group: &str, id: BenchmarkId, case: Value, work: Work, mut body: impl FnMut()) {
        let mut samples = Vec::new();
        let mut group = self.criterion.benchmark_group(group);
        settings(&mut group, &work).bench_function(id, |b| {
            b.iter_custom(|calls| {
                let start = Instant::now();
                (0..calls).for_each(|_| body());
                let elapsed = start.elapsed();
                samples.push((elapsed.as_secs_f64(), calls));
                elapsed
            });
        });
        group.finish();
        if let Some(seconds) = fastest(&samples) {
            self.measured.push((case, work, seconds));
        }
    }

    /// Measures the limits again, as the machine may have been busy, prints the table and writes the file; but not for what was only tried.
    pub fn finish(self) {
        self.criterion.final_summary();
        if self.quick {
            return;
        }
        let roofline = self.roofline.better(Roofline::measure(false));
        println!("\n{}", roofline.json());
        let rows: Vec<_> = self.measured.into_iter().map(|measured| row(&roofline, measured)).collect();
        print(&rows);
        let target = env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
        let path = format!("{target}/{}.json", self.name);
        let result = json!({"roofline": roofline.json(), "rows": rows});
        fs::write(&path, result.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Samples of as many calls each, and what criterion tells beside the time.
fn settings<'a, 'b>(
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    work: &Work,
) -> &'a mut BenchmarkGroup<'b, WallTime> {
    let (elements, bytes) = (work.operations as u64, work.bytes as u64);
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::ElementsAndBytes { elements, bytes })
}

/// Seconds of a call in the fastest sample, as the limits are those of the fastest round. All of criterion's samples have as many calls as the
/// last; fewer are warming up, and then one call alone may find its operands in a cache.
fn fastest(samples: &[(f64, u64)]) -> Option<f64> {
    let (_, calls) = samples.last()?;
    let full = samples.iter().filter(|(_, of)| of == calls);
    full.map(|(seconds, calls)| seconds / *calls as f64).min_by(f64::total_cmp)
}

fn row(roofline: &Roofline, (case, work, seconds): (Value, Work, f64)) -> Map<String, Value> {
    let Value::Object(mut row) = case else { unreachable!("a case is an object") };
    row.insert("gflops".into(), json!(work.operations / seconds / 1e9));
    row.insert("gigabytes_per_second".into(), json!(work.bytes / seconds / 1e9));
    row.insert("share_of_roofline".into(), json!(roofline.seconds(&work) / seconds));
    row
}

/// The rows as a table, whose columns are the names in the first.
fn print(rows: &[Map<String, Value>]) {
    let Some(first) = rows.first() else { return };
    let line = |cells: Vec<String>| println!("| {} |", cells.join(" | "));
    let heading = |name: &String| match name.as_str() {
        "gflops" => "GFLOP/s".into(),
        "gigabytes_per_second" => "GB/s".into(),
        name => name.replace('_', " "),
    };
    println!();
    line(first.keys().map(heading).collect());
    line(first.keys().map(|_| "---".into()).collect());
    let cell = |(name, value): (&String, &Value)| match (name.as_str(), value.as_str(), value.as_f64()) {
        (_, Some(text), _) => text.to_string(),
        ("share_of_roofline", _, Some(share)) => format!("{:.0} %", 100.0 * share),
        ("gflops" | "gigabytes_per_second", _, Some(x)) if x < 10.0 => format!("{x:.2}"),
        ("gflops" | "gigabytes_per_second", _, Some(x)) => format!("{x:.1}"),
        _ => value.to_string(),
    };
    rows.iter().for_each(|row| line(row.iter().map(cell).collect()));
}
