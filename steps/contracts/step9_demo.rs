//! The demo model with packed weights: as a checkpoint that the engine runs, and as numbers that somebody has read from it.

use super::story::{PROMPT, runner_of, tokenizer, write};
use half::f16;
use serde_json::Value;
use stairwell::{
    backend::cpu::Cpu,
    checkpoint::{Directory, StateDict, write_safetensors},
    demo,
    error::Result,
    quant::quantize::{Method, Recipe},
    runner::{LoadOptions, ModelRunner},
    tensor::{DType, HostTensor},
};
use std::fs;

/// AWQ's layout, rounded to nearest.
pub fn awq(group_size: usize) -> Recipe {
    Recipe { method: Method::AwqRtn, bits: 4, group_size, symmetric: false, nearest: true }
}

/// GPTQ's layout, rounded to nearest.
pub fn gptq(bits: usize, group_size: usize) -> Recipe {
    Recipe { method: Method::Gptq, bits, group_size, symmetric: false, nearest: true }
}

/// A matrix of the demo's layers, [outputs, inputs].
#[derive(Clone)]
pub struct Module {
    name: String,
    pub shape: [usize; 2],
    /// The last part of each tensor's name, and the tensor.
    tensors: Vec<(String, HostTensor)>,
}

impl Module {
    /// A tensor by the last part of its name.
    pub fn part(&self, part: &str) -> &HostTensor {
        &self.tensors.iter().find(|(name, _)| name == part).expect("a part of the layout").1
    }
}

/// The demo model, packed.
#[derive(Clone)]
pub struct Demo {
    recipe: Recipe,
    modules: Vec<Module>,
    others: Vec<(String, HostTensor)>,
}

impl Demo {
    pub fn new(recipe: Recipe) -> Demo {
        let state_dict = StateDict::open(&demo::directory()).expect("the demo's weights");
        let (mut modules, mut others) = (Vec::new(), Vec::new());
        for (name, tensor) in state_dict.tensors() {
            let module = name.strip_suffix("_proj.weight").map(|module| format!("{module}_proj"));
            let Some(module) = module else {
                others.push((name, tensor));
                continue;
            };
            let shape = [tensor.shape[0], tensor.shape[1]];
            let packed = recipe.quantize(&module, &tensor.to_f32(), shape, None).expect("the demo's sizes");
            let part = |(name, tensor): (String, HostTensor)| (name[module.len() + 1..].to_owned(), tensor);
            let tensors = packed.tensors.into_iter().map(part).collect();
            modules.push(Module { name: module, shape, tensors });
        }
        Demo { recipe, modules, others }
    }

    /// The same with other tensors for some parts of every matrix.
    pub fn with_parts(mut self, parts: &[&str], change: impl Fn(&HostTensor) -> HostTensor) -> Demo {
        let tensors = self.modules.iter_mut().flat_map(|module| &mut module.tensors);
        tensors
            .filter(|(part, _)| parts.contains(&part.as_str()))
            .for_each(|(_, tensor)| *tensor = change(tensor));
        self
    }

    /// The engine with the packed checkpoint, as it runs any other.
    pub fn runner(&self) -> Result<ModelRunner<Cpu>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = demo::directory().read("config.json")?.expect("the demo's config.json");
        let mut config: Value = serde_json::from_slice(&config).expect("it is JSON");
        config["quantization_config"] = self.recipe.config();
        fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
        let packed = self.modules.iter().flat_map(|Module { name, tensors, .. }| {
            tensors.iter().map(move |(part, tensor)| (format!("{name}.{part}"), tensor.clone()))
        });
        let tensors: Vec<(String, HostTensor)> = packed.chain(self.others.iter().cloned()).collect();
        write_safetensors(&dir.path().join("model.safetensors"), &tensors)?;
        ModelRunner::load(&Directory::Disk(dir.path().into()), LoadOptions::default())
    }

    /// The engine with dense numbers, [outputs, inputs], which `read` makes of each matrix.
    pub fn dense(&self, read: impl Fn(&Module) -> Vec<f32>) -> Result<ModelRunner<Cpu>> {
        let modules = self.modules.iter().map(|module| {
            let numbers = HostTensor::from_f32(&module.shape, &read(module));
            (format!("{}.weight", module.name), numbers)
        });
        runner_of(modules.chain(self.others.iter().cloned()))
    }
}

/// The ids of the story that a model tells.
#[track_caller]
pub fn ids(runner: Result<ModelRunner<Cpu>>) -> Vec<u32> {
    let prompt = tokenizer().and_then(|t| Ok(t.encode_prompt(PROMPT)?)).expect("the demo's tokenizer");
    let told = runner.and_then(|mut runner| write(&mut runner, &prompt));
    told.unwrap_or_else(|e| panic!("the engine can't tell the demo story with your piece: {e}")).0
}

/// The words of an i32 tensor.
pub fn words(tensor: &HostTensor) -> Vec<u32> {
    tensor.data.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// A tensor of words with the shape of another.
pub fn word_tensor(like: &HostTensor, words: impl Iterator<Item = u32>) -> HostTensor {
    HostTensor::from_bytes(DType::I32, &like.shape, words.flat_map(u32::to_le_bytes).collect())
}

/// The numbers of an f16 tensor.
pub fn floats(tensor: &HostTensor) -> Vec<f32> {
    tensor.data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
}
