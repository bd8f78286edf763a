//! Flags that name a model and say how to load it.

use super::{gpu_args::GpuArgs, hub_args::ModelHubArgs, terminal::Progress};
use clap::{Args, ValueEnum};
use stairwell::{
    attention::KvOptions,
    backend::cpu::{self, Cpu},
    checkpoint::{Directory, LoadRules},
    config::{ModelConfig, Quantization},
    error::{Error, Result},
    machine::{DeviceKind, Machine},
    model::LoadEvent,
    request::Checkpoint,
    runner::{LoadFormat, LoadOptions, ModelRunner},
    tokenizer::{StepsFrom, Tokenizer, TokenizerFiles},
};
use std::path::PathBuf;

/// Which model.
#[derive(Args)]
pub struct ModelArgs {
    /// Checkpoint directory, GGUF file, or a model's name on the Hugging Face hub (ORG/NAME, or ORG/NAME@REVISION), which is looked for in
    /// the local cache and fetched into it. Default: the built-in demo model
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Branch, tag or commit of a model by name
    #[arg(long, requires = "model")]
    pub revision: Option<String>,
    /// Whose steps the tokenizer takes where the two differ [default: class]
    #[arg(long, value_enum, value_name = "SOURCE")]
    pub tokenizer_from: Option<StepsFrom>,
    #[command(flatten)]
    pub hub: ModelHubArgs,
}

/// How to load it.
#[derive(Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Where weights come from. auto takes what is there, safetensors first; dummy makes random ones from config.json
    #[arg(long, value_enum, default_value_t)]
    pub load_format: LoadFormat,
    /// Read the weights into memory instead of mapping their files. If another process shortens a file that is mapped, the system ends
    /// the program (SIGBUS, "bus error"); a file that was read may change. It takes the weights' size in memory, and as long as the disk
    #[arg(long)]
    pub no_mmap: bool,
    /// Leave out tensors whose names contain one of these
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub skip_substr: Vec<String>,
    /// What the checkpoint's packed weights must be, such as gptq or fp8: only a check, since the checkpoint says how to read them
    #[arg(long, value_name = "METHOD")]
    pub quantization: Option<String>,
    /// What linear layers multiply; weights stay as stored on the CPU [auto: on a GPU the dtype of the weights, on a CPU bf16 for weights
    /// of bf16 where an instruction multiplies them, else f32]
    #[arg(long, value_enum, default_value_t = Arithmetic::Auto)]
    pub dtype: Arithmetic,
    /// int8 rounds activations to 8 bits where weights are packed in 4 or 8, and multiplies integers: faster, and not exact. On the CPU
    #[arg(long, value_enum, default_value_t = Activations::Auto)]
    pub act_dtype: Activations,
}

/// On what it runs.
#[derive(Args)]
pub struct DeviceArgs {
    /// Where the model runs [default: cuda if there is one, else cpu]
    #[arg(long, value_enum, value_name = "NAME")]
    pub device: Option<DeviceKind>,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// The CPU's arithmetics and the one that only a GPU has.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Arithmetic {
    Auto,
    F32,
    Bf16,
    F16,
}

/// What packed weights are multiplied by.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Activations {
    /// As --dtype says
    Auto,
    /// Integers of 8 bits with a scale for each 32 (step 9)
    Int8,
}

impl ModelArgs {
    /// The directory that `--model` names, or the demo.
    pub fn directory(&self) -> Result<Directory> {
        self.hub.directory(self.model.as_deref(), self.revision.as_deref())
    }

    /// The directory's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::new(self.tokenizer_files()?)?;
        tokenizer.note().iter().for_each(|note| eprintln!("note: {note}"));
        Ok(tokenizer)
    }

    /// The directory's tokenizer files.
    pub fn tokenizer_files(&self) -> Result<TokenizerFiles> {
        Ok(TokenizerFiles { from: self.tokenizer_from, ..TokenizerFiles::of(&self.directory()?)? })
    }
}

/// A file that is not to be written over, with what it is.
pub type Input = (&'static str, PathBuf);

/// The files of a checkpoint as inputs.
pub fn inputs(directory: &Directory) -> Vec<Input> {
    directory.files().into_iter().map(|path| ("a file of the model", path)).collect()
}

impl LoadArgs {
    /// The directory that `--model` names, or the demo; with `--no-mmap`, one whose files are read.
    pub fn directory(&self) -> Result<Directory> {
        let directory = self.model.directory()?;
        Ok(if self.no_mmap { directory.unmapped() } else { directory })
    }

    /// The directory, with config.json, generation_config.json and the tokenizer, read once.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let ModelArgs { tokenizer_from, .. } = self.model;
        let checkpoint = Checkpoint::open_with(self.model.directory()?, self.load_format, tokenizer_from)?;
        self.check_quantization(&checkpoint.config)?;
        let note = checkpoint.tokenizer().ok().and_then(Tokenizer::note);
        note.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(checkpoint)
    }

    /// Compares `--quantization` with what the checkpoint says.
    pub fn check_quantization(&self, config: &ModelConfig) -> Result<()> {
        let found = config.quantization.as_ref().map(Quantization::method);
        match &self.quantization {
            Some(asked) if found != Some(asked) => {
                let found = found.unwrap_or("not packed");
                Err(Error::Usage(format!(
                    "--quantization {asked}: the weights of this checkpoint are {found}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// The files that the model is read from.
    pub fn inputs(&self) -> Result<Vec<Input>> {
        Ok(inputs(&self.directory()?))
    }

    /// Loads the model; `config` is its config.json, if it was read before. `max_length` is the longest sequence of this run, if it is
    /// known; `events` sees every tensor.
    pub fn load<B: Machine>(
        &self,
        machine: B,
        config: Option<ModelConfig>,
        max_length: Option<usize>,
        kv: KvOptions,
        mut events: impl FnMut(LoadEvent),
    ) -> Result<ModelRunner<B>> {
        let progress = Progress::new("reading weights");
        let add = |bytes, total| progress.add(bytes, total);
        let (events, progress) = (Some(&mut events as &mut dyn FnMut(LoadEvent)), Some(&add as _));
        let options = LoadOptions {
            config,
            format: self.load_format,
            rules: self.rules(),
            max_length,
            kv,
            events,
            progress,
        };
        ModelRunner::load_on(machine, &self.directory()?, options)
    }

    /// For comparisons with f32: that is what is computed, unless something else is asked for.
    pub fn prefer_f32(&mut self) {
        if self.dtype == Arithmetic::Auto {
            self.dtype = Arithmetic::F32;
        }
    }

    /// The CPU, with the arithmetic that is asked for.
    ///
    /// # Errors
    /// For arithmetic that it does not have.
    pub fn cpu(&self) -> Result<Cpu> {
        let arithmetic = match self.dtype {
            Arithmetic::Auto => cpu::Arithmetic::Auto,
            Arithmetic::F32 => cpu::Arithmetic::F32,
            Arithmetic::Bf16 => cpu::Arithmetic::Bf16,
            Arithmetic::F16 => {
                let message = "--dtype f16: the CPU multiplies f32 or bf16; use --dtype f32 or --dtype bf16 (weights of f16 are used as stored)";
                return Err(Error::Usage(message.into()));
            }
        };
        let int8 = self.act_dtype == Activations::Int8;
        if int8 && !cpu::HAS_INT8 {
            let message =
                "--act-dtype int8: only packed weights are multiplied so; build with --features step9";
            return Err(Error::Usage(message.into()));
        }
        Ok(Cpu::default().with_arithmetic(arithmetic).with_int8_activations(int8))
    }

    /// The default rules and `--skip-substr`.
    pub fn rules(&self) -> LoadRules {
        let mut rules = LoadRules::default();
        rules.skip_substrs.extend(self.skip_substr.iter().filter(|s| !s.is_empty()).cloned());
        rules
    }
}

/// A list of token ids: `5,17,3`.
#[derive(Clone, Debug)]
pub struct TokenIds(pub Vec<u32>);

impl std::str::FromStr for TokenIds {
    type Err = String;
    fn from_str(text: &str) -> Result<TokenIds, String> {
        if text.trim().is_empty() {
            return Ok(TokenIds(Vec::new()));
        }
        let id = |part: &str| {
            part.trim().parse().map_err(|_| format!("'{part}' is no token id; write ids like 5,17,3"))
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(TokenIds)
    }
}
