//! `stairwell logits`: the logits of every prompt token, to a file.

use super::model_args::{DeviceArgs, LoadArgs, TokenIds};
use super::{KvArgs, terminal::print};
use stairwell::backend::{Backend, Shaped};
use stairwell::{batch::Batch, checkpoint::write_safetensors, error::Result, files};
use stairwell::{machine::Machine, model::Observer, runner::check_prompt, tensor::HostTensor};
use std::path::PathBuf;

/// Write the logits of every token of a prompt to a safetensors file
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  stairwell logits --model Qwen3-0.6B --prompt-ids 5,17,3 --out logits.safetensors --layers")]
pub struct Args {
    #[command(flatten)]
    pass: PassArgs,
    /// Token ids, such as 5,17,3
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    prompt_ids: TokenIds,
    /// File to write: tensor 'logits', f32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Also write every module's output, f32 [tokens, width], under its Hugging Face name
    #[arg(long)]
    layers: bool,
}

/// One forward pass of a model, in f32 unless something else is asked for.
#[derive(clap::Args)]
pub struct PassArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    on: DeviceArgs,
    #[command(flatten)]
    kv: KvArgs,
}

pub fn run(args: Args) -> Result<()> {
    files::check_outputs(&[("--out", &args.out)], &args.pass.load.inputs()?)?;
    let tensors = args.pass.outputs(&args.prompt_ids.0, args.layers)?;
    write_safetensors(&args.out, &tensors)?;
    let shape = tensors.last().map(|(_, logits)| &logits.shape[..]).unwrap_or_default();
    print(&format!("{}: logits {shape:?}, {} tensors\n", args.out.display(), tensors.len()))
}

impl PassArgs {
    /// The logits of every token of the prompt, as the last tensor; before it, if they are wanted, the outputs of all modules in the order
    /// of the forward pass.
    ///
    /// # Errors
    /// Those of loading, and a prompt that the model can't serve.
    pub fn outputs(mut self, prompt: &[u32], modules: bool) -> Result<Vec<(String, HostTensor)>> {
        self.load.prefer_f32();
        on_device!(self.on, self.load, |machine| self.outputs_on(machine, prompt, modules))
    }

    fn outputs_on<B: Machine>(
        &self,
        machine: B,
        prompt: &[u32],
        modules: bool,
    ) -> Result<Vec<(String, HostTensor)>> {
        let config = self.load.checkpoint()?.config;
        check_prompt(&config, prompt)?;
        let kv = self.kv.options(&config, Some(prompt.len()))?;
        let mut runner = self.load.load(machine, Some(config), Some(prompt.len()), kv, |_| ())?;
        runner.check_prompt(prompt)?;
        let mut batch = Batch::of(prompt);
        batch.want_all_logits();
        let mut outputs = Outputs::default();
        let observer = modules.then_some(&mut outputs);
        let logits = runner.forward(&batch, observer.map(|o| o as &mut dyn Observer<_>))?;
        let shape = [logits.rows(), logits.cols()];
        let logits = HostTensor::from_f32(&shape, &runner.backend.download(&logits)?);
        outputs.0.push(("logits".into(), logits));
        Ok(outputs.0)
    }
}

/// Every module's output, in the order of the forward pass.
#[derive(Default)]
struct Outputs(Vec<(String, HostTensor)>);

impl<B: Backend> Observer<B> for Outputs {
    fn output(&mut self, backend: &B, name: &str, output: &B::Tensor) {
        if let Ok(values) = backend.download(output) {
            self.0.push((name.to_owned(), HostTensor::from_f32(&[output.rows(), output.cols()], &values)));
        }
    }
}
