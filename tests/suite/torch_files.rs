//! PyTorch's files: every form that `torch.save` gives a state dict. The tests write them byte by byte.

use super::common::*;
use super::torch_writer::*;
use serde_json::json;
use stairwell::checkpoint::{Directory, LoadFormat, StateDict};
use stairwell::tensor::{DType, HostTensor};
use std::{collections::BTreeMap, fs, path::Path};

const SINGLE: &str = "pytorch_model.bin";

/// The name of a type's class of storages.
fn class(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        other => panic!("{other}"),
    }
}

/// A view of a whole storage, row by row.
pub fn whole<'a>(key: &'a str, tensor: &HostTensor) -> View<'a> {
    let size: Vec<i64> = tensor.shape.iter().map(|n| *n as i64).collect();
    let stride = (1..=size.len()).map(|i| size[i..].iter().product()).collect();
    let numbers = size.iter().product();
    View { key, class: class(tensor.dtype), numbers, offset: 0, size, stride, legacy: false }
}

/// A file of these tensors, each with a storage of its own.
fn torch_file(tensors: &BTreeMap<String, HostTensor>) -> Vec<u8> {
    let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
    let entries =
        tensors.iter().zip(&keys).map(|((name, tensor), key)| (&name[..], whole(key, tensor).pickle()));
    let storages: Vec<_> =
        tensors.values().zip(&keys).map(|(tensor, key)| (&key[..], tensor.data.to_vec())).collect();
    torch_zip(dict(entries), &storages)
}

/// The same as PyTorch before 1.6 writes it.
pub fn legacy_file(tensors: &BTreeMap<String, HostTensor>) -> Vec<u8> {
    let keys: Vec<String> = (0..tensors.len()).map(|i| (7000 + i).to_string()).collect();
    let view = |key, tensor| View { legacy: true, ..whole(key, tensor) };
    let entries =
        tensors.iter().zip(&keys).map(|((name, tensor), key)| (&name[..], view(key, tensor).pickle()));
    let storages: Vec<_> = tensors
        .values()
        .zip(&keys)
        .map(|(tensor, key)| (&key[..], tensor.len() as i64, tensor.data.to_vec()))
        .collect();
    legacy(dict(entries), &storages)
}

/// A copy of a fixture whose weights are in one file of this name and content.
fn with_file(
    name: &str,
    file: &str,
    content: impl FnOnce(&BTreeMap<String, HostTensor>) -> Vec<u8>,
) -> Checkpoint {
    let checkpoint = Checkpoint::copy(name);
    let content = content(&checkpoint.tensors());
    checkpoint.remove("model.safetensors");
    checkpoint.write(file, content);
    checkpoint
}

fn state_dict(dir: &Path) -> Result<StateDict, String> {
    StateDict::open(&Directory::Disk(dir.into())).map_err(|e| e.to_string())
}

#[test]
fn every_form_gives_the_tensors_of_the_safetensors_file() {
    for (file, content) in [
        (SINGLE, torch_file as fn(&BTreeMap<String, HostTensor>) -> Vec<u8>),
        (SINGLE, legacy_file),
        ("sq-llama-w4.pt", torch_file),
        ("consolidated.00.pth", legacy_file),
    ] {
        let checkpoint = with_file("qwen2", file, content);
        let tensors = Checkpoint::copy("qwen2").tensors();
        let opened = state_dict(checkpoint.path()).unwrap();
        assert_eq!(opened.tensors().collect::<BTreeMap<_, _>>(), tensors);
        assert!(opened.names().all(|name| !opened.is_copied(name)), "{file}: nothing is copied");
        let reference = Reference::of("qwen2");
        assert_eq!(accepted(checkpoint.path(), &reference.prompt, &[]), reference.greedy[..4], "{file}");
    }
}

#[test]
fn shards_are_found_by_their_index() {
    let checkpoint = Checkpoint::copy("qwen2");
    let tensors = checkpoint.tensors();
    checkpoint.remove("model.safetensors");
    let mut parts = [BTreeMap::new(), BTreeMap::new()];
    let mut map = BTreeMap::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        parts[i % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), format!("pytorch_model-0000{}-of-00002.bin", i % 2 + 1));
    }
    for (i, part) in parts.iter().enumerate() {
        checkpoint.write(&format!("pytorch_model-0000{}-of-00002.bin", i + 1), torch_file(part));
    }
    checkpoint.write("pytorch_model.bin.index.json", json!({"weight_map": map}).to_string());
    let opened = state_dict(checkpoint.path()).unwrap();
    assert_eq!(opened.tensors().collect::<BTreeMap<_, _>>(), tensors);
    assert_eq!((opened.shards().len(), opened.index()), (2, Some("pytorch_model.bin.index.json")));
    let only = |name: &str| name.contains("layers.0.");
    let some =
        StateDict::open_some(&Directory::Disk(checkpoint.path().into()), LoadFormat::Pt, only).unwrap();
    assert!(some.names().all(only) && some.names().count() > 0);
    checkpoint.remove("pytorch_model-00002-of-00002.bin");
    let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "5"];
    run(&args).refused(&["pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"]);
}

/// Bytes of a matrix with rows and columns exchanged.
fn transposed(tensor: &HostTensor) -> Vec<u8> {
    let [rows, columns] = tensor.shape[..] else { panic!("a matrix") };
    let size = tensor.dtype.bytes();
    let number = |i: usize| &tensor.data[i * size..(i + 1) * size];
    (0..rows * columns).flat_map(|i| number(i % rows * columns + i / rows)).copied().collect()
}

#[test]
fn views_are_views_and_only_other_orders_are_copied() {
    let numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let storage = HostTensor::from_f32(&[24], &numbers);
    let view = |offset, size: &[i64], stride: &[i64]| {
        let (size, stride) = (size.to_vec(), stride.to_vec());
        View { offset, size, stride, ..whole("0", &storage) }.pickle()
    };
    let parameter =
        [&global("torch._utils", "_rebuild_parameter")[..], b"(", &view(0, &[24], &[1]), b"\x89NtR"].concat();
    let entries = [
        ("rows", view(4, &[2, 4], &[4, 1])),
        ("same rows", view(4, &[2, 4], &[4, 1])),
        ("transposed", view(0, &[4, 6], &[1, 4])),
        ("columns", view(1, &[6, 2], &[4, 1])),
        ("empty", view(24, &[0, 4], &[4, 1])),
        ("scalar", view(23, &[], &[])),
        ("parameter", parameter),
        ("sparse_threshold.q_proj", int(5)),
        ("none", b"N".to_vec()),
        ("nested", b"}".to_vec()),
    ];
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SINGLE), torch_zip(dict(entries), &[("0", storage.data.to_vec())])).unwrap();
    let opened = state_dict(dir.path()).unwrap();
    let names: Vec<&str> = opened.names().collect();
    assert_eq!(names, ["columns", "empty", "parameter", "rows", "same rows", "scalar", "transposed"]);
    let values = |name| opened.tensor(name).unwrap().to_f32();
    assert_eq!(values("rows"), numbers[4..12]);
    assert_eq!(values("transposed"), (0..24).map(|i| (i % 6 * 4 + i / 6) as f32).collect::<Vec<_>>());
    assert_eq!(values("columns"), [1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22].map(|i| i as f32));
    assert_eq!((values("scalar"), values("empty").len()), (vec![23.0], 0));
    let copied: Vec<&str> = opened.names().filter(|name| opened.is_copied(name)).collect();
    assert_eq!(copied, ["columns", "transposed"]);
    let at = |name| opened.entry(name).unwrap().info.range.clone();
    assert_eq!(at("rows"), at("same rows"), "tied tensors are one");
    // What is not wanted is not copied.
    let directory = Directory::Disk(dir.path().into());
    assert_eq!(
        StateDict::open_some(&directory, LoadFormat::Pt, |name| name == "rows").unwrap().shards().len(),
        1
    );
}

#[test]
fn a_transposed_checkpoint_runs_and_says_what_it_copied() {
    let tensors = Checkpoint::copy("qwen2").tensors();
    let is_matrix = |tensor: &HostTensor| tensor.shape.len() == 2;
    let matrices = tensors
        .values()
        .filter(|tensor| is_matrix(tensor))
        .map(|tensor| tensor.data.len() as u64)
        .sum::<u64>();
    let checkpoint = with_file("qwen2", SINGLE, |tensors| {
        let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
        let view = |key, tensor: &HostTensor| {
            let mut view = whole(key, tensor);
            if is_matrix(tensor) {
                view.stride = vec![1, view.size[0]];
            }
            view.pickle()
        };
        let data =
            |tensor: &HostTensor| if is_matrix(tensor) { transposed(tensor) } else { tensor.data.to_vec() };
        let entries = tensors.iter().zip(&keys).map(|((name, tensor), key)| (&name[..], view(key, tensor)));
        let storages: Vec<_> =
            tensors.values().zip(&keys).map(|(tensor, key)| (&key[..], data(tensor))).collect();
        torch_zip(dict(entries), &storages)
    });
    assert_eq!(state_dict(checkpoint.path()).unwrap().tensors().collect::<BTreeMap<_, _>>(), tensors);
    let reference = Reference::of("qwen2");
    assert_eq!(accepted(checkpoint.path(), &reference.prompt, &[]), reference.greedy[..4]);
    let mut runner = load(checkpoint.path());
    assert_eq!((runner.weights.copied, matrices > 0), (matrices, true));
    assert_eq!(greedy(&mut runner, &reference.prompt, 4), reference.greedy[..4]);
    let traced = run(&["load", "--trace", "--model", checkpoint.name()]).good();
    assert!(
        traced.contains("pytorch_model.bin, copied") && traced.contains("copied in another order"),
        "{traced}"
    );
}

#[test]
fn the_load_format_chooses() {
    let checkpoint = Checkpoint::copy("qwen2");
    let reference = Reference::of("qwen2");
    checkpoint.write(SINGLE, "PK");
    assert_eq!(
        accepted(checkpoint.path(), &reference.prompt, &[]),
        reference.greedy[..4],
        "safetensors come first"
    );
    let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "5", "--load-format"];
    let with = |format| run(&[&args[..], &[format]].concat());
    with("pt").refused(&[SINGLE, "neither as a zip archive", "Nothing in this file was executed"]);
    with("mistral").refused(&["load format mistral", "params.json"]);
    checkpoint.remove("model.safetensors");
    with("safetensors").refused(&["model.safetensors"]);
    checkpoint.remove(SINGLE);
    with("pt").refused(&["load format pt", SINGLE]);
    for file in ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"] {
        checkpoint.write(file, "PK");
    }
    with("auto").refused(&["model.safetensors"]);
    checkpoint.write("a.pt", "PK");
    with("auto").refused(&["a.pt", "neither as a zip archive"]);
    checkpoint.write("b.bin", "PK");
    with("auto").refused(&["a.pt, b.bin", "pytorch_model.bin"]);
    checkpoint.write(SINGLE, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n");
    with("auto").refused(&[SINGLE, "git lfs pull"]);
}

/// What opening a file says.
pub fn said(file: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SINGLE), file).unwrap();
    let error = state_dict(dir.path()).map(|_| ()).expect_err("it is refused");
    assert!(error.contains(SINGLE) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn a_large_archive_has_its_numbers_in_zip64_fields() {
    let values = HostTensor::from_f32(&[4], &[1.0, 2.0, 3.0, 4.0]);
    let plain = torch_zip(dict([("w", whole("0", &values).pickle())]), &[("0", values.data.to_vec())]);
    let central = plain.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let end = plain.len() - 22;
    let field = |at: usize| u32::from_le_bytes(plain[at..at + 4].try_into().unwrap());
    // The directory again, with each size and offset in an extra field.
    let (mut at, mut directory) = (central, Vec::new());
    while at < end {
        let name = &plain[at + 46..at + 46 + plain[at + 28] as usize];
        let mut record = plain[at..at + 46].to_vec();
        record[20..28].fill(0xff);
        record[30] = 28;
        record[42..46].fill(0xff);
        let wide =
            [field(at + 24), field(at + 20), field(at + 42)].map(|n| u64::from(n).to_le_bytes()).concat();
        directory.extend([&record[..], name, &[1, 0, 24, 0], &wide].concat());
        at += 46 + name.len();
    }
    let archive = |entries: u64, size: u64, start: u64, record: u64| {
        let mut file = [&plain[..central], &directory[..]].concat();
        let numbers = [entries, entries, size, start].map(u64::to_le_bytes).concat();
        file.extend([&b"PK\x06\x06"[..], &44u64.to_le_bytes(), &[0; 12], &numbers].concat());
        file.extend([&b"PK\x06\x07\0\0\0\0"[..], &record.to_le_bytes(), &1u32.to_le_bytes()].concat());
        file.extend([&b"PK\x05\x06\0\0\0\0"[..], &[0xff; 12], &[0; 2]].concat());
        file
    };
    let (size, start) = (directory.len() as u64, central as u64);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SINGLE), archive(3, size, start, start + size)).unwrap();
    assert_eq!(state_dict(dir.path()).unwrap().tensor("w").unwrap(), values);
    for (file, want) in [
        (archive(3, size, start, start), "zip64 record"),
        (archive(3, size, start, u64::MAX - 8), "zip64 record"),
        (archive(u64::MAX, size, start, start + size), "claims"),
        (archive(3, u64::MAX, start, start + size), "should be 18446744073709551615 bytes"),
        (archive(3, size, u64::MAX, start + size), "its zip directory should be"),
        (archive(2, size, start, start + size), "is not in the file"),
    ] {
        let said = said(&file);
        assert!(said.contains(want), "{want}: {said}");
    }
}

/// The references of checkpoints that torch itself wrote.
#[test]
fn torchs_own_files_give_the_reference_ids() {
    let Some(goldens) = shared("goldens") else { return };
    for golden in [
        "bin-zip-f16-llama",
        "bin-views-f16-llama",
        "bin-legacy-f32-llama",
        "bin-sharded-bf16-qwen3",
        "bin-tied-shared-f32-qwen2",
    ] {
        let dir = goldens.join(golden);
        let expected: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("ref/expected.json")).unwrap()).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            expected[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let got = accepted(&dir, &ids("prompt_ids"), &["--dtype", "f32", "--ignore-eos"]);
        assert_eq!(got, ids("greedy_ids")[..4], "{golden}");
    }
}
