//! `generate` from step 3 on: an engine with one request.

use super::engine_args::{LoadWorker, LocalEngine};
pub use super::engine_stats::Ranks;
use super::{model_args::LoadArgs, parallel_args::ParallelArgs};
use stairwell::engine::{Continuous, Engine, Limits, NewRequest};
use stairwell::error::{Error, Result};
use stairwell::{attention::KvOptions, config::ModelConfig, generate::Generated, machine::Machine};
use stairwell::{request::Resolved, runner::RunnerReport, sampling::Sampled, tokenizer::StopMatcher};

/// How the model will be loaded, on one rank or several.
pub struct Lead(LoadWorker);

/// An engine that serves one request.
pub struct OneRequest(LocalEngine);

/// The process that leads goes on; the others serve it here until it ends, and get nothing.
///
/// # Errors
/// Those of the means by which ranks speak, and in a process that serves, those of its part.
pub fn lead<B: Machine>(parallel: &ParallelArgs, machine: B, load: &LoadArgs) -> Result<Option<Lead>> {
    Ok(parallel.lead(machine, load)?.map(Lead))
}

impl Lead {
    /// Loads the model. A pass has at most `kv.max_chunk` tokens, or all of them where nothing is kept.
    ///
    /// # Errors
    /// Those of loading.
    pub fn load(
        self,
        load: &LoadArgs,
        config: &ModelConfig,
        longest: usize,
        kv: KvOptions,
    ) -> Result<OneRequest> {
        let chunk = kv.max_chunk.unwrap_or(usize::MAX);
        let worker = (self.0)(load, config, longest, kv)?;
        let max_batched_tokens = if worker.remembers() { chunk } else { usize::MAX };
        let limits = Limits { max_num_seqs: 1, max_batched_tokens };
        Ok(OneRequest(Engine::new(worker, Box::new(Continuous), limits)))
    }
}

impl OneRequest {
    /// Generates; `on_token` sees each token as it comes.
    ///
    /// # Errors
    /// Those of the engine and of `on_token`.
    pub fn generate(
        &mut self,
        request: &Resolved,
        stop: Option<StopMatcher>,
        on_token: &mut dyn FnMut(&Sampled) -> Result<()>,
    ) -> Result<Generated> {
        let new = NewRequest::new(request.prompt.clone(), request.params.clone());
        self.0.add_request(NewRequest { stop, may_shorten: request.may_shorten, ..new })?;
        loop {
            for update in self.0.step()? {
                update.token.as_ref().map_or(Ok(()), &mut *on_token)?;
                let Some(finished) = update.finished else { continue };
                if let Some(error) = finished.error {
                    return Err(Error::Request(error));
                }
                return Ok(Generated {
                    ids: finished.output,
                    finish_reason: finished.reason,
                    seed: finished.seed,
                    time_to_first_token: finished.times.first_token.unwrap_or_default(),
                    total_time: finished.times.last_token.unwrap_or_default(),
                });
            }
        }
    }

    /// What it is and has done, and what its ranks have.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn report(&mut self) -> Result<(RunnerReport, Ranks)> {
        let report = self.0.worker.report()?;
        let ranks = Ranks::new(&report);
        Ok((report.runner, ranks))
    }
}
