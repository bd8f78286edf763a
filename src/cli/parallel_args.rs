//! Flags of step 7: on how many ranks a model runs.

use super::{engine_args::LoadWorker, model_args::LoadArgs, numbers::count_to, terminal::Progress};
use clap::{Args, ValueEnum};
use stairwell::parallel::{Leader, Lines, Setup, Topology, Workload, in_threads, serve_rank};
pub use stairwell::parallel::{finish, speaks};
use stairwell::{engine::LocalWorker, error::Result, machine::Machine, parallel};
use std::time::Duration;

/// How a model is cut among several ranks.
#[derive(Args)]
#[command(next_help_heading = "Parallelism")]
pub struct ParallelArgs {
    /// Tensor parallelism: each matrix is cut among N ranks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_to(1024))]
    tp: usize,
    /// Pipeline parallelism: the layers are shared out to N stages [default: 1]
    #[arg(long, value_name = "N", value_parser = count_to(1024))]
    pp: Option<usize>,
    /// Layers of each stage, such as 12,16 [default: as many bytes for each as can be]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', allow_hyphen_values = true)]
    pp_layers: Option<Vec<usize>>,
    /// Micro-batches of a pass through the stages [default: one for each 32 rows, at most 4 for each stage]
    #[arg(long, value_name = "N", value_parser = count_to(65536))]
    micro_batches: Option<usize>,
    /// What ranks are: threads of this process, or the processes that mpirun has started
    #[arg(long, value_enum, default_value_t = Comm::Threads)]
    comm: Comm,
    /// How many seconds a rank waits for another one that is alive
    #[arg(long, value_name = "SECONDS", default_value_t = parallel::TIMEOUT.as_secs_f64(), value_parser = seconds)]
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

impl ParallelArgs {
    fn topology(&self) -> Topology {
        let stages = self.pp_layers.as_ref().map_or(1, Vec::len).max(1);
        Topology { tensor: self.tp, pipeline: self.pp.unwrap_or(stages) }
    }

    /// Ranks of the model.
    pub fn ranks(&self) -> usize {
        self.topology().world_size()
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
            format: load.load_format,
            rules: load.rules(),
            stage_layers: self.pp_layers.clone(),
            micro_batches: self.micro_batches,
            timeout: Duration::from_secs_f64(self.comm_timeout),
            ..Setup::new(load.directory()?, self.topology())
        })
    }

    /// The process that leads goes on, with what loads the model on all ranks; the others serve it here until it ends, and get nothing.
    ///
    /// # Errors
    /// Those of the means by which ranks speak, and in a process that serves, those of its part.
    pub fn lead<B: Machine>(&self, machine: B, load: &LoadArgs) -> Result<Option<LoadWorker>> {
        let setup = self.setup(load)?;
        if self.comm == Comm::Threads {
            parallel::check_alone(setup.topology)?;
            return Ok(Some(loader(machine, setup, None)));
        }
        let lines = parallel::mpi_lines(setup.topology, setup.timeout)?;
        let machine = match lines.number_here {
            0 => machine,
            number => machine.for_rank(number)()?,
        };
        if lines.rank() == 0 {
            return Ok(Some(loader(machine, setup, Some(lines))));
        }
        serve_rank(machine, &setup, &lines)?;
        Ok(None)
    }
}

/// What loads the model: on ranks that are processes, if there are lines to them, in threads, or whole.
fn loader<B: Machine>(machine: B, setup: Setup, lines: Option<Lines>) -> LoadWorker {
    Box::new(move |load, config, longest, kv| {
        let setup = Setup { config: Some(config.clone()), ..setup };
        let workload = Workload { max_length: Some(longest), kv };
        let progress = Progress::new("reading weights");
        let add = |bytes, total| progress.add(bytes, total);
        Ok(match lines {
            Some(lines) => Box::new(Leader::over(machine, &setup, &lines, workload, Some(&add))?),
            None if setup.topology == Topology::ALONE => {
                let runner = load.load(machine, setup.config, Some(longest), workload.kv, |_| ())?;
                Box::new(LocalWorker { runner })
            }
            None => Box::new(in_threads(machine, &setup, workload, Some(&add))?),
        })
    })
}
