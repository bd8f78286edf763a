//! Ranks that load their parts, meet, and begin.

use super::task::{Workload, compare, decode, encode};
use super::through_host::ThroughHost;
use super::{Leader, Lines, Member, Threads, Topology, follow, stages};
use crate::attention::{KvBudget, KvOptions, KvSwap};
use crate::checkpoint::{Directory, LoadRules};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::machine::{Machine, MakeMachine, threads_asked};
use crate::model::{Attention, Collective, KvMemory, Model, Part};
use crate::runner::{LoadFormat, LoadOptions, ModelRunner, read_config_for};
use std::{array, sync::Arc, thread, time::Duration};

/// How long a rank waits for another one that is alive, unless something else is asked for.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// The settings that all ranks share: the model, and how it is cut.
#[derive(Clone)]
pub struct Setup {
    pub directory: Directory,
    /// Its config.json, if it was read before.
    pub config: Option<ModelConfig>,
    pub format: LoadFormat,
    pub rules: LoadRules,
    pub topology: Topology,
    /// Layers of each stage; `None` for stages of about as many bytes.
    pub stage_layers: Option<Vec<usize>>,
    /// Micro-batches of a pass; `None`: as many as the rows are enough for.
    pub micro_batches: Option<usize>,
    pub timeout: Duration,
}

/// Told (bytes, bytes in all) while weights are read.
pub type OnProgress<'a> = Option<&'a (dyn Fn(u64, u64) + Sync)>;

impl Setup {
    /// A model of this directory, cut so.
    pub fn new(directory: Directory, topology: Topology) -> Setup {
        Setup {
            directory,
            config: None,
            format: LoadFormat::default(),
            rules: LoadRules::default(),
            topology,
            stage_layers: None,
            micro_batches: None,
            timeout: TIMEOUT,
        }
    }

    /// The same, with config.json read, and the cut checked against it.
    fn with_config(&self) -> Result<(Setup, ModelConfig)> {
        let config = self.config.clone().map_or_else(|| read_config_for(&self.directory, self.format), Ok)?;
        self.topology.check(&config)?;
        Ok((Setup { config: Some(config.clone()), ..self.clone() }, config))
    }

    /// The settings that must be the same on all ranks, as bytes to compare.
    fn fingerprint(&self, config: &ModelConfig) -> Vec<u8> {
        let (cut, layers) = (self.topology, &self.stage_layers);
        format!("{config:?} {cut:?} {layers:?} {:?}", self.format).into_bytes()
    }

    // ANCHOR: load
    /// Loads a rank's part, and meets the others: all of them are ready then.
    ///
    /// # Errors
    /// Whatever is wrong with its part, with the way it is cut, or with another rank. The others are told.
    pub fn load<B: Machine>(
        &self,
        machine: B,
        lines: &Lines,
        workload: &Workload,
        progress: OnProgress,
    ) -> Result<(ModelRunner<B>, Member)> {
        let load = || {
            let (_, config) = self.with_config()?;
            let (rank, topology) = (lines.rank(), self.topology);
            let stages = stages(&config, topology.pipeline, self.stage_layers.as_deref())?;
            compare(
                &*lines.world,
                "the model's config.json, or the way it is cut",
                &self.fingerprint(&config),
            )?;

            let (stage, slice) = (stages[topology.stage(rank)].clone(), topology.slice(rank));
            let collective = Arc::new(ThroughHost::new(&machine, lines.stage.clone())?);
            let sums = Collective::<B>::name(&*collective);
            let part = Part { rank: slice, stage: stage.clone(), collective };
            let (format, rules) = (self.format, self.rules.clone());
            let kv = KvOptions { neighbours: lines.here - 1, ..workload.kv.clone() };
            let max_length = workload.max_length;
            let config = Some(config);
            let options = LoadOptions { config, format, rules, max_length, kv, events: None, progress };
            let runner = ModelRunner::load_part(
                machine,
                &self.directory,
                options,
                Some(part),
                |machine, model, kv| alike(machine, model, kv, lines),
            )?;
            lines.world.barrier()?;
            Ok((runner, Member::new(lines.clone(), stage, sums)))
        };
        load().inspect_err(|error| lines.fail(error))
    }
    // ANCHOR_END: load

    /// Loads a rank's part, and does what rank 0 says.
    fn serve<B: Machine>(&self, machine: B, lines: &Lines, workload: &Workload) -> Result<()> {
        let (mut runner, mut member) = self.load(machine, lines, workload, None)?;
        follow(&mut runner, &mut member)
    }
}

/// An attention with room for as much as all ranks have room for: one scheduler gives out the blocks of all.
fn alike<B: Machine>(
    machine: &B,
    model: &dyn Model<B>,
    kv: &KvOptions,
    lines: &Lines,
) -> Result<Box<dyn Attention<B>>> {
    let attention = machine.attention(model, kv)?;
    let KvMemory { slots, pool, bytes_per_token, .. } = attention.memory();
    let [blocks, swap_blocks] = pool.map_or([0; 2], |pool| [pool.blocks, pool.swap_blocks]);
    let mine = [blocks, swap_blocks, slots, attention.max_tokens().unwrap_or(usize::MAX)];
    let mut least = mine;
    for room in lines.world.all_gather(&encode(&mine))? {
        let room: [usize; 4] = decode(&room)?;
        least = array::from_fn(|i| least[i].min(room[i]));
    }
    if mine == least {
        return Ok(attention);
    }
    let [blocks, swap_blocks, slots, max_tokens] = least;
    let block_size = pool.map(|pool| pool.block_size);
    let kv = KvOptions {
        budget: block_size.map(|size| KvBudget::Tokens(blocks * size)),
        swap: match swap_blocks * block_size.unwrap_or(0) {
            0 => KvSwap::None,
            tokens => KvSwap::Bytes(tokens as u64 * bytes_per_token),
        },
        max_num_seqs: if pool.is_none() { Some(slots) } else { kv.max_num_seqs },
        max_model_len: Some(max_tokens.min(kv.max_model_len.unwrap_or(usize::MAX))),
        ..kv.clone()
    };
    drop(attention);
    machine.attention(model, &kv)
}

/// A model on ranks that are threads of this process: rank 0, which leads them.
///
/// # Errors
/// Whatever is wrong with the model, with the way it is cut, or with a rank.
pub fn in_threads<B: Machine>(
    machine: B,
    setup: &Setup,
    workload: Workload,
    progress: OnProgress,
) -> Result<Leader<B>> {
    // Checked before there are other ranks, which would report the same error.
    let (setup, _) = &setup.with_config()?;
    let mut lines = Threads::lines(setup.topology, setup.timeout).into_iter();
    let first = lines.next().expect("a rank");
    let start = |lines: Lines| {
        let (make, setup, workload) = (machine.for_rank(lines.rank()), setup.clone(), workload.clone());
        let name = format!("rank {}", lines.rank());
        let run = move || serve(make, &setup, &lines, &workload);
        let failed = |error| Error::Parallel(format!("{name}: no thread for it: {error}"));
        thread::Builder::new().name(name.clone()).spawn(run).map_err(failed)
    };
    let threads = lines.map(start).collect::<Result<Vec<_>>>().inspect_err(|error| first.fail(error))?;
    match setup.load(machine, &first, &workload, progress) {
        Ok((runner, member)) => Ok(Leader::new(runner, member, setup.micro_batches, threads)),
        Err(error) => {
            threads.into_iter().for_each(|thread| drop(thread.join()));
            Err(error)
        }
    }
}

/// A rank's whole life, on its share of the cores. Rank 0 hears of its errors.
fn serve<B: Machine>(make: MakeMachine<B>, setup: &Setup, lines: &Lines, workload: &Workload) {
    let threads = threads_of_a_rank(setup.topology.world_size());
    // This thread is one of them.
    let _pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    if let Err(error) = make().and_then(|machine| setup.serve(machine, lines, workload)) {
        lines.fail(&error);
    }
}

/// The same for a process that rank 0 has told nothing yet.
///
/// # Errors
/// Those of its part, and of the others.
pub fn serve_rank<B: Machine>(machine: B, setup: &Setup, lines: &Lines) -> Result<()> {
    let serve = || {
        let mut workload = Vec::new();
        lines.world.broadcast(0, &mut workload)?;
        setup.serve(machine, lines, &decode(&workload)?)
    };
    serve().inspect_err(|error| lines.fail(error))
}

impl<B: Machine> Leader<B> {
    /// A model on ranks that are processes: tells them what to load, loads rank 0's part, and leads them.
    ///
    /// # Errors
    /// As those of [`in_threads`].
    pub fn over(
        machine: B,
        setup: &Setup,
        lines: &Lines,
        workload: Workload,
        progress: OnProgress,
    ) -> Result<Leader<B>> {
        let (setup, _) = &setup.with_config()?;
        lines.world.broadcast(0, &mut encode(&workload))?;
        let (runner, member) = setup.load(machine, lines, &workload, progress)?;
        Ok(Leader::new(runner, member, setup.micro_batches, Vec::new()))
    }
}

/// Threads of each of so many ranks on this machine, unless the variable `RAYON_NUM_THREADS` decides.
pub fn threads_of_a_rank(ranks: usize) -> usize {
    if let Some(threads) = threads_asked() {
        return threads;
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores / ranks).max(1)
}
