//! `generate` in steps 1 and 2, which have no engine: one request at a time, by [`stairwell::generate`].

use super::{model_args::LoadArgs, parallel_args::ParallelArgs};
use serde::Serialize;
use stairwell::generate::{Generated, generate};
use stairwell::runner::{ModelRunner, RunnerReport, Weights};
use stairwell::{attention::KvOptions, config::ModelConfig, error::Result, machine::Machine};
use stairwell::{request::Resolved, sampling::Sampled, tokenizer::StopMatcher};
use std::ops::ControlFlow;

/// The only rank.
pub struct Lead<B>(B);

/// What the only rank holds.
#[derive(Serialize)]
pub struct Ranks {
    world_size: usize,
    #[serde(flatten)]
    weights: Weights,
}

/// A model that serves one request.
pub struct OneRequest<B: Machine>(ModelRunner<B>);

/// The only rank leads.
///
/// # Errors
/// Never.
pub fn lead<B: Machine>(_: &ParallelArgs, machine: B, _: &LoadArgs) -> Result<Option<Lead<B>>> {
    Ok(Some(Lead(machine)))
}

impl<B: Machine> Lead<B> {
    /// Loads the model; the whole prompt is one pass.
    ///
    /// # Errors
    /// Those of loading.
    pub fn load(
        self,
        load: &LoadArgs,
        config: &ModelConfig,
        longest: usize,
        kv: KvOptions,
    ) -> Result<OneRequest<B>> {
        Ok(OneRequest(load.load(self.0, Some(config.clone()), Some(longest), kv, |_| ())?))
    }
}

impl<B: Machine> OneRequest<B> {
    /// Generates; `on_token` sees each token as it comes.
    ///
    /// # Errors
    /// Those of the model and of `on_token`.
    pub fn generate(
        &mut self,
        request: &Resolved,
        mut stop: Option<StopMatcher>,
        on_token: &mut dyn FnMut(&Sampled) -> Result<()>,
    ) -> Result<Generated> {
        let mut failed = Ok(());
        let output = generate(&mut self.0, &request.prompt, &request.params, &mut |sampled| {
            failed = on_token(sampled);
            match failed.is_err() || stop.as_mut().is_some_and(|stop| stop.push(sampled.token, true)) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        failed.map(|()| output)
    }

    /// What it is and has done, and what its ranks have.
    ///
    /// # Errors
    /// Never.
    pub fn report(&mut self) -> Result<(RunnerReport, Ranks)> {
        let report = self.0.report();
        let ranks = Ranks { world_size: 1, weights: report.weights };
        Ok((report, ranks))
    }
}
