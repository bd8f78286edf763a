//! `stairwell logits`: the logits of every prompt token, to a file.

use super::{
    KvArgs, Outcome,
    model_args::{DeviceArgs, LoadArgs, TokenIds},
    terminal::print,
};
use stairwell::{
    backend::{Backend, Shaped},
    batch::Batch,
    checkpoint::write_safetensors,
    error::Result,
    machine::Machine,
    model::Observer,
    runner::{check_prompt, read_config},
    tensor::HostTensor,
};
use std::path::PathBuf;

/// Write the logits of every token of a prompt to a safetensors file
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  stairwell logits --model Qwen3-0.6B --prompt-ids 5,17,3 --out logits.safetensors --layers")]
pub struct Args {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    on: DeviceArgs,
    #[command(flatten)]
    kv: KvArgs,
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

pub fn run(mut args: Args) -> Result<Outcome> {
    args.load.prefer_f32();
    on_device!(args.on, args.load, |machine| run_on(args, machine))
}

fn run_on<B: Machine>(args: Args, machine: B) -> Result<Outcome> {
    let TokenIds(prompt) = &args.prompt_ids;
    let config = read_config(&args.load.model.directory()?)?;
    check_prompt(&config, prompt)?;
    let kv = args.kv.options(&config, Some(prompt.len()))?;
    let mut runner = args.load.load(machine, Some(config), Some(prompt.len()), kv, |_| ())?;
    runner.check_prompt(prompt)?;
    let mut batch = Batch::of(prompt);
    batch.want_all_logits();

    let mut outputs = Outputs::default();
    let observer = args.layers.then_some(&mut outputs);
    let logits = runner.forward(&batch, observer.map(|o| o as &mut dyn Observer<_>))?;
    let shape = [logits.rows(), logits.cols()];
    let logits = HostTensor::from_f32(&shape, &runner.backend.download(&logits)?);

    let mut tensors = outputs.0;
    tensors.push(("logits".into(), logits));
    write_safetensors(&args.out, &tensors)?;
    print(&format!("{}: logits {shape:?}, {} tensors\n", args.out.display(), tensors.len()))?;
    Ok(Outcome::Good)
}

/// Every module's output, in the order of the forward pass.
#[derive(Default)]
pub struct Outputs(pub Vec<(String, HostTensor)>);

impl<B: Backend> Observer<B> for Outputs {
    fn output(&mut self, backend: &B, name: &str, output: &B::Tensor) {
        if let Ok(values) = backend.download(output) {
            self.0.push((name.to_owned(), HostTensor::from_f32(&[output.rows(), output.cols()], &values)));
        }
    }
}
