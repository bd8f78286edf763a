//! Scales of K and V for a cache of fp8: those that a checkpoint has, and those of a file.
//!
//! A tool that has seen K and V of a calibration text writes one scale for all K of a layer and one for all V. The checkpoint has them as tensors
//! beside the layer's matrices, or vLLM's older tools write a file, in which K and V share a scale:
//!
//! ```json
//! {"model_type": "llama", "kv_cache": {"dtype": "float8_e4m3fn", "scaling_factor": {"<rank>": {"<layer>": 0.023}}}}
//! ```
//! They are read when a model is loaded. New weights of a live update leave them as they are, since sequences in flight were stored with them.

use crate::attention::{KvDtype, KvOptions, KvScales, KvScalesFile};
use crate::checkpoint::StateDict;
use crate::config::{ModelConfig, Place};
use crate::error::{Error, Result};
use crate::model::{KvScalesFrom, Rank};
use crate::{files, json, words::field};
use serde_json::{Map, Value};
use std::{ops::Range, path::Path};

/// What a tensor's name ends with, and whether it is a scale of K and one of V.
const NAMES: [(&str, [bool; 2]); 5] = [
    (".k_scale", [true, false]),
    (".v_scale", [false, true]),
    (".kv_scale", [true, true]),
    (".k_proj.output_scale", [true, false]),
    (".v_proj.output_scale", [false, true]),
];

/// Bytes that such a file has at most: a scale for each layer of each rank.
const LARGEST: u64 = 16 << 20;

/// Whether a tensor is a scale of K or V, which a cache of 8-bit floats may use.
pub(crate) fn is_kv_scale(name: &str) -> bool {
    NAMES.iter().any(|(end, _)| name.ends_with(end))
}

/// The scales that a rank uses for its layers: a file's, if one was given, else the checkpoint's, if it has any; none unless K and V are fp8.
///
/// # Errors
/// A file for other ranks; a checkpoint in which some scale is missing, or is none.
pub(crate) fn kv_scales(
    kv: &KvOptions,
    checkpoint: Option<&StateDict>,
    layers: Range<usize>,
    rank: Rank,
) -> Result<Option<KvScales>> {
    if kv.dtype != KvDtype::Fp8 {
        return Ok(None);
    }
    let (from, first) = (KvScalesFrom::File, layers.start);
    if let Some(file) = &kv.scales_file {
        let scales = of_rank(file, rank)?;
        let layers = scales[layers].iter().map(|scale| [*scale; 2]).collect();
        return Ok(Some(KvScales { from, first, layers }));
    }
    let Some(state_dict) = checkpoint else { return Ok(None) };
    let layers = of_checkpoint(state_dict, layers)?;
    Ok(layers.map(|layers| KvScales { from: KvScalesFrom::Checkpoint, first, layers }))
}

/// A rank's scales. A file of one rank is for all.
fn of_rank(file: &KvScalesFile, rank: Rank) -> Result<&[f32]> {
    match &file.ranks[..] {
        [one] => Ok(one),
        ranks if ranks.len() == rank.world_size => Ok(&ranks[rank.rank]),
        ranks => {
            let why = format!(
                "kv_cache.scaling_factor: the file has scales of {} tensor parallel ranks, and there are {}; run as many, or give a file with one rank",
                ranks.len(),
                rank.world_size
            );
            Err(refuse(&file.path, why))
        }
    }
}

fn refuse(path: &Path, why: String) -> Error {
    let value = path.display().to_string();
    Error::Parameter { field: "quantization_param_path", value, why: why.into() }
}

/// The scales of some layers in a checkpoint, [K, V] each; `None` if it has none of them.
fn of_checkpoint(state_dict: &StateDict, layers: Range<usize>) -> Result<Option<Vec<[f32; 2]>>> {
    let mut found: Vec<[Option<f32>; 2]> = vec![[None; 2]; layers.len()];
    let mut one = None;
    for name in state_dict.names() {
        let Some((_, parts)) = NAMES.iter().find(|(end, _)| name.ends_with(end)) else { continue };
        let Some(Place::Layer(layer)) = Place::of(name) else { continue };
        let Some(of_layer) = layer.checked_sub(layers.start).and_then(|at| found.get_mut(at)) else {
            continue;
        };
        let scale = scale_of(state_dict, name)?;
        for part in (0..2).filter(|part| parts[*part]) {
            // A scale of K alone counts more than one of both.
            if !parts[1 - part] || of_layer[part].is_none() {
                of_layer[part] = Some(scale);
            }
        }
        one = Some(name);
    }
    let Some(one) = one else { return Ok(None) };
    let complete = |(at, scales): (usize, [Option<f32>; 2])| match scales {
        [Some(k), Some(v)] => Ok([k, v]),
        [k, _] => {
            let (which, layer) = (if k.is_none() { "k_scale" } else { "v_scale" }, layers.start + at);
            Err(refuse_tensor(state_dict, one, format!("beside it there is no {which} for layer {layer}")))
        }
    };
    found.into_iter().enumerate().map(complete).collect::<Result<_>>().map(Some)
}

/// The error that a tensor is no scale.
fn refuse_tensor(state_dict: &StateDict, name: &str, reason: String) -> Error {
    let file = state_dict.file_of(name).display().to_string();
    let (value, other) = (KvDtype::Fp8.to_string(), field("quantization_param_path"));
    let why = format!("{file}: '{name}': {reason}; give another dtype, or a file of scales with {other}");
    Error::Parameter { field: "kv_dtype", value, why: why.into() }
}

/// The number in a tensor of one.
fn scale_of(state_dict: &StateDict, name: &str) -> Result<f32> {
    let tensor = state_dict.tensor(name).expect("a name of the state dict");
    if tensor.len() != 1 || !tensor.dtype.is_weight() {
        let (dtype, shape) = (tensor.dtype, &tensor.shape);
        let reason = format!(
            "dtype {dtype}, shape {shape:?}, and a scale of K or V is one number of f32, bf16 or f16"
        );
        return Err(refuse_tensor(state_dict, name, reason));
    }
    let scale = tensor.to_f32()[0];
    check(scale).map_err(|why| refuse_tensor(state_dict, name, format!("it is {scale}; {why}")))
}

/// A scale must be a number above zero.
fn check(scale: f32) -> Result<f32, &'static str> {
    match scale.is_finite() && scale > 0.0 {
        true => Ok(scale),
        false => Err("a scale is a number above 0 that an f32 holds"),
    }
}

/// Reads a file of scales, and checks that it is for this model.
///
/// # Errors
/// One that names the file, the key, and what to do.
pub fn read_kv_scales(path: &Path, config: &ModelConfig) -> Result<KvScalesFile> {
    let leave = format!("; write the file again, or leave {} out", field("quantization_param_path"));
    let refuse = |why: String| refuse(path, why + &leave);
    let bytes = files::read(path, LARGEST).map_err(|error| refuse(error.to_string()))?;
    let object = json::object(&bytes).map_err(refuse)?;
    read(&object, config).map_err(|(key, why)| refuse(format!("{key}: {why}"))).map(|ranks| {
        let path = path.into();
        KvScalesFile { path, ranks }
    })
}

/// The scales of all ranks, or the key that is wrong and why.
fn read(object: &Map<String, Value>, config: &ModelConfig) -> Result<Vec<Vec<f32>>, (String, String)> {
    let names = config.architecture.names();
    let is_null = |value: &&Value| !value.is_null();
    match object.get("model_type").filter(is_null) {
        Some(Value::String(found)) if names.is_called(found) => {}
        Some(found) => {
            let why = format!("the file is for {found}, and this model is '{}'", names.model_type);
            return Err(("model_type".into(), why));
        }
        None => {}
    }
    let cache = member(object, "", "kv_cache")?;
    match cache.get("dtype").filter(is_null) {
        Some(Value::String(dtype)) if dtype == "float8_e4m3fn" => {}
        Some(dtype) => {
            return Err(("kv_cache.dtype".into(), format!("it is {dtype}, and only float8_e4m3fn is read")));
        }
        None => {}
    }
    let factors = member(cache, "kv_cache.", "scaling_factor")?;
    let at = "kv_cache.scaling_factor.";
    let ranks = (0..factors.len()).map(|rank| {
        let of_rank = member(factors, at, &rank.to_string())?;
        let at = format!("{at}{rank}");
        let layers = (0..config.num_hidden_layers).map(|layer| {
            let key = format!("{at}.{layer}");
            let Some(scale) = of_rank.get(&layer.to_string()) else {
                return Err((
                    key,
                    format!("it is missing, and the model has {} layers", config.num_hidden_layers),
                ));
            };
            let number = scale.as_f64().ok_or_else(|| (key.clone(), format!("{scale} is not a number")))?;
            check(number as f32).map_err(|why| (key, format!("it is {scale}; {why}")))
        });
        let layers = layers.collect::<Result<Vec<f32>, _>>()?;
        match of_rank.len() == layers.len() {
            true => Ok(layers),
            false => Err((
                at,
                format!("it has {} scales, and the model has {} layers", of_rank.len(), layers.len()),
            )),
        }
    });
    match ranks.collect::<Result<Vec<_>, _>>()? {
        ranks if ranks.is_empty() => Err(("kv_cache.scaling_factor".into(), "it is empty".into())),
        ranks => Ok(ranks),
    }
}

/// An object in an object.
fn member<'a>(
    object: &'a Map<String, Value>,
    at: &str,
    key: &str,
) -> Result<&'a Map<String, Value>, (String, String)> {
    let wrong = |why: &str| (format!("{at}{key}"), why.to_owned());
    match object.get(key) {
        Some(Value::Object(member)) => Ok(member),
        Some(_) => Err(wrong("it is no object")),
        None => Err(wrong("it is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(ranks: Vec<Vec<f32>>) -> KvOptions {
        let scales_file = Some(KvScalesFile { path: "kv.json".into(), ranks });
        KvOptions { dtype: KvDtype::Fp8, scales_file, ..KvOptions::default() }
    }

    /// A rank takes its own scales of its own layers, or those of the only rank.
    #[test]
    fn a_rank_has_the_scales_of_its_layers() {
        let two = options(vec![vec![1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0]]);
        let of = |kv: &KvOptions, rank, world_size, layers| {
            kv_scales(kv, None, layers, Rank { rank, world_size }).map(|scales| scales.unwrap())
        };
        let scales = of(&two, 1, 2, 1..3).unwrap();
        assert_eq!((scales.first, scales.from), (1, KvScalesFrom::File));
        assert_eq!(scales.layers, [[5.0; 2], [6.0; 2]]);
        assert_eq!(of(&options(vec![vec![1.0, 2.0]]), 3, 4, 0..2).unwrap().layers, [[1.0; 2], [2.0; 2]]);
        let error = of(&two, 0, 4, 0..3).unwrap_err().to_string();
        assert!(
            error.contains("kv.json") && error.contains("2 tensor parallel ranks, and there are 4"),
            "{error}"
        );
        let bf16 = KvOptions { dtype: KvDtype::Bf16, ..two };
        assert_eq!(kv_scales(&bf16, None, 0..3, Rank::ALONE).unwrap(), None);
    }
}
