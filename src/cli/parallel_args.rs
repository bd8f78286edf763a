//! Flags of step 7: on how many ranks a model runs.

use super::{
    model_args::{Format, LoadArgs},
    terminal::Progress,
};
use clap::{Args, ValueEnum};
pub use stairwell::parallel::{finish, speaks};
use stairwell::{
    attention::KvOptions,
    error::Result,
    machine::Machine,
    parallel::{self, Leader, Lines, Setup, Topology, Workload, in_threads, serve_rank},
    runner::{LoadFormat, ModelRunner},
};
use std::time::Duration;

/// How a model is cut among several ranks.
#[derive(Args)]
#[command(next_help_heading = "Parallelism")]
pub struct ParallelArgs {
    /// Tensor parallelism: each matrix is cut among N ranks
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    tp: u32,
    /// Pipeline parallelism: the layers are shared out to N stages [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pp: Option<u32>,
    /// Layers of each stage, such as 12,16 [default: as many bytes for each as can be]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', allow_hyphen_values = true)]
    pp_layers: Option<Vec<usize>>,
    /// Micro-batches of a pass through the stages [default: one for each 32 rows, at most 4 for each stage]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    micro_batches: Option<u32>,
    /// What ranks are: threads of this process, or the processes that mpirun has started
    #[arg(long, value_enum, default_value_t = Comm::Threads)]
    comm: Comm,
    /// How many seconds a rank waits for another one that is alive
    #[arg(long, value_name = "SECONDS", default_value_t = parallel::TIMEOUT.as_secs_f64(), value_parser = seconds,
          allow_negative_numbers = true)]
    comm_timeout: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Comm {
    Threads,
    Mpi,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds < 1e9);
    seconds.ok_or_else(|| format!("'{text}' is no number of seconds; give one above 0"))
}

/// The process that leads: it reads the requests and prints the results.
pub struct Lead<B> {
    machine: B,
    setup: Setup,
    /// To other processes.
    lines: Option<Lines>,
}

impl ParallelArgs {
    fn topology(&self) -> Topology {
        let stages = self.pp_layers.as_ref().map_or(1, Vec::len).max(1);
        Topology { tensor: self.tp as usize, pipeline: self.pp.map_or(stages, |n| n as usize) }
    }

    /// Threads of this process's rank; 0 for as many as there are cores.
    pub fn threads(&self) -> usize {
        match self.topology().world_size() {
            1 => 0,
            ranks => parallel::threads_of_a_rank(parallel::processes_here().unwrap_or(ranks)),
        }
    }

    fn setup(&self, load: &LoadArgs) -> Result<Setup> {
        Ok(Setup {
            format: match load.load_format {
                Format::Safetensors => LoadFormat::Safetensors,
                Format::Dummy => LoadFormat::Dummy,
            },
            rules: load.rules(),
            stage_layers: self.pp_layers.clone(),
            micro_batches: self.micro_batches.map(|n| n as usize),
            timeout: Duration::from_secs_f64(self.comm_timeout),
            ..Setup::new(load.model.directory()?, self.topology())
        })
    }

    /// The process that leads goes on; the others serve it here until it ends, and get nothing.
    ///
    /// # Errors
    /// Those of the means by which ranks speak, and in a process that serves, those of its part.
    pub fn lead<B: Machine>(&self, machine: B, load: &LoadArgs) -> Result<Option<Lead<B>>> {
        let setup = self.setup(load)?;
        match self.comm {
            Comm::Threads => {
                parallel::check_alone(setup.topology)?;
                Ok(Some(Lead { machine, setup, lines: None }))
            }
            Comm::Mpi => {
                let lines = parallel::mpi_lines(setup.topology, setup.timeout)?;
                let machine = match lines.number_here {
                    0 => machine,
                    number => machine.for_rank(number)()?,
                };
                if lines.rank() == 0 {
                    return Ok(Some(Lead { machine, setup, lines: Some(lines) }));
                }
                serve_rank(machine, &setup, &lines)?;
                Ok(None)
            }
        }
    }
}

impl<B: Machine> Lead<B> {
    /// Loads the model, on all ranks.
    ///
    /// # Errors
    /// Those of loading, on any rank.
    pub fn load(self, load: &LoadArgs, max_length: usize, kv: KvOptions) -> Result<ModelRunner<B>> {
        let Lead { machine, setup, lines } = self;
        let workload = Workload { max_length: Some(max_length), kv };
        let progress = Progress::new("reading weights");
        let add = |bytes, total| progress.add(bytes, total);
        match lines {
            Some(lines) => Leader::over(machine, &setup, &lines, workload, Some(&add)),
            None if setup.topology == Topology::ALONE => {
                load.load(machine, Some(max_length), workload.kv, |_| ())
            }
            None => in_threads(machine, &setup, workload, Some(&add)),
        }
    }
}
