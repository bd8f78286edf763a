//! What the tests of the engine share: a worker that can be watched, what has finished, and what a request gives alone.
#![allow(dead_code)] // each test file uses a part of it

use crate::common::{self, bits, fixture, load_with};
use stairwell::{
    attention::{AttentionKind, KvBudget, KvOptions},
    backend::cpu::Cpu,
    batch::Batch,
    config::ModelConfig,
    engine::{Engine, Finished, LocalWorker, Output, RequestId, Update, Worker, WorkerReport},
    error::{Error, Result},
    generate::{FinishReason, GenerateParams, generate},
    model::KvMemory,
    runner::{LoadOptions, ModelRunner},
    sampling::Draw,
    tensor::HostTensor,
};
use std::{collections::BTreeMap, ops::ControlFlow};

/// A fixture's model on the CPU.
pub fn runner(name: &str, kv: KvOptions) -> ModelRunner<Cpu> {
    load_with(Cpu::default(), fixture(name), LoadOptions { kv, ..LoadOptions::default() }).unwrap()
}

/// A pool of so many tokens in blocks of this size.
pub fn pool(tokens: usize, block_size: usize) -> KvOptions {
    KvOptions {
        attention: Some(AttentionKind::Paged),
        budget: Some(KvBudget::Tokens(tokens)),
        block_size: Some(block_size),
        ..KvOptions::default()
    }
}

/// A worker that keeps the logits of every step, and that may fail.
pub struct Recording {
    inner: LocalWorker<Cpu>,
    /// Of the last step.
    pub logits: Vec<f32>,
    /// Steps that fail instead of running; the first is 1.
    pub fails: Vec<usize>,
    steps: usize,
}

impl Recording {
    pub fn new(runner: ModelRunner<Cpu>) -> Recording {
        let inner = LocalWorker::new(runner).unwrap();
        Recording { inner, logits: Vec::new(), fails: Vec::new(), steps: 0 }
    }
}

impl Worker for Recording {
    fn forward(&mut self, batch: &Batch, draws: &[Draw]) -> Result<Output> {
        self.steps += 1;
        if self.fails.contains(&self.steps) {
            return Err(Error::Device("the machine is gone".into()));
        }
        let output = self.inner.forward(batch, draws)?;
        if let Output::Logits(logits) = &output {
            self.logits.clone_from(logits);
        }
        Ok(output)
    }
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }
    fn max_model_len(&self) -> usize {
        self.inner.max_model_len()
    }
    fn memory(&self) -> KvMemory {
        self.inner.memory()
    }
    fn report(&mut self) -> Result<WorkerReport> {
        self.inner.report()
    }
    fn update_weights(&mut self, tensors: &mut dyn Iterator<Item = (String, HostTensor)>) -> Result<()> {
        self.inner.update_weights(tensors)
    }
}

/// What has finished, by id.
pub type Ended = BTreeMap<RequestId, Finished>;

/// Keeps what finishes, and allows each to finish once.
pub fn keep(ended: &mut Ended, finished: impl IntoIterator<Item = Finished>) {
    for finished in finished {
        assert!(ended.insert(finished.id, finished).is_none(), "ended twice");
    }
}

/// What has finished in a step.
pub fn finished(updates: Vec<Update>) -> impl Iterator<Item = Finished> {
    updates.into_iter().filter_map(|update| update.finished)
}

/// Runs until nothing is left to do.
pub fn run<W: Worker>(engine: &mut Engine<W>) -> Ended {
    let mut ended = Ended::default();
    keep(&mut ended, engine.run().unwrap());
    ended
}

/// What a request gives alone, by step 1's way.
pub struct Alone {
    pub ids: Vec<u32>,
    pub reason: FinishReason,
    /// The bits of the logits that each token was sampled from.
    pub logits: Vec<Vec<u32>>,
}

/// Runs a request alone; `runner` has [`KvOptions::recompute`].
pub fn alone(runner: &mut ModelRunner<Cpu>, prompt: &[u32], params: &GenerateParams) -> Alone {
    let output = generate(runner, prompt, params, &mut |_| ControlFlow::Continue(())).unwrap();
    let tokens = [prompt, &output.ids].concat();
    let rows = common::logits(runner, &tokens[..tokens.len() - 1]);
    let logits = rows.chunks(runner.config.vocab_size).skip(prompt.len() - 1).map(bits).collect();
    Alone { ids: output.ids, reason: output.finish_reason, logits }
}

impl Alone {
    /// Checks that a request got the same: all of it, or a beginning if it was aborted. `logits` are those that it was sampled from.
    #[track_caller]
    pub fn check(&self, what: &str, finished: &Finished, logits: &[Vec<u32>]) {
        if finished.reason == FinishReason::Abort {
            assert_eq!(finished.output, self.ids[..finished.output.len()], "{what}: a beginning");
        } else {
            assert_eq!((&finished.output, finished.reason), (&self.ids, self.reason), "{what}: as alone");
            assert_eq!(logits.len(), self.logits.len());
        }
        assert!(logits.iter().zip(&self.logits).all(|(got, want)| got == want), "{what}: to the bit");
    }
}
