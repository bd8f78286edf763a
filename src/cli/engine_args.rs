//! Flags of the engine: who runs when.

use super::{
    ManyAutoArgs, SharedKvArgs,
    kv_args::KvArgs,
    model_args::{DeviceArgs, LoadArgs},
    numbers::{count, count_to},
    parallel_args::ParallelArgs,
    terminal::print_note,
};
use clap::Args;
use stairwell::{
    attention::{AttentionKind, KvOptions},
    config::{ModelConfig, RopeScaling},
    engine::{Engine, Limits, Policy, Worker},
    error::{Error, Result},
    kv::{self, ManagerOptions},
    model::KvMemory,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How requests share the machine.
#[derive(Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub parallel: ParallelArgs,
    #[command(flatten)]
    kv: SharedKvArgs,
    #[command(flatten)]
    auto: ManyAutoArgs,
    /// Requests that run at a time
    #[arg(long, value_name = "N", help_heading = "Scheduling", default_value_t = 16, value_parser = count_to(65536))]
    pub max_num_seqs: usize,
    /// Tokens of one step over all requests; a longer prompt is computed in chunks
    #[arg(long, value_name = "N", help_heading = "Scheduling", default_value_t = 256, value_parser = count())]
    pub max_batched_tokens: usize,
    /// Write the schedule as Chrome trace events, for ui.perfetto.dev, `stairwell timeline` and `stairwell blocks`
    #[arg(long, value_name = "FILE", help_heading = "Scheduling")]
    trace: Option<PathBuf>,
}

/// Flags that say how requests share the KV cache: there are some from step 4 on.
pub trait ManagerArgs {
    /// The flags as options.
    fn manager(&self) -> ManagerOptions {
        ManagerOptions::default()
    }
}

impl ManagerArgs for KvArgs {}

/// After how many finished requests weights are updated, and how: called after every step from then on, until it says that it is done.
pub type WeightUpdate = (usize, Box<dyn FnMut(&mut LocalEngine) -> Result<bool>>);

/// The engine that the commands run, on any machine and any number of ranks.
pub type LocalEngine = Engine<Box<dyn Worker>>;

/// Loads the model, for sequences of at most so many tokens.
pub type LoadWorker = Box<dyn FnOnce(&LoadArgs, &ModelConfig, usize, KvOptions) -> Result<Box<dyn Worker>>>;

impl EngineArgs {
    /// Requests that run at a time: as many as were asked for, or chosen.
    pub fn running(&self) -> usize {
        self.auto.sequences().unwrap_or(self.max_num_seqs)
    }

    /// The file of the trace, with its flag.
    pub fn trace(&self) -> Option<(&'static str, &Path)> {
        self.trace.as_deref().map(|path| ("--trace", path))
    }

    /// What loads the model on the machine that is asked for, in the process that leads; the others serve it here until it ends, and
    /// get nothing.
    ///
    /// # Errors
    /// Those of the machine and of the means by which ranks speak.
    pub fn lead(&self) -> Result<Option<LoadWorker>> {
        on_device!(self.on, self.load, |machine| {
            self.auto.see(&machine);
            self.parallel.lead(machine, &self.load)
        })
    }

    /// Loads the model, and reserves slots for requests of at most `longest` tokens, prompt and output.
    ///
    /// # Errors
    /// Those of loading, and flags that do not go together.
    pub fn engine(
        &self,
        lead: LoadWorker,
        config: &ModelConfig,
        longest: usize,
        policy: Box<dyn Policy>,
    ) -> Result<LocalEngine> {
        let step_tokens = self.max_batched_tokens;
        let mut kv = self.kv.options(config, Some(step_tokens))?;
        if kv.attention == Some(AttentionKind::Recompute) {
            let message =
                "--attention recompute: it keeps no K and V, and batching needs them; leave the flag out";
            return Err(Error::Usage(message.into()));
        }
        let sizes = [step_tokens, longest, self.max_num_seqs];
        let max_num_seqs = self.auto.choose((&self.load, &self.parallel), config, sizes, &mut kv)?;
        let limits = Limits { max_num_seqs, max_batched_tokens: step_tokens };
        kv.max_num_seqs = Some(limits.max_num_seqs);
        kv.max_model_len.get_or_insert(longest.clamp(1, config.context()));
        let dynamic = matches!(config.rope.as_ref().map(|r| &r.scaling), Some(RopeScaling::Dynamic { .. }));
        if dynamic && longest > config.max_position_embeddings {
            print_note(&format!(
                "RoPE scaling is dynamic, and its base that of the longest request, {longest} tokens, for all of them"
            ));
        }
        let worker = lead(&self.load, config, longest, kv)?;
        let KvMemory { slots, pool, .. } = worker.memory();
        let manager = kv::manager(slots, pool, worker.max_model_len(), &self.kv.manager());
        let mut engine = Engine::with_kv(worker, manager, policy, limits);
        if self.trace.is_some() {
            engine.start_trace();
        }
        Ok(engine)
    }

    /// Says what was reserved, and where fewer requests run than were asked for.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn note(&self, engine: &mut LocalEngine, longest: usize) -> Result<()> {
        let context = engine.worker.config().context();
        self.kv.note(&engine.worker.report()?.runner, context, Some(longest));
        let (asked, running) = (self.running(), engine.limits().max_running());
        if running < asked {
            let reason = match engine.limits().max_num_seqs < asked {
                true => "there is no memory for more KV slots; --max-model-len makes them shorter".to_owned(),
                false => format!("each needs one of the step's {} tokens", self.max_batched_tokens),
            };
            print_note(&format!("{running} requests run at a time, not {asked}: {reason}"));
        }
        Ok(())
    }

    /// Writes the trace, if one was asked for.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write_trace(&self, engine: &mut LocalEngine) -> Result<()> {
        let (Some(path), Some(trace)) = (&self.trace, engine.take_trace()) else { return Ok(()) };
        let json = trace.to_json().to_string();
        fs::write(path, json).map_err(|error| Error::Io { path: path.clone(), error })
    }
}
