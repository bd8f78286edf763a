//! PyTorch's files that are damaged or hostile: each is refused by name, and nothing in it runs.

use super::torch_files::{legacy_file, said};
use super::torch_writer::*;
use stairwell::tensor::HostTensor;
use std::collections::BTreeMap;

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
