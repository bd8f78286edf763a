//! PyTorch's files: every form that `torch.save` gives a state dict, and files that are damaged or hostile. The tests write them byte by byte.

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
fn legacy_file(tensors: &BTreeMap<String, HostTensor>) -> Vec<u8> {
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
fn said(file: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SINGLE), file).unwrap();
    let error = state_dict(dir.path()).map(|_| ()).expect_err("it is refused");
    assert!(error.contains(SINGLE) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn a_pickle_that_asks_for_more_than_a_state_dict_is_refused() {
    let call = |module, name| [&global(module, name)[..], b"(X\x02\0\0\0lst"].concat();
    let long_global = format!("c{}\nx\n.", "m".repeat(5000)).into_bytes();
    for (pickle, want) in [
        ([&call("os", "system")[..], b"R."].concat(), "the global 'os.system'"),
        ([&call("builtins", "eval")[..], b"R."].concat(), "'builtins.eval'"),
        ([&call("torch._utils", "_rebuild_tensor_v2.__class__")[..], b"R."].concat(), "__class__"),
        (global("torch", "QInt8Storage"), "'torch.QInt8Storage'"),
        (long_global, "a name without an end"),
        (b"(S'ls'\nios\nsystem\n.".to_vec(), "STRING"),
        (b"\x8c\x02os\x8c\x06system\x93.".to_vec(), "SHORT_BINUNICODE"),
        (b"(X\x02\0\0\0lsios\nsystem\n.".to_vec(), "INST"),
        (b"\x80\x04}.".to_vec(), "protocol 4"),
        (b"\xff.".to_vec(), "0xff"),
        (b"}q\0".to_vec(), "0 bytes left where 1"),
        (b"X\xff\xff\xff\x7fabc".to_vec(), "where 2147483647 should be"),
        (b"\x8a\xff\0.".to_vec(), "where 255 should be"),
        (b"}}.".to_vec(), "more than one object"),
        (b"u.".to_vec(), "no mark"),
        (b"}(K\x05u.".to_vec(), "a SETITEMS with a key that has no value"),
        (b"](K\x05s.".to_vec(), "too little on the stack"),
        (b"NNNs.".to_vec(), "a SETITEM in what is no dict"),
        (b"NNb.".to_vec(), "a BUILD of what is no dict"),
        (b"}h\x07.".to_vec(), "a GET of number 7"),
        (b"}r\xff\xff\xff\xff.".to_vec(), "a PUT of number 4294967295"),
        (b"NQ.".to_vec(), "a persistent id that names no storage"),
        (b"X\x01\0\0\0\xff.".to_vec(), "not UTF-8"),
        (b"].".to_vec(), "no dict of tensors"),
    ] {
        let said = said(&torch_zip(pickle.clone(), &[]));
        let shown = String::from_utf8_lossy(&pickle[..pickle.len().min(60)]).into_owned();
        assert!(
            said.contains(want) && said.contains("Nothing in this file was executed"),
            "{shown:?}: {said}"
        );
    }
    let nested = |name| (name, b"}X\x01\0\0\0wNs".to_vec());
    let said = said(&torch_zip(dict([nested("model"), nested("optimizer"), ("epoch", int(3))]), &[]));
    assert!(said.contains("its keys are 'model', 'optimizer', 'epoch'") && said.contains("[KEY]"), "{said}");
}

#[test]
fn no_depth_and_no_number_of_objects_is_too_much() {
    for piece in [&b"("[..], b"]", b"}", b")", b"]q\0h\0", b"}X\x01\0\0\0a}s"] {
        let pickle: Vec<u8> = [b"\x80\x02", &piece.repeat(100_000)[..], b"."].concat();
        said(&torch_zip(pickle, &[]));
    }
}

#[test]
fn a_tensor_that_does_not_fit_its_storage_is_refused() {
    let good = || View {
        key: "0",
        class: "FloatStorage",
        numbers: 16,
        offset: 0,
        size: vec![4, 4],
        stride: vec![4, 1],
        legacy: false,
    };
    let huge = 1 << 62;
    for (view, want) in [
        (View { offset: -4, ..good() }, "its offset is -4"),
        (View { offset: 1, ..good() }, "lead out of its storage"),
        (View { offset: i64::MAX, ..good() }, "lead out of its storage"),
        (View { size: vec![-1, 4], ..good() }, "its size has -1"),
        (View { stride: vec![4, -1], ..good() }, "its stride has -1"),
        (View { stride: vec![huge, huge], ..good() }, "lead out of its storage"),
        (View { size: vec![huge, huge], stride: vec![0, 0], ..good() }, "is more than the 16 numbers"),
        (View { size: vec![17], stride: vec![0], ..good() }, "is more than the 16 numbers"),
        (View { size: vec![huge, huge, 0], stride: vec![0; 3], ..good() }, "is more than the 16 numbers"),
        (View { size: vec![4], ..good() }, "1 extents and 2 strides"),
        (
            View { numbers: 1 << 40, ..good() },
            "should have 1099511627776 numbers of 4 bytes, and has 64 bytes",
        ),
        (View { numbers: -1, ..good() }, "its storage has -1 numbers"),
        (View { class: "DoubleStorage", ..good() }, "16 numbers of 8 bytes"),
        (View { key: "../../etc/passwd", ..good() }, "'../../etc/passwd' is not in the file"),
        (View { key: "7", ..good() }, "storage '7' is not in the file"),
    ] {
        let said = said(&torch_zip(dict([("w", view.pickle())]), &[("0", vec![0; 64])]));
        assert!(said.contains("tensor 'w'") && said.contains(want), "{want}: {said}");
    }
}

#[test]
fn an_archive_that_lies_is_refused() {
    let files = [("m/data.pkl", dict([])), ("m/data/0", vec![1; 64]), ("m/byteorder", b"little".to_vec())];
    let good = zip(&files);
    let central = good.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let end = good.len() - 22;
    let edited = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let second = central + 46 + "m/data.pkl".len();
    let with = |name, data: &[u8]| zip(&[&files[..], &[(name, data.to_vec())]].concat());
    for (file, want) in [
        (good.clone(), "no value is a tensor"),
        (good[..good.len() - 1].to_vec(), "cut off"),
        (edited(end + 10, &[9, 0]), "claims 9 files"),
        (edited(central, b"PX"), "damaged"),
        (edited(end + 12, &[0xff; 4]), "its zip directory should be"),
        (edited(end + 16, &[1]), "damaged"),
        (edited(central + 8, &[1]), "encrypted"),
        (edited(central + 10, &[8]), "deflated"),
        (edited(central + 10, &[93]), "method 93"),
        (edited(central + 20, &[1]), "two sizes"),
        (edited(central + 42, &[1]), "no such file at byte 1"),
        (edited(second + 20, &[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]), "do not end before"),
        (edited(second + 42, &[0; 4]), "disagree"),
        (edited(central + 46, b"m/data.pkx"), "disagree"),
        (with("m/data/0", &[2]), "'m/data/0' twice"),
        (with("other/data.pkl", &[2]), "'other/data.pkl' beside the folder 'm'"),
        (with("data.pkl", &[2]), "'data.pkl' in its zip archive is in no folder"),
        (with("m/constants.pkl", &[2]), "TorchScript"),
        (zip(&[("m/data.pkl", dict([])), ("m/byteorder", b"big".to_vec())]), "byte order 'big'"),
        (zip(&[("m/x", vec![])]), "no data.pkl"),
        (zip(&[]), "neither as a zip archive"),
    ] {
        let said = said(&file);
        assert!(said.contains(want) && said.contains("Nothing in this file was executed"), "{want}: {said}");
    }
    // Two entries of which one holds the other.
    let inner = [&b"PK\x03\x04"[..], &[0; 22], &10u16.to_le_bytes(), &[0; 2], b"m/data.pkl"].concat();
    let mut overlapping = zip(&[("m/data/0", inner.clone()), ("m/data.pkl", vec![])]);
    let at = overlapping.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap();
    overlapping[at + 42..at + 46].copy_from_slice(&(30 + "m/data/0".len() as u32).to_le_bytes());
    assert!(said(&overlapping).contains("overlap"));
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

#[test]
fn a_legacy_file_that_lies_is_refused() {
    let tensors = BTreeMap::from([("w".to_owned(), HostTensor::from_f32(&[4], &[1.0; 4]))]);
    let good = legacy_file(&tensors);
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).rposition(|bytes| bytes == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    for (file, want) in [
        (good[..good.len() - 1].to_vec(), "storage '7000' at byte"),
        (good[..20].to_vec(), "bytes left"),
        (replaced(b"little_endian\x88", b"little_endian\x89"), "byte order"),
        (replaced(&int(1001), &int(1002)), "protocol"),
        (replaced(b"7000", b"7001"), "storage '7001' belongs to no tensor"),
        (replaced(&4i64.to_le_bytes(), &i64::MAX.to_le_bytes()), "is cut off"),
        (replaced(&4i64.to_le_bytes(), &(-1i64).to_le_bytes()), "is cut off"),
        (replaced(b"_rebuild_tensor_v2", b"system"), "'torch._utils.system'"),
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
