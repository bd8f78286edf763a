//! A model on several ranks, as one worker: rank 0 leads, the others follow.
//!
//! ```text
//! rank 0     Engine ─▶ Worker: Leader ── broadcast of the batch ──┐
//!                                │                                ▼
//!                                └▶ Member, its part       follow: Member, its part
//! ```
//! One scheduler decides, on rank 0; the others do what its batches say, in their order. So there is one set of block tables, and ranks can't drift apart.

use super::Lines;
use super::communicator::{bytes, numbers};
use super::micro_batch::{micro_batch_count, micro_batches};
use super::task::{Parameter, Task, compare, decode, encode};
use crate::backend::{Backend, Shaped};
use crate::engine::{Output, RankReport, RanksReport, Traffic, Worker, WorkerReport};
use crate::error::{Error, Result};
use crate::model::{KvMemory, Stage};
use crate::{batch::Batch, config::ModelConfig, machine::Machine, runner::ModelRunner};
use crate::{sampling::Draw, tensor::HostTensor};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A rank: its lines, and its part of what all do.
pub struct Member {
    pub lines: Lines,
    pub stage: Stage,
    /// By what means its stage takes sums.
    sums: &'static str,
    /// What was said before it was ready.
    before: Traffic,
    tasks: u64,
    busy: Duration,
}

impl Member {
    /// A rank that has done nothing yet.
    pub fn new(lines: Lines, stage: Stage, sums: &'static str) -> Member {
        let before = lines.traffic();
        Member { lines, stage, sums, before, tasks: 0, busy: Duration::ZERO }
    }

    // ANCHOR: pass
    /// This rank's part of a pass. The last stage gives logits, [logit rows, vocabulary], for each micro-batch.
    fn pass<B: Backend>(
        &mut self,
        runner: &mut ModelRunner<B>,
        batch: &Batch,
        count: usize,
    ) -> Result<Vec<B::Tensor>> {
        let (before, behind) = self.lines.topology.neighbours(self.lines.rank());
        let mut logits = Vec::new();
        for batch in micro_batches(batch, count, runner.attention.remembers()) {
            let x = before.map(|rank| self.lines.world.recv(rank)).transpose()?;
            let started = Instant::now();
            let x = x.map(|x| upload(runner, &x)).transpose()?;
            let y = runner.forward_stage(&batch, x, None)?;
            match behind {
                Some(rank) => {
                    let y = bytes(&runner.backend.download(&y)?);
                    self.busy += started.elapsed();
                    self.lines.world.send(rank, y)?;
                }
                None => {
                    self.busy += started.elapsed();
                    logits.push(y);
                }
            }
        }
        Ok(logits)
    }
    // ANCHOR_END: pass

    /// The pipeline's last stage sends its logits to rank 0: one of its ranks, since all of them have them.
    fn send_logits<B: Backend>(
        &self,
        runner: &ModelRunner<B>,
        batch: &Batch,
        logits: &[B::Tensor],
    ) -> Result<()> {
        let topology = self.lines.topology;
        if topology.pipeline > 1 && self.lines.rank() == topology.ranks_of(topology.pipeline - 1).start {
            self.lines.world.send(0, bytes(&host_logits(runner, batch, logits)?))?;
        }
        Ok(())
    }

    /// Checks that all ranks were told the same, in builds with assertions.
    fn check_drift(&mut self, task: &[u8]) -> Result<()> {
        self.tasks += 1;
        if cfg!(debug_assertions) {
            let mine = [&self.tasks.to_le_bytes(), task].concat();
            compare(&*self.lines.world, "what they are told to do", &mine)?;
        }
        Ok(())
    }

    /// New values for some parameters; `tensors` are those of rank 0, and nothing elsewhere.
    fn update<B: Backend>(
        &self,
        runner: &mut ModelRunner<B>,
        names: &[Parameter],
        tensors: &[(String, HostTensor)],
    ) -> Result<()> {
        let mut all = Vec::new();
        for (i, (name, dtype, shape)) in names.iter().enumerate() {
            let mut data = tensors.get(i).map_or(Vec::new(), |(_, tensor)| tensor.data.to_vec());
            self.lines.world.broadcast(0, &mut data)?;
            all.push((name.clone(), HostTensor::from_bytes(*dtype, shape, data)));
        }
        let refused = runner.update_weights(all).err().map(|error| error.to_string());
        // A rank checks what it holds: what one refuses, all the others may have taken.
        let said = self.lines.world.all_gather(refused.clone().unwrap_or_default().as_bytes())?;
        match said.iter().position(|why| !why.is_empty()) {
            Some(rank) if said.iter().any(|why| why.is_empty()) => {
                let why = String::from_utf8_lossy(&said[rank]);
                let why = format!("{why}; the others have the new weights, so the run ends");
                Err(Error::RankFailed { rank, why })
            }
            _ => refused.map_or(Ok(()), |why| Err(Error::Refused(why))),
        }
    }

    fn report<B: Backend>(&self, runner: &ModelRunner<B>) -> Result<Vec<RankReport>> {
        let mine = RankReport {
            rank: self.lines.rank(),
            slice: self.lines.topology.slice(self.lines.rank()).rank,
            layers: self.stage.layers.clone(),
            weight_bytes: runner.weights.held,
            weight_bytes_copied: runner.weights.copied,
            kv_reserved_bytes: runner.attention.memory().reserved_bytes,
            busy_seconds: self.busy.as_secs_f64(),
            traffic: self.lines.traffic() - self.before,
            sums: self.sums.to_owned(),
        };
        self.lines.world.all_gather(&encode(&mine))?.iter().map(|report| decode(report)).collect()
    }
}

/// Hidden states as they came.
fn upload<B: Backend>(runner: &ModelRunner<B>, x: &[u8]) -> Result<B::Tensor> {
    let (x, hidden) = (numbers(x), runner.config.hidden_size);
    runner.backend.upload(&x, x.len() / hidden, hidden)
}

/// The logits of a batch, from those of its micro-batches; rows behind the wanted ones are left out.
fn host_logits<B: Backend>(runner: &ModelRunner<B>, batch: &Batch, logits: &[B::Tensor]) -> Result<Vec<f32>> {
    let (mut all, mut left) = (Vec::new(), batch.logit_rows.len());
    for logits in logits {
        let rows = logits.rows().min(left);
        left -= rows;
        all.extend(&runner.backend.download(logits)?[..rows * runner.config.vocab_size]);
    }
    Ok(all)
}

// ANCHOR: follow
/// Does what rank 0 says, until it says stop.
///
/// # Errors
/// Those of the passes, and of a rank that is gone.
pub fn follow<B: Backend>(runner: &mut ModelRunner<B>, member: &mut Member) -> Result<()> {
    loop {
        let mut message = Vec::new();
        member.lines.world.broadcast(0, &mut message)?;
        member.check_drift(&message)?;
        match decode(&message)? {
            Task::Pass { batch, micro_batches } => {
                let logits = member.pass(runner, &batch, micro_batches)?;
                member.send_logits(runner, &batch, &logits)?;
            }
            Task::Update(names) => match member.update(runner, &names, &[]) {
                Err(Error::Refused(_)) => {} // rank 0 says so
                done => done?,
            },
            Task::Report => drop(member.report(runner)?),
            Task::Stop => return Ok(()),
        }
    }
}
// ANCHOR_END: follow

/// Rank 0: its own part, and the word to the others.
pub struct Leader<B: Backend> {
    /// Its own part of the model.
    pub runner: ModelRunner<B>,
    member: Member,
    /// Micro-batches of a pass, if a number was asked for.
    micro_batches: Option<usize>,
    /// Ranks that are threads of this process.
    threads: Vec<JoinHandle<()>>,
    passes: Passes,
    failed: bool,
}

/// The time that passes took.
#[derive(Default)]
struct Passes {
    count: u64,
    micro_batches: u64,
    seconds: f64,
    /// Seconds of which the formula says that a stage waits.
    bubble_seconds: f64,
}

impl<B: Backend> Leader<B> {
    /// Leads the others, which have loaded their parts.
    pub fn new(
        runner: ModelRunner<B>,
        member: Member,
        micro_batches: Option<usize>,
        threads: Vec<JoinHandle<()>>,
    ) -> Leader<B> {
        Leader { runner, member, micro_batches, threads, passes: Passes::default(), failed: false }
    }

    /// A pass of all ranks, this one's part included: the logits, as [`ModelRunner::forward`] gives them.
    ///
    /// # Errors
    /// Those of its own part, and of a rank that is gone or has failed.
    pub fn logits(&mut self, batch: &Batch) -> Result<B::Tensor> {
        let logits = self.pass(batch);
        self.settle(logits)
    }

    fn tell(&mut self, task: &Task) -> Result<()> {
        let mut message = encode(task);
        self.member.lines.world.broadcast(0, &mut message)?;
        self.member.check_drift(&message)
    }

    // ANCHOR: lead
    fn pass(&mut self, batch: &Batch) -> Result<B::Tensor> {
        let (topology, started) = (self.member.lines.topology, Instant::now());
        let count = micro_batch_count(batch.tokens.len(), topology.pipeline, self.micro_batches);
        self.tell(&Task::Pass { batch: batch.clone(), micro_batches: count })?;
        let mut logits = self.member.pass(&mut self.runner, batch, count)?;
        let whole = match topology.pipeline {
            1 => logits.pop().expect("one micro-batch"),
            stages => {
                let logits = numbers(&self.member.lines.world.recv(topology.ranks_of(stages - 1).start)?);
                let vocab_size = self.runner.config.vocab_size;
                self.runner.backend.upload(&logits, batch.logit_rows.len(), vocab_size)?
            }
        };
        self.passes.add(count, topology.pipeline, started.elapsed().as_secs_f64());
        Ok(whole)
    }
    // ANCHOR_END: lead

    /// Remembers that a rank can't go on, and tells the others.
    fn settle<T>(&mut self, done: Result<T>) -> Result<T> {
        if let Err(error) = &done {
            self.failed = true;
            self.member.lines.fail(error);
        }
        done
    }

    /// A report of every rank: the memory that it holds, and the work that it has done.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn ranks(&mut self) -> Result<RanksReport> {
        let told = self.tell(&Task::Report);
        let ranks = told.and_then(|()| self.member.report(&self.runner));
        let ranks = self.settle(ranks)?;
        let (topology, passes) = (self.member.lines.topology, &self.passes);
        // The ranks of a stage work at the same time: one of them stands for it.
        let busy: f64 = ranks.iter().filter(|rank| rank.slice == 0).map(|rank| rank.busy_seconds).sum();
        let seconds = passes.seconds.max(1e-9);
        Ok(RanksReport {
            comm: self.member.lines.world.name(),
            tensor_parallel: topology.tensor,
            pipeline_parallel: topology.pipeline,
            micro_batches: passes.micro_batches,
            passes: passes.count,
            bubble: match topology.pipeline {
                1 => 0.0,
                stages => (1.0 - busy / (stages as f64 * seconds)).max(0.0),
            },
            bubble_formula: passes.bubble_seconds / seconds,
            ranks,
        })
    }
}

impl Passes {
    fn add(&mut self, micro_batches: usize, stages: usize, seconds: f64) {
        self.count += 1;
        self.micro_batches += micro_batches as u64;
        self.seconds += seconds;
        self.bubble_seconds += seconds * (stages - 1) as f64 / (micro_batches + stages - 1) as f64;
    }
}

impl<B: Machine> Worker for Leader<B> {
    fn forward(&mut self, batch: &Batch, draws: &[Draw]) -> Result<Output> {
        let logits = self.logits(batch)?;
        Output::of(&self.runner, &logits, batch, draws)
    }

    fn config(&self) -> &ModelConfig {
        &self.runner.config
    }

    fn max_model_len(&self) -> usize {
        self.runner.max_model_len()
    }

    fn memory(&self) -> KvMemory {
        self.runner.attention.memory()
    }

    fn remembers(&self) -> bool {
        self.runner.attention.remembers()
    }

    fn report(&mut self) -> Result<WorkerReport> {
        let ranks = Some(self.ranks()?);
        Ok(WorkerReport { runner: self.runner.report(), ranks })
    }

    fn update_weights(&mut self, tensors: &mut dyn Iterator<Item = (String, HostTensor)>) -> Result<()> {
        let tensors: Vec<_> = tensors.collect();
        let described =
            |(name, tensor): &(String, HostTensor)| (name.clone(), tensor.dtype, tensor.shape.clone());
        let names: Vec<Parameter> = tensors.iter().map(described).collect();
        let told = self.tell(&Task::Update(names.clone()));
        match told.and_then(|()| self.member.update(&mut self.runner, &names, &tensors)) {
            Err(Error::Refused(why)) => Err(Error::Refused(why)), // all go on with the old weights
            other => self.settle(other),
        }
    }
}

impl<B: Backend> Drop for Leader<B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.member.lines.fail(&Error::Parallel("it has met a bug and ends".into()));
        } else if !self.failed {
            let _ = self.tell(&Task::Stop);
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
