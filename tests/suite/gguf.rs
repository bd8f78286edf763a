//! GGUF files as models: written here, from the fixtures, and those of ../shared.

use crate::common::{
    Checkpoint, Reference, TOLERANCE, accepted, bits, distance, fixture, greedy, logits, read_tensors, run,
    shared,
};
use crate::gguf_convert::{converted, in_pairs, tensors_of};
use crate::gguf_file::GgufFile;
use serde_json::Value;
use stairwell::{
    attention,
    backend::cpu::Cpu,
    checkpoint::{Directory, Gguf, locate, write_safetensors},
    runner::{LoadOptions, ModelRunner},
    tensor::{DType, HostTensor},
};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// A file in a directory of its own.
fn written(file: &GgufFile) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

/// The model that a path names, in f32.
fn load(path: &str) -> ModelRunner<Cpu> {
    let directory = locate(path, None).unwrap();
    ModelRunner::load_with(Cpu::default(), &directory, LoadOptions::default(), attention::build)
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn as_stored(_: &str, tensor: HostTensor) -> HostTensor {
    tensor
}

#[test]
fn every_family_computes_what_its_checkpoint_computes() {
    for name in [
        "llama2",
        "llama3",
        "llama3-bf16",
        "mistral-f16",
        "mistral-bf16",
        "qwen2",
        "qwen2-bf16",
        "qwen3",
        "qwen3-bf16",
        "rope-linear-bf16",
        "rope-yarn-bf16",
    ] {
        let (_dir, path) = written(&converted(&fixture(name), as_stored));
        let (mut ours, reference) = (load(&path), Reference::of(name));
        let far = distance(&logits(&mut ours, &reference.prompt), &reference.logits);
        assert!(far <= TOLERANCE, "{name}: {far}");
        assert_eq!(greedy(&mut ours, &reference.prompt, reference.greedy.len()), reference.greedy, "{name}");
        // Llama 3's scaling is a table of factors in the file, which is rounded elsewhere.
        if !name.starts_with("llama3") {
            let mut theirs = load(fixture(name).to_str().unwrap());
            assert_eq!(
                bits(&logits(&mut ours, &reference.prompt)),
                bits(&logits(&mut theirs, &reference.prompt)),
                "{name}"
            );
        }
    }
}

/// Blocks of Q8_0: a scale in f16, and 32 codes.
fn quantized(tensor: &HostTensor) -> HostTensor {
    let mut bytes = Vec::new();
    for block in tensor.to_f32().as_chunks::<32>().0 {
        let most = block.iter().fold(0.0f32, |most, number| most.max(number.abs()));
        let scale = half::f16::from_f32(most / 127.0);
        bytes.extend(scale.to_le_bytes());
        bytes.extend(block.map(|number| (number / scale.to_f32()).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    HostTensor::from_bytes(DType::Q8_0, &tensor.shape, bytes)
}

fn widened(blocks: &HostTensor) -> HostTensor {
    let mut numbers = Vec::new();
    for block in blocks.data.as_chunks::<34>().0 {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        numbers.extend(block[2..].iter().map(|code| scale * f32::from(*code as i8)));
    }
    HostTensor::from_f32(&blocks.shape, &numbers)
}

/// What is of whole blocks becomes blocks, the norms too.
fn in_blocks(_: &str, tensor: HostTensor) -> HostTensor {
    if tensor.shape.last().unwrap().is_multiple_of(32) { quantized(&tensor) } else { tensor }
}

/// Every matrix, the embedding, which is lm_head too, and the norms in blocks, against the same numbers in safetensors.
#[test]
fn blocks_compute_what_their_numbers_compute() {
    for name in ["llama3", "qwen3", "llama2"] {
        let (_dir, path) = written(&converted(&fixture(name), in_blocks));
        let dense = Checkpoint::copy(name);
        dense.edit_tensors(|tensors| {
            for tensor in tensors.values_mut().filter(|t| t.shape.last().unwrap().is_multiple_of(32)) {
                *tensor = widened(&quantized(tensor));
            }
        });
        let prompt = Reference::of(name).prompt;
        let (ours, theirs) = (logits(&mut load(&path), &prompt), logits(&mut load(dense.name()), &prompt));
        let far = distance(&ours, &theirs);
        assert!(far <= TOLERANCE, "{name}: {far}");
    }
}

#[test]
fn the_rows_of_the_writer_are_those_of_the_paper() {
    let numbers: Vec<f32> = (0..8).map(|i| i as f32).collect();
    assert_eq!(
        in_pairs(&HostTensor::from_f32(&[8], &numbers), 2).to_f32(),
        [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    );
}

#[test]
fn a_directory_whose_only_weights_are_one_file_is_that_file() {
    let (dir, path) = written(&converted(&fixture("qwen3"), as_stored));
    let prompt = [5, 17, 3];
    let ids = accepted(&fixture("qwen3"), &prompt, &["--dtype", "f32"]);
    assert_eq!(accepted(Path::new(&path), &prompt, &["--dtype", "f32"]), ids);
    assert_eq!(accepted(dir.path(), &prompt, &["--dtype", "f32"]), ids);
    assert_eq!(accepted(dir.path(), &prompt, &["--dtype", "f32", "--no-mmap"]), ids);
    // A blob of another name, as some programs keep them, is known by what it begins with.
    let blob = dir.path().join("sha256-5f");
    fs::rename(&path, &blob).unwrap();
    assert_eq!(accepted(&blob, &prompt, &["--dtype", "f32"]), ids);
    // Safetensors in the same directory go first.
    fs::rename(&blob, &path).unwrap();
    let both = Checkpoint::copy("llama3");
    both.write("x.gguf", fs::read(&path).unwrap());
    assert!(matches!(locate(both.name(), None).unwrap(), Directory::Disk(_)));
}

#[test]
fn commands_tell_of_a_file_what_they_tell_of_a_directory() {
    let (_dir, path) = written(&converted(&fixture("llama3"), in_blocks));
    let report = run(&["inspect", "--model", &path, "--verify", "--json"]).json();
    let tensors = report["tensors"].as_object().unwrap();
    let query = &tensors["model.layers.0.self_attn.q_proj.weight"];
    assert_eq!((query["dtype"].as_str(), &query["shape"]), (Some("Q8_0"), &serde_json::json!([4, 4, 2, 32])));
    assert_eq!(tensors["model.embed_tokens.weight"]["bytes"], 164 * 34);
    assert!(query["sha256"].is_string() && !tensors.contains_key("rope_freqs.weight"));
    let trace = run(&["load", "--model", &path, "--trace"]).good();
    for part in ["model.gguf", "model.layers.1.self_attn.k_proj.weight: Q8_0 [16, 32] = model.gguf["] {
        assert!(trace.contains(part), "{trace}");
    }
    assert!(!trace.contains("index"), "{trace}");
    let dummy = ["load", "--model", &path, "--load-format", "dummy"];
    assert!(run(&dummy).good().contains("LlamaForCausalLM"));
}

/// A small model, to damage.
fn small() -> GgufFile {
    converted(&fixture("llama3"), as_stored)
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    type Damage = fn(&mut GgufFile);
    let cases: [(Damage, &[&str]); 20] = [
        (
            |f| {
                f.text("general.architecture", "gemma3");
            },
            &["'gemma3'", "llama, qwen2, qwen3"],
        ),
        (
            |f| f.pairs.retain(|(key, _)| key != "general.architecture"),
            &["general.architecture is not there"],
        ),
        (|f| f.version = 1, &["version is 1"]),
        (|f| f.version = 3u32.swap_bytes(), &["big-endian"]),
        (|f| f.version = 4, &["version is 4"]),
        (
            |f| {
                f.u32("split.count", 3);
            },
            &["3 parts", "llama-gguf-split --merge"],
        ),
        (
            |f| {
                f.u32("general.alignment", 24);
            },
            &["general.alignment is 24"],
        ),
        (|f| f.tensors[0].kind = 16, &["IQ2_XXS (16)", "Q4_K_M"]),
        (|f| f.tensors[0].kind = 99, &["unknown (99)"]),
        (|f| f.tensors[0].kind = 12, &["has blocks of 256"]),
        (|f| f.tensors[0].extents.push(u64::MAX), &["impossible"]),
        (|f| f.tensors[0].extents.push(0), &["impossible"]),
        (|f| f.tensors[0].extents = vec![1; 5], &["5 extents"]),
        (|f| f.tensors.push(f.tensors[1].clone()), &["it is there twice"]),
        (|f| f.pairs.push(f.pairs[1].clone()), &["the key 'llama.embedding_length' is there twice"]),
        (
            |f| {
                f.u32("llama.expert_count", 8);
            },
            &["llama.expert_count", "mixtures of experts"],
        ),
        (
            |f| {
                f.u32("llama.rope.dimension_count", 4);
            },
            &["llama.rope.dimension_count", "partial rotation"],
        ),
        (
            |f| {
                f.text("llama.embedding_length", "32");
            },
            &["'llama.embedding_length' is \"32\""],
        ),
        (|f| f.pairs.retain(|(key, _)| key != "llama.block_count"), &["there is no 'llama.block_count'"]),
        (|f| f.tensors.retain(|t| t.name != "token_embd.weight"), &["token_embd.weight"]),
    ];
    for (damage, parts) in cases {
        let mut file = small();
        damage(&mut file);
        let (_dir, path) = written(&file);
        run(&["generate", "--model", &path, "--prompt-ids", "5"])
            .refused(&[&[path.as_str()], parts].concat());
    }
    let mut scaled = converted(&fixture("qwen3"), as_stored);
    scaled.text("qwen3.rope.scaling.type", "longrope").f32("qwen3.rope.scaling.factor", 2.0);
    let (_dir, path) = written(&scaled);
    run(&["plan", "--memory", "1GiB", "--model", &path]).refused(&["'longrope'", "linear and yarn"]);
}

#[test]
fn a_name_that_is_none_of_the_models_is_an_error() {
    let mut file = small();
    file.tensor("blk.0.ffn_gate_exps.weight", 0, &[2], vec![0; 8]);
    let (_dir, path) = written(&file);
    run(&["generate", "--model", &path, "--prompt-ids", "5"])
        .refused(&["1 unexpected", "'blk.0.ffn_gate_exps.weight'"]);
}

#[test]
fn several_files_are_several_models() {
    let (dir, path) = written(&small());
    fs::copy(&path, dir.path().join("other.gguf")).unwrap();
    let args = ["generate", "--model", dir.path().to_str().unwrap(), "--prompt-ids", "5"];
    run(&args).refused(&["model.gguf, other.gguf", "the path of one of them"]);
    fs::copy(fixture("llama3").join("config.json"), dir.path().join("config.json")).unwrap();
    run(&args).refused(&["model.gguf, other.gguf", "the path of one of them"]);
}

/// Cut anywhere, a file is refused, and the message says where it ends.
#[test]
fn a_file_that_is_cut_is_refused() {
    let bytes = small().bytes();
    for end in (0..bytes.len() - 32).step_by(97) {
        let Err(error) = Gguf::parse(&bytes[..end], Path::new("m.gguf")) else { panic!("cut at {end}") };
        let said = error.to_string();
        assert!(said.contains("m.gguf"), "{said}");
        assert!(end < 4 || said.contains("truncated") || said.contains("are left"), "cut at {end}: {said}");
    }
}

#[test]
fn bytes_of_two_tensors_do_not_overlap() {
    let mut file = small();
    file.tensors.clear();
    file.tensor("a.weight", 0, &[4], vec![1; 16]).tensor("b.weight", 0, &[4], vec![2; 16]);
    let mut bytes = file.bytes();
    assert!(Gguf::parse(&bytes, Path::new("m")).is_ok());
    // b's offset is the last number of the table.
    let place = bytes.windows(8).rposition(|w| w == 32u64.to_le_bytes()).unwrap();
    for (offset, want) in [
        (0u64, "overlap those of 'a.weight'"),
        (8, "no multiple of the alignment"),
        (u64::MAX - 31, "truncated"),
    ] {
        bytes[place..place + 8].copy_from_slice(&offset.to_le_bytes());
        let Err(error) = Gguf::parse(&bytes, Path::new("m")) else { panic!("{offset}") };
        assert!(error.to_string().contains(want), "{error}");
    }
}

/// The weights of a running model are replaced by those of a file, in which q and k have another order of rows.
#[test]
fn a_file_updates_a_model_of_a_directory() {
    let prompt = Reference::of("qwen3").prompt;
    for (name, other) in [("llama3", "llama3"), ("qwen3", "qwen3")] {
        let changed = Checkpoint::copy(other);
        changed.edit_tensors(|tensors| {
            tensors.values_mut().for_each(|tensor| *tensor = crate::common::changed(tensor));
        });
        let (_dir, path) = written(&converted(changed.path(), as_stored));
        let dir = fixture(name);
        let args = [
            "batch",
            "--model",
            dir.to_str().unwrap(),
            "--dtype",
            "f32",
            "--update-weights",
            &path,
            "--update-after",
            "1",
        ];
        let input = changed.file("in.jsonl");
        let line = |id: u32| {
            format!(
                r#"{{"id":{id},"prompt_ids":{prompt:?},"max_tokens":6,"temperature":0,"ignore_eos":true}}"#
            )
        };
        fs::write(&input, format!("{}\n{}\n", line(0), line(1))).unwrap();
        let output = changed.file("out.jsonl");
        let files =
            ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap(), "--max-num-seqs", "1"];
        run(&[&args[..], &files].concat()).good();
        let text = fs::read_to_string(&output).unwrap();
        let ids: BTreeMap<u64, Vec<u32>> = text
            .lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let ids = line["output_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
                (line["id"].as_u64().unwrap(), ids.collect())
            })
            .collect();
        assert_eq!(ids[&0], greedy(&mut load(dir.to_str().unwrap()), &prompt, 6), "{name}: before");
        assert_eq!(ids[&1], greedy(&mut load(changed.name()), &prompt, 6), "{name}: after");
    }
}

/// Files as llama.cpp's own tools write them, with the logits of their exact numbers.
#[test]
fn goldens() {
    let Some(root) = shared("goldens") else { return };
    let mut held = 0;
    for dir in fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("gguf-") {
            continue;
        }
        let expected: Value =
            serde_json::from_slice(&fs::read(dir.join("ref/expected.json")).unwrap()).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            expected[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let exact = read_tensors(&dir.join("ref/expected.safetensors"))["exact"].to_f32();
        let mut model = load(dir.join("model.gguf").to_str().unwrap());
        let far = distance(&logits(&mut model, &ids("prompt_ids")), &exact);
        assert!(far <= TOLERANCE, "{name}: {far}");
        let greedy_ids = ids("greedy_ids");
        assert_eq!(greedy(&mut model, &ids("prompt_ids"), greedy_ids.len()), greedy_ids, "{name}");
        held += 1;
    }
    assert!(held >= 14, "{held} files");
}

/// Used by the tests of several ranks.
#[allow(dead_code)] // which are not of every build
pub fn dense_and_blocks(name: &str) -> (TempDir, String, String) {
    let (dir, path) = written(&converted(&fixture(name), in_blocks));
    let dense = dir.path().join("dense");
    fs::create_dir(&dense).unwrap();
    fs::copy(fixture(name).join("config.json"), dense.join("config.json")).unwrap();
    let tensors: Vec<(String, HostTensor)> = tensors_of(&fixture(name))
        .into_iter()
        .map(|(name, tensor)| {
            let whole = tensor.shape.last().unwrap().is_multiple_of(32);
            (name, if whole { widened(&quantized(&tensor)) } else { tensor })
        })
        .collect();
    write_safetensors(&dense.join("model.safetensors"), &tensors).unwrap();
    let dense = dense.to_str().unwrap().to_owned();
    (dir, path, dense)
}
