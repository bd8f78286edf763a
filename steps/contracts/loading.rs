//! The contracts of step 1's two loading exercises: a tensor's bytes by its name, and the parameter that a name means.

use super::{
    scratch::{Scratch, awkward_shard},
    story::{check_story, runner_of},
};
use serde_json::json;
use stairwell::{checkpoint::StateDict, demo, tensor::HostTensor};
use std::{error::Error, path::Path};

/// What may fail for any reason: files, JSON, a name that is not there.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Reads one tensor of a checkpoint directory: index → shard → header → byte range.
pub trait TensorReader {
    /// The bytes of the tensor `name` as they are stored.
    ///
    /// # Errors
    /// If there is no such tensor, or a file can't be read.
    fn read(&self, directory: &Path, name: &str) -> Outcome<Vec<u8>>;
}

/// Finds out which parameter a checkpoint's tensor is.
pub trait NameMapper {
    /// The parameter that the tensor `name` becomes, or `None` if it is dropped.
    fn map(&self, name: &str) -> Option<String>;
}

/// The tensors of a shard: names and bytes.
type Tensors = [(&'static str, Vec<u8>); 3];

/// `read` gives exactly the tensor's bytes, out of the shard that the index names, and refuses a name that is not there.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn tensor_reader(reader: &impl TensorReader) {
    let bytes = |n: u8, seed: u8| -> Vec<u8> { (0..n).map(|i| i.wrapping_mul(37) ^ seed).collect() };
    // Both shards hold parts of both layers, and an old `layers.1.b` was left behind in the first: the index decides.
    let east = [("layers.0.a", bytes(24, 1)), ("layers.1.a", bytes(6, 2)), ("layers.1.b", bytes(9, 3))];
    let west = [("layers.0.b", bytes(9, 4)), ("layers.1.b", bytes(9, 5)), ("norm", bytes(3, 6))];
    let shards = [("east.safetensors", east), ("west.safetensors", west)];
    let weight_map = json!({
        "norm": "west.safetensors", "layers.0.a": "east.safetensors", "layers.0.b": "west.safetensors",
        "layers.1.a": "east.safetensors", "layers.1.b": "west.safetensors",
    });
    let scratch = Scratch::new().expect("a temporary directory");
    for (file, tensors) in &shards {
        scratch.write(file, &awkward_shard(tensors)).expect("a temporary file");
    }
    let index = json!({"metadata": {"total_size": 60}, "weight_map": weight_map});
    scratch.write("model.safetensors.index.json", index.to_string().as_bytes()).expect("a temporary file");

    for (name, shard) in weight_map.as_object().expect("an object") {
        let got = reader.read(scratch.path(), name);
        let got =
            got.unwrap_or_else(|e| panic!("'{name}' was not read: {e}\n  the index puts it into {shard}"));
        let tensors = &shards.iter().find(|(file, _)| shard == file).expect("a shard").1;
        let want = &tensors.iter().find(|(n, _)| n == name).expect("a tensor").1;
        if got != *want {
            panic!(
                "'{name}' in {shard} is {want:?}\n  yours: {got:?}{}",
                diagnose(&got, name, tensors, &shards)
            );
        }
    }
    if let Ok(got) = reader.read(scratch.path(), "layers.2.a") {
        panic!("there is no 'layers.2.a', but it was read as {got:?}: return an error");
    }
}

/// Whose bytes these are, if they are anyone's.
fn diagnose(got: &[u8], name: &str, tensors: &Tensors, shards: &[(&str, Tensors)]) -> String {
    for (file, tensors) in shards {
        if let Some((other, _)) = tensors.iter().find(|(_, bytes)| bytes == got) {
            let hint = format!("did you ask the index which shard holds '{name}'?");
            return format!("\n  these are the bytes of '{other}' in {file}: {hint}");
        }
    }
    let file = awkward_shard(tensors);
    let header = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    // The data lie in reverse order.
    let start: usize =
        tensors.iter().rev().take_while(|(n, _)| *n != name).map(|(_, bytes)| bytes.len()).sum();
    let starts = [(0, "the file's start"), (8, "the header's start"), (header, "the header's length")];
    let at = |from: usize| file.get(from + start..from + start + got.len());
    let counted = starts.iter().find(|(from, _)| at(*from) == Some(got));
    counted.map_or(String::new(), |(_, from)| {
        let hint = format!("they count from the end of the header, byte 8 + {header} of this file");
        format!("\n  you counted data_offsets from {from}: {hint}")
    })
}

/// The demo model, every tensor of it read by this reader, writes the engine's story.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn tensor_reader_tells_the_story(reader: &impl TensorReader) {
    let scratch = Scratch::demo().expect("a temporary copy of the demo checkpoint");
    let state_dict = StateDict::open(&scratch.directory()).expect("the demo checkpoint");
    let read = |(name, tensor): (String, HostTensor)| {
        let bytes = reader
            .read(scratch.path(), &name)
            .unwrap_or_else(|e| panic!("'{name}' of the demo model was not read: {e}"));
        let (got, want) = (bytes.len(), tensor.data.len());
        assert_eq!(got, want, "'{name}' of the demo model, {tensor:?}, has {want} bytes; yours are {got}");
        (name, HostTensor::from_bytes(tensor.dtype, &tensor.shape, bytes))
    };
    check_story(runner_of(state_dict.tensors().map(read)));
}

/// `map` follows the four rules of the exercise, in their order: a leading `module.` goes; `_orig_mod.` goes wherever it
/// stands; a tensor of `v_head.` is dropped; a last `.gamma` becomes `.weight`.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn name_mapper(mapper: &impl NameMapper) {
    let cases = [
        ("model.norm.weight", Some("model.norm.weight"), "no rule speaks of it"),
        ("module.model.norm.weight", Some("model.norm.weight"), "a leading 'module.' goes"),
        (
            "model.layers.0._orig_mod.mlp.up_proj.weight",
            Some("model.layers.0.mlp.up_proj.weight"),
            "'_orig_mod.' goes, wherever it stands",
        ),
        (
            "_orig_mod.model.layers.0._orig_mod.mlp.up_proj.weight",
            Some("model.layers.0.mlp.up_proj.weight"),
            "every '_orig_mod.' goes",
        ),
        ("v_head.summary.weight", None, "tensors of 'v_head.' are dropped"),
        (
            "module._orig_mod.v_head.summary.weight",
            None,
            "the wrappers go first, and what is left starts with 'v_head.'",
        ),
        ("model.v_head.weight", Some("model.v_head.weight"), "only a leading 'v_head.' is the critic's head"),
        (
            "module.model.layers.3.input_layernorm.gamma",
            Some("model.layers.3.input_layernorm.weight"),
            "a last '.gamma' becomes '.weight'",
        ),
        ("module.model.submodule.weight", Some("model.submodule.weight"), "only the leading 'module.' goes"),
        (
            "module.model.gammas.gamma.bias",
            Some("model.gammas.gamma.bias"),
            "only a last '.gamma' becomes '.weight'",
        ),
    ];
    for (name, want, rule) in cases {
        let got = mapper.map(name);
        if got.as_deref() != want {
            let said = |n: Option<&str>| n.map_or("dropped".to_owned(), |n| format!("'{n}'"));
            let (got, want) = (said(got.as_deref()), said(want));
            panic!("'{name}' was mapped wrongly: {rule}\n  yours:    {got}\n  expected: {want}");
        }
    }
}

/// The demo model, its tensors renamed as a training run might leave them and named back by this mapper, writes the engine's
/// story.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn name_mapper_tells_the_story(mapper: &impl NameMapper) {
    let state_dict = StateDict::open(&demo::directory()).expect("the demo checkpoint");
    let trained = |(name, tensor): (String, HostTensor)| {
        let name = name.replace("self_attn.", "_orig_mod.self_attn.");
        let name = name.replace("layernorm.weight", "layernorm.gamma");
        (format!("module.{name}"), tensor)
    };
    let critic = ("module.v_head.summary.weight".to_owned(), HostTensor::from_f32(&[1], &[0.0]));
    let checkpoint = state_dict.tensors().map(trained).chain([critic]);
    check_story(runner_of(checkpoint.filter_map(|(name, tensor)| Some((mapper.map(&name)?, tensor)))));
}
