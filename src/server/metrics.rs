//! The text that Prometheus reads at `/metrics`: vLLM's names behind `stairwell:`, so that its dashboards fit after one replacement.
//!
//! No label holds text of a request: a prompt, a user or an id would make a new series each, and show to everybody what people wrote.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

type Label = [(&'static str, &'static str); 1];

/// All series. Handles are atomics (histograms: a short lock); [`Metrics::encode`] reads them without stopping anybody.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    success: Family<Label, Counter>,
    /// Tokens of prompts, also those that the prefix cache had.
    pub prompt_tokens: Counter,
    /// Tokens that were generated, the end-of-text token among them.
    pub generation_tokens: Counter,
    /// Requests that lost their blocks to older ones, and began again.
    pub preemptions: Counter,
    /// Tokens of prompts that were looked up in the prefix cache.
    pub prefix_cache_queries: Counter,
    /// Tokens of prompts that the prefix cache had.
    pub prefix_cache_hits: Counter,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
}

/// Seconds, from below a step of the demo model to half an hour; the upper ends are vLLM's.
const LATENCY: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

impl Metrics {
    /// Every series at 0.
    pub fn new() -> Metrics {
        let histogram = |buckets: &[f64]| Histogram::new(buckets.iter().copied());
        let mut metrics = Metrics {
            registry: Registry::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            kv_usage: Gauge::default(),
            success: Family::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            preemptions: Counter::default(),
            prefix_cache_queries: Counter::default(),
            prefix_cache_hits: Counter::default(),
            time_to_first_token: histogram(LATENCY),
            inter_token: histogram(INTER_TOKEN),
            e2e: histogram(LATENCY),
            queue: histogram(LATENCY),
        };
        for reason in ["stop", "length"] {
            metrics.success.get_or_create(&[("finished_reason", reason)]).inc_by(0);
        }
        metrics.register();
        metrics
    }

    /// The registry's prefixes end in `_`; vLLM's ends in `:`, so each name is written out. Counters get their `_total` by the encoder.
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "stairwell:num_requests_running",
            "Requests that have K/V and take part in steps",
            self.running.clone(),
        );
        registry.register("stairwell:num_requests_waiting", "Requests in the queue", self.waiting.clone());
        registry.register(
            "stairwell:kv_cache_usage_perc",
            "Part of the K/V cache that requests use, 0 to 1",
            self.kv_usage.clone(),
        );
        registry.register("stairwell:prompt_tokens", "Tokens of prompts", self.prompt_tokens.clone());
        registry.register(
            "stairwell:generation_tokens",
            "Tokens that were generated",
            self.generation_tokens.clone(),
        );
        registry.register(
            "stairwell:num_preemptions",
            "Requests that lost their K/V and began again",
            self.preemptions.clone(),
        );
        registry.register(
            "stairwell:prefix_cache_queries",
            "Prompt tokens that were looked up in the prefix cache",
            self.prefix_cache_queries.clone(),
        );
        registry.register(
            "stairwell:prefix_cache_hits",
            "Prompt tokens that the prefix cache had",
            self.prefix_cache_hits.clone(),
        );
        registry.register(
            "stairwell:request_success",
            "Answers that were finished, by reason",
            self.success.clone(),
        );
        for (name, help, histogram) in [
            (
                "time_to_first_token_seconds",
                "From a request's arrival to its first token",
                &self.time_to_first_token,
            ),
            ("inter_token_latency_seconds", "From one token of an answer to the next", &self.inter_token),
            ("e2e_request_latency_seconds", "From a request's arrival to its last token", &self.e2e),
            ("request_queue_time_seconds", "From a request's arrival to its first step", &self.queue),
        ] {
            registry.register(format!("stairwell:{name}"), help, histogram.clone());
        }
    }

    /// Sets the gauges to the engine's state; `kv_usage` from 0 to 1.
    pub fn set_gauges(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.running.set(running as i64);
        self.waiting.set(waiting as i64);
        self.kv_usage.set(kv_usage);
    }

    /// An answer came to its end by itself: `"stop"` or `"length"`.
    pub fn finished(&self, reason: &'static str, since_arrival: Duration) {
        self.success.get_or_create(&[("finished_reason", reason)]).inc();
        self.e2e.observe(since_arrival.as_secs_f64());
    }

    /// A request's first step began.
    pub fn left_queue(&self, since_arrival: Duration) {
        self.queue.observe(since_arrival.as_secs_f64());
    }

    /// An answer's first token is there.
    pub fn first_token(&self, since_arrival: Duration) {
        self.time_to_first_token.observe(since_arrival.as_secs_f64());
    }

    /// Another token is there.
    pub fn next_token(&self, since_last: Duration) {
        self.inter_token.observe(since_last.as_secs_f64());
    }

    /// Prometheus's text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("memory takes every write");
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a series, spelled as in the text.
    fn value(text: &str, series: &str) -> f64 {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        lines.next().unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }

    #[test]
    fn the_names_and_types_are_vllms() {
        let text = Metrics::new().encode();
        for (name, kind) in [
            ("num_requests_running", "gauge"),
            ("num_requests_waiting", "gauge"),
            ("kv_cache_usage_perc", "gauge"),
            ("prompt_tokens_total", "counter"),
            ("generation_tokens_total", "counter"),
            ("num_preemptions_total", "counter"),
            ("prefix_cache_queries_total", "counter"),
            ("prefix_cache_hits_total", "counter"),
            ("request_success_total", "counter"),
            ("time_to_first_token_seconds", "histogram"),
            ("inter_token_latency_seconds", "histogram"),
            ("e2e_request_latency_seconds", "histogram"),
            ("request_queue_time_seconds", "histogram"),
        ] {
            assert!(text.contains(&format!("# TYPE stairwell:{name} {kind}\n")), "{name} in\n{text}");
            let series = match (name, kind) {
                ("request_success_total", _) => format!("stairwell:{name}{{finished_reason=\"stop\"}}"),
                (_, "histogram") => format!("stairwell:{name}_count"),
                _ => format!("stairwell:{name}"),
            };
            assert_eq!(value(&text, &series), 0.0);
        }
    }

    #[test]
    fn what_happens_is_counted_under_its_name() {
        let metrics = Metrics::new();
        metrics.set_gauges(3, 7, 0.25);
        metrics.prompt_tokens.inc_by(11);
        metrics.left_queue(Duration::from_millis(1));
        metrics.first_token(Duration::from_millis(30));
        metrics.next_token(Duration::from_micros(300));
        metrics.next_token(Duration::from_secs(100));
        metrics.finished("length", Duration::from_secs(2));
        let text = metrics.encode();
        for (series, expected) in [
            ("stairwell:num_requests_running", 3.0),
            ("stairwell:num_requests_waiting", 7.0),
            ("stairwell:kv_cache_usage_perc", 0.25),
            ("stairwell:prompt_tokens_total", 11.0),
            ("stairwell:request_success_total{finished_reason=\"length\"}", 1.0),
            ("stairwell:request_success_total{finished_reason=\"stop\"}", 0.0),
            ("stairwell:time_to_first_token_seconds_bucket{le=\"0.02\"}", 0.0),
            ("stairwell:time_to_first_token_seconds_bucket{le=\"0.04\"}", 1.0),
            ("stairwell:inter_token_latency_seconds_bucket{le=\"80\"}", 1.0),
            ("stairwell:inter_token_latency_seconds_bucket{le=\"+Inf\"}", 2.0),
            ("stairwell:inter_token_latency_seconds_count", 2.0),
            ("stairwell:e2e_request_latency_seconds_sum", 2.0),
            ("stairwell:request_queue_time_seconds_count", 1.0),
        ] {
            assert_eq!(value(&text, series), expected, "{series}");
        }
    }
}
