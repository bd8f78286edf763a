//! What an engine has done.

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, derive_more::Sub, serde::Serialize)]
pub struct EngineStats {
    pub steps: u64,
    /// Tokens that went through the model, of prompts and outputs.
    pub tokens_computed: u64,
    /// Tokens that were sampled.
    pub output_tokens: u64,
    /// Those of them that the worker drew, where the logits are.
    pub drawn_by_worker: u64,
    /// The most requests in one step.
    pub peak_running: usize,
    /// The most tokens in one step.
    pub peak_batched_tokens: usize,
    /// Sums over the steps: of the KV cache's tokens, those reserved by requests and those in use.
    pub kv_reserved: u64,
    pub kv_used: u64,
    /// Sum over the steps: of requests that ran.
    pub running: u64,
    /// Tokens of the prompts of requests that have ended, and those of them that were there already (step 4).
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    /// How often a request had to give way (step 4).
    pub preemptions: u64,
}

impl EngineStats {
    /// The part of the reserved KV memory that held a token, as a mean over the steps.
    pub fn kv_utilization(&self) -> f64 {
        self.kv_used as f64 / self.kv_reserved.max(1) as f64
    }

    /// Tokens that a running request has reserved and does not use, as a mean.
    pub fn kv_unused_tokens(&self) -> f64 {
        (self.kv_reserved - self.kv_used) as f64 / self.running.max(1) as f64
    }

    /// Requests that ran at a time, as a mean over the steps.
    pub fn mean_running(&self) -> f64 {
        self.running as f64 / self.steps.max(1) as f64
    }

    /// The part of the prompts' tokens that was there already.
    pub fn cache_hit_rate(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64
    }
}
