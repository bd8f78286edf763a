//! When requests leave, how many are under way, and what the client itself costs.

use super::client::{Client, Outcome, Prepared};
use indicatif::ProgressBar;
use rand::{SeedableRng, rngs::ChaCha20Rng};
use rand_distr::{Distribution, Gamma};
use serde::{Serialize, Serializer};
use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::{sync::Semaphore, time::sleep_until};

/// How fast requests leave.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Load")]
pub struct Load {
    /// Requests under way at a time; the others wait in the client, and their clocks have not begun [default: no limit]
    #[arg(long, value_name = "C", value_parser = super::count())]
    pub max_concurrency: Option<usize>,
    /// Requests a second, at random times; inf sends all at the start
    #[arg(long, value_name = "R", default_value = "inf", value_parser = parse_rate)]
    #[serde(serialize_with = "finite")]
    pub request_rate: f64,
    /// With --request-rate: 1 is a Poisson process; below 1, requests come in bursts; above 1, they come evenly
    // The gaps have a gamma distribution of this shape, as in vLLM's bench.
    #[arg(long, value_name = "B", default_value_t = 1.0, value_parser = parse_burstiness)]
    pub burstiness: f64,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0);
    rate.ok_or_else(|| format!("'{text}' is not a number of requests a second; give one above 0, or inf"))
}

fn parse_burstiness(text: &str) -> Result<f64, String> {
    let shape = text.parse().ok().filter(|shape: &f64| (1e-3..=1e6).contains(shape));
    shape.ok_or_else(|| format!("'{text}' is no burstiness; give a number from 0.001 to 1000000"))
}

/// JSON has no infinity: all at the start is `null`.
fn finite<S: Serializer>(rate: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    rate.is_finite().then_some(rate).serialize(serializer)
}

impl Load {
    /// When each of `n` requests leaves, since the start. The first one leaves at once; the same seed gives the same times.
    pub fn departures(&self, n: usize, seed: u64) -> Vec<Duration> {
        let mean = 1.0 / self.request_rate;
        // A gamma distribution of shape b and scale mean / b has this mean. Its parameters are above 0, unless the rate is infinite.
        let gaps = Gamma::new(self.burstiness, mean / self.burstiness).ok();
        let mut random = ChaCha20Rng::seed_from_u64(seed);
        let mut gap = || gaps.map_or(0.0, |gaps| gaps.sample(&mut random));
        let mut at = 0.0;
        (0..n)
            .map(|_| {
                let departure = Duration::from_secs_f64(f64::min(at, 1e9));
                at += gap();
                departure
            })
            .collect()
    }
}

/// What sending all requests gave.
pub struct Run {
    /// In the order of departure.
    pub outcomes: Vec<Outcome>,
    /// From the first departure to the end of the last answer.
    pub seconds: f64,
    /// The most requests that were under way at one time.
    pub peak_concurrency: usize,
    /// CPU time of this process, where the system tells.
    pub cpu_seconds: Option<f64>,
}

/// Requests that are under way, now and at most.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Sends each request at its departure, or when `max_concurrency` lets it go.
pub async fn run(
    client: Arc<Client>,
    requests: Vec<Prepared>,
    departures: Vec<Duration>,
    max_concurrency: Option<usize>,
    bar: &ProgressBar,
) -> Run {
    let (under_way, places) =
        (Arc::new(UnderWay::default()), max_concurrency.unwrap_or(Semaphore::MAX_PERMITS));
    // First come, first served: a semaphore's queue is fair.
    let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let mut tasks = Vec::with_capacity(requests.len());
    for (request, departure) in requests.into_iter().zip(departures) {
        sleep_until((start + departure).into()).await;
        let (client, places, under_way) = (client.clone(), places.clone(), under_way.clone());
        let bar = bar.clone();
        tasks.push(tokio::spawn(async move {
            let _place = places.acquire().await;
            let now = under_way.now.fetch_add(1, Ordering::Relaxed) + 1;
            under_way.most.fetch_max(now, Ordering::Relaxed);
            let outcome = client.stream(&request).await;
            under_way.now.fetch_sub(1, Ordering::Relaxed);
            bar.inc(1);
            outcome
        }));
    }
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(task.await.expect("a request's task is never cancelled, and returns its errors"));
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu_seconds = cpu.zip(cpu_seconds()).map(|(before, after)| after - before);
    Run { outcomes, seconds, peak_concurrency: under_way.most.load(Ordering::Relaxed), cpu_seconds }
}

/// User and system time of this process so far, all threads.
fn cpu_seconds() -> Option<f64> {
    let (mut system, pid) = (System::new().ok()?, Pid::from_u32(process::id()));
    let kind = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    system.process(pid).map(|process| process.accumulated_cpu_time() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(request_rate: f64, burstiness: f64) -> Load {
        Load { max_concurrency: None, request_rate, burstiness }
    }

    /// The mean gap, and the deviation of gaps over their mean.
    fn gaps(load: &Load, seed: u64) -> (f64, f64) {
        let departures = load.departures(4001, seed);
        let gaps: Vec<f64> = departures.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn departures_have_the_rate_and_the_burstiness() {
        for burstiness in [0.25, 1.0, 16.0] {
            let (mean, deviation) = gaps(&load(20.0, burstiness), 1);
            assert!((0.045..0.055).contains(&mean), "{burstiness}: a gap is {mean} s");
            // A gamma distribution of shape b deviates by 1 / √b of its mean.
            let expected = 1.0 / burstiness.sqrt();
            assert!((deviation / expected - 1.0).abs() < 0.15, "{burstiness}: {deviation}");
        }
        assert_eq!(load(20.0, 1.0).departures(9, 3), load(20.0, 1.0).departures(9, 3));
        assert_ne!(load(20.0, 1.0).departures(9, 3), load(20.0, 1.0).departures(9, 4));
        assert_eq!(load(f64::INFINITY, 1.0).departures(3, 0), [Duration::ZERO; 3]);
        assert_eq!(load(1e-300, 1.0).departures(2, 0)[1], Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn rates_that_are_none_are_refused() {
        assert_eq!(parse_rate("inf"), Ok(f64::INFINITY));
        for text in ["0", "-1", "nan", "fast", ""] {
            assert!(parse_rate(text).is_err() && parse_burstiness(text).is_err(), "{text}");
        }
        assert_eq!(
            serde_json::to_value(load(f64::INFINITY, 1.0)).unwrap()["request_rate"],
            serde_json::Value::Null
        );
    }

    #[test]
    fn the_clients_own_time_is_counted() {
        let before = cpu_seconds().unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(start);
        }
        assert!(cpu_seconds().unwrap() > before);
    }
}
