//! A Hugging Face checkpoint as a GGUF file, by the rules of llama.cpp's converter: the other direction of what the library does.

use crate::{common::read_tensors, gguf_file::GgufFile};
use serde_json::Value;
use stairwell::tensor::{DType, HostTensor};
use std::{collections::BTreeMap, f64::consts::PI, fs, path::Path};

/// A type's number in ggml.
pub fn number_of(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q8_0 => 8,
        DType::BF16 => 30,
        other => panic!("{other} is not written"),
    }
}

/// All tensors of a directory, of one file or several.
pub fn tensors_of(dir: &Path) -> BTreeMap<String, HostTensor> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    };
    files.filter(|path| named(path)).flat_map(|path| read_tensors(&path)).collect()
}

/// The checkpoint in `dir`. `encode` makes what is stored of each tensor: by its GGUF name, its rows in GGUF's order.
pub fn converted(dir: &Path, encode: impl Fn(&str, HostTensor) -> HostTensor) -> GgufFile {
    let config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    let family = config["model_type"].as_str().unwrap();
    let architecture = if family == "mistral" { "llama" } else { family };
    let mut file = GgufFile::new(architecture);
    let [heads, key_heads] = metadata(&mut file, architecture, &config);
    for (name, tensor) in tensors_of(dir) {
        let name = gguf_name(&name);
        let tensor = match (architecture, name.split('.').nth(2)) {
            ("llama", Some("attn_q")) => in_pairs(&tensor, heads),
            ("llama", Some("attn_k")) => in_pairs(&tensor, key_heads),
            _ => tensor,
        };
        let tensor = encode(&name, tensor);
        file.tensor(&name, number_of(tensor.dtype), &tensor.shape, tensor.data.to_vec());
    }
    file
}

/// Writes what config.json says; returns the heads of q and of k.
fn metadata(file: &mut GgufFile, architecture: &str, config: &Value) -> [usize; 2] {
    let size = |name: &str| config[name].as_u64().map(|n| n as usize);
    let (hidden, heads) = (size("hidden_size").unwrap(), size("num_attention_heads").unwrap());
    let key_heads = size("num_key_value_heads").unwrap_or(heads);
    let head_dim = size("head_dim").unwrap_or(hidden / heads);
    let key = |name: &str| format!("{architecture}.{name}");
    for (name, value) in [
        ("embedding_length", hidden),
        ("block_count", size("num_hidden_layers").unwrap()),
        ("feed_forward_length", size("intermediate_size").unwrap()),
        ("context_length", size("max_position_embeddings").unwrap()),
        ("attention.head_count", heads),
        ("attention.head_count_kv", key_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
    ] {
        file.u32(&key(name), value as u32);
    }
    if architecture == "llama" {
        file.u32(&key("rope.dimension_count"), head_dim as u32);
    }
    if let Some(window) = size("sliding_window").filter(|_| config["model_type"] == "mistral") {
        file.u32(&key("attention.sliding_window"), window as u32);
    }
    file.f32(
        &key("attention.layer_norm_rms_epsilon"),
        config["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
    );
    let rope = ["rope_scaling", "rope_parameters"]
        .into_iter()
        .map(|name| &config[name])
        .find(|rope| rope.is_object());
    let theta = config["rope_theta"].as_f64().or_else(|| rope?["rope_theta"].as_f64()).unwrap_or(10000.0);
    file.f32(&key("rope.freq_base"), theta as f32);
    file.u32("tokenizer.ggml.eos_token_id", 2);
    if let Some(rope) = rope {
        scaling(file, architecture, rope, theta, head_dim);
    }
    [heads, key_heads]
}

fn scaling(file: &mut GgufFile, architecture: &str, rope: &Value, theta: f64, head_dim: usize) {
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    let float = |name: &str| rope[name].as_f64().unwrap();
    match rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap() {
        "llama3" => {
            let factor = |i: usize| {
                let wavelength = 2.0 * PI * theta.powf(2.0 * i as f64 / head_dim as f64);
                let original = float("original_max_position_embeddings");
                let (low, high) = (float("low_freq_factor"), float("high_freq_factor"));
                let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / float("factor") + smooth)) as f32
            };
            let factors: Vec<u8> = (0..head_dim / 2).flat_map(|i| factor(i).to_le_bytes()).collect();
            file.tensor("rope_freqs.weight", 0, &[head_dim / 2], factors);
        }
        kind @ ("linear" | "yarn") => {
            file.text(&key("type"), kind).f32(&key("factor"), float("factor") as f32);
            if let Some(original) = rope["original_max_position_embeddings"].as_u64() {
                file.u32(&key("original_context_length"), original as u32);
            }
        }
        _ => {}
    }
}

/// Rows i and i + half of each head side by side, as llama.cpp rotates them.
pub fn in_pairs(tensor: &HostTensor, heads: usize) -> HostTensor {
    let rows = tensor.shape[0];
    let (half, bytes) = (rows / heads / 2, tensor.data.len() / rows);
    let from = |row: usize| row / (2 * half) * 2 * half + row % 2 * half + row % (2 * half) / 2;
    let data = (0..rows).flat_map(|row| tensor.data[from(row) * bytes..][..bytes].to_vec()).collect();
    HostTensor::from_bytes(tensor.dtype, &tensor.shape, data)
}

fn gguf_name(name: &str) -> String {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    names.iter().fold(name.into(), |name: String, (from, to)| name.replace(from, to))
}
