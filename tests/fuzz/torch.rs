//! PyTorch's files: the zip archive, the pickle in it, and the older format. Inputs of all kinds are built on files that this test writes.

use crate::rig::{Budget, fuzz, mutated};
use proptest::{collection::vec, prelude::*, sample::select};
use stairwell::checkpoint::{Shard, torch_shards};
use std::{path::Path, sync::Arc};

#[allow(dead_code)] // the tests of the suite use the rest
#[path = "../suite/torch_writer.rs"]
mod torch_writer;

use torch_writer::{View, dict, int, legacy, text, torch_zip, zip};

/// What a parser may take at most: a mebibyte, and twice the file. The copy of the file that it is given is counted too.
const TORCH: Budget = Budget { cases: 4_000, base: 1 << 20, factor: 2 + 1 };

/// Opens a file, and looks at every tensor.
fn parse(bytes: &[u8]) -> bool {
    let Ok(shards) = torch_shards(("x", Path::new("x")), &(Arc::new(bytes.to_vec()) as _), &|_| true) else {
        return false;
    };
    for Shard { owner, header, .. } in &shards {
        for info in header.tensors.values() {
            assert!(info.range.start <= info.range.end && info.range.end <= (**owner).as_ref().len());
            assert_eq!(info.dtype.bytes_of(info.shape.iter().product()), Some(info.range.len()));
        }
    }
    true
}

fn view(legacy: bool) -> View<'static> {
    View {
        key: "0",
        class: "FloatStorage",
        numbers: 16,
        offset: 0,
        size: vec![4, 4],
        stride: vec![4, 1],
        legacy,
    }
}

/// A dict with a tensor, a transposed one, and a number.
fn pickle(legacy: bool) -> Vec<u8> {
    let transposed = View { stride: vec![1, 4], ..view(legacy) };
    dict([("a", view(legacy).pickle()), ("b", transposed.pickle()), ("n", int(3))])
}

fn storage() -> Vec<u8> {
    (0..64).collect()
}

#[test]
fn archive() {
    let valid =
        vec![torch_zip(pickle(false), &[("0", storage())]), legacy(pickle(true), &[("0", 16, storage())])];
    // The archive is whole, and the pickle in it has changes.
    let changed = mutated(vec![pickle(false)]).prop_map(|pickle| torch_zip(pickle, &[("0", storage())]));
    // Names and contents of files at random.
    let name = select(vec![
        "m/data.pkl",
        "m/data/0",
        "m/data/1",
        "m/byteorder",
        "n/data.pkl",
        "data.pkl",
        "m/constants.pkl",
    ]);
    let content = prop_oneof![4 => Just(pickle(false)), 2 => Just(storage()), 1 => vec(any::<u8>(), 0..80)];
    let any = vec((name, content), 0..5).prop_map(|files| zip(&files));
    fuzz("torch_archive", TORCH, parse, valid, prop_oneof![changed, any]);
}

/// Pickles of opcodes that are known, in any order, and of numbers that do not fit.
#[test]
fn pickle_of_opcodes() {
    let opcodes: Vec<Vec<u8>> = [
        &b"}"[..],
        b"]",
        b")",
        b"(",
        b"t",
        b"u",
        b"e",
        b"s",
        b"a",
        b"R",
        b"Q",
        b"b",
        b".",
        b"N",
        b"\x85",
        b"\x86",
        b"\x87",
        b"K\x04",
        b"q\0",
        b"h\0",
        b"ccollections\nOrderedDict\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cos\nsystem\n",
        b"X\xff\xff\xff\xff",
        b"r\xff\xff\xff\xff",
    ]
    .map(<[u8]>::to_vec)
    .into();
    let number = || select(vec![0, 1, -1, 4, 16, 17, 1 << 31, 1 << 40, i64::MAX, i64::MIN]);
    let key = || select(vec!["0", "1", "../0"]);
    let tensor = (key(), number(), number(), vec(number(), 0..4), vec(number(), 0..4), any::<bool>());
    let tensor = tensor.prop_map(|(key, numbers, offset, size, stride, good)| {
        let view = View { key, numbers, offset, size, stride, ..view(false) };
        let view = if good { View { numbers: 16, offset: 0, ..view } } else { view };
        [text("w"), view.pickle()].concat()
    });
    let good = Just([text("a"), view(false).pickle()].concat());
    let piece = prop_oneof![4 => select(opcodes), 2 => tensor, 3 => good];
    let pickle = (any::<bool>(), vec(piece, 0..20)).prop_map(|(whole, pieces)| {
        let (begin, end) =
            if whole { (&b"\x80\x02}("[..], &b"u."[..]) } else { (&b"\x80\x02"[..], &b"."[..]) };
        torch_zip([begin, &pieces.concat(), end].concat(), &[("0", storage())])
    });
    let valid = vec![torch_zip(pickle_of_one(), &[("0", storage())])];
    fuzz("torch_pickle", TORCH, parse, valid, pickle);
}

fn pickle_of_one() -> Vec<u8> {
    dict([("a", view(false).pickle())])
}

/// The older format, whose five pickles are changed one by one.
#[test]
fn legacy_file() {
    let valid = vec![legacy(pickle(true), &[("0", 16, storage())])];
    let object = prop_oneof![1 => Just(pickle(true)), 3 => mutated(vec![pickle(true)])];
    let storages = vec(
        (select(vec!["0", "1"]), select(vec![0i64, 16, 17, -1, i64::MAX]), vec(any::<u8>(), 0..70)),
        0..3,
    );
    let changed = (object, prop_oneof![3 => Just(None), 1 => storages.prop_map(Some)]).prop_map(
        |(object, storages)| {
            let storages = storages.unwrap_or_else(|| vec![("0", 16, storage())]);
            legacy(object, &storages)
        },
    );
    fuzz("torch_legacy", TORCH, parse, valid, changed);
}
