//! safetensors files that are damaged or hostile, and neighbours that only look so.
//! Format: <https://github.com/huggingface/safetensors#format>.

use crate::common::{Checkpoint, Reference, accepted, run};
use serde_json::{Map, Value, json};

const FILE: &str = "model.safetensors";
const NORM: &str = "model.norm.weight";

fn refused(checkpoint: &Checkpoint, parts: &[&str]) {
    // `load` reads headers and names; `inspect` too, without a model.
    for command in ["load", "inspect"] {
        let line = run(&[command, "--model", checkpoint.name()]).refused(parts);
        assert!(line.contains(checkpoint.file(FILE).to_str().unwrap()), "it does not name the file: {line}");
    }
}

fn good(checkpoint: &Checkpoint) {
    let reference = Reference::of("qwen2");
    assert_eq!(accepted(checkpoint.path(), &reference.prompt, &[]), reference.greedy[..4]);
}

/// A copy whose file has these bytes.
fn with_bytes(edit: impl FnOnce(&mut Vec<u8>)) -> Checkpoint {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit(FILE, edit);
    checkpoint
}

/// A copy with another header over the same data.
fn with_header(edit: impl FnOnce(&mut Map<String, Value>)) -> Checkpoint {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit_header(FILE, edit);
    checkpoint
}

/// A copy with another entry for one tensor.
fn with_entry(key: &str, value: Value) -> Checkpoint {
    with_header(|header| header[NORM][key] = value)
}

/// The begin and end of a tensor's bytes.
fn offsets(header: &Map<String, Value>, name: &str) -> [u64; 2] {
    [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap())
}

#[test]
fn truncated() {
    refused(&with_bytes(|b| b.truncate(b.len() - 1)), &["truncated", "tensor '", "Download it again"]);
    refused(&with_bytes(|b| b.truncate(b.len() / 2)), &["truncated", "tensor '"]);
    refused(&with_bytes(|b| b.truncate(100)), &["truncated", "header"]);
    refused(&with_bytes(|b| b.truncate(7)), &["truncated", "header"]);
    refused(&with_bytes(Vec::clear), &["truncated", "header"]);
}

#[test]
fn a_header_length_beyond_the_file() {
    let length = |n: u64| with_bytes(move |b| b[..8].copy_from_slice(&n.to_le_bytes()));
    refused(&length(115_929), &["truncated", "header"]);
    refused(&length(u64::MAX), &["header", "18446744073709551615"]);
    refused(&length(1 << 40), &["header", "1099511627776"]);
}

#[test]
fn another_kind_of_file() {
    refused(
        &with_bytes(|b| *b = b"PK\x03\x04 a zip file, as torch.save writes".to_vec()),
        &["header", "safetensors file?"],
    );
    refused(&with_bytes(|b| *b = b"GGUF\x03\0\0\0 and so on, and so on".to_vec()), &["header"]);
}

#[test]
fn a_header_that_is_not_json() {
    refused(&with_bytes(|b| b[8] = b'x'), &["header", "not JSON"]);
    refused(&with_bytes(|b| b[30] = 0xff), &["header", "not JSON"]);
    refused(
        &with_bytes(|b| *b = [&2u64.to_le_bytes()[..], b"[]"].concat()),
        &["header", "not a JSON object"],
    );
    refused(&with_bytes(|b| *b = [&0u64.to_le_bytes()[..]].concat()), &["header", "not JSON"]);
    // Nested so deep that a parser which recurses would overflow its stack.
    let deep = "{\"a\":".repeat(100_000);
    refused(
        &with_bytes(|b| *b = [&(deep.len() as u64).to_le_bytes()[..], deep.as_bytes()].concat()),
        &["not JSON"],
    );
}

#[test]
fn offsets_out_of_range() {
    refused(&with_entry("data_offsets", json!([1_000_000_000_000u64, 1_000_000_000_144u64])), &[NORM]);
    refused(&with_entry("data_offsets", json!([u64::MAX - 144, u64::MAX])), &[NORM]);
    refused(&with_entry("data_offsets", json!([-144, 0])), &[NORM, "-144"]);
    refused(&with_entry("data_offsets", json!([0.0, 144.0])), &[NORM, "0.0"]);
}

#[test]
fn offsets_reversed() {
    refused(&with_header(|h| h[NORM]["data_offsets"].as_array_mut().unwrap().reverse()), &[NORM, "reversed"]);
}

#[test]
fn offsets_overlapping() {
    let checkpoint = with_header(|header| {
        let [begin, end] = offsets(header, NORM);
        header[NORM]["data_offsets"] = json!([begin - 8, end - 8]);
    });
    refused(&checkpoint, &["tensor '", "overlap"]);
    // Two names for the same bytes: safetensors has no aliases.
    let checkpoint = with_header(|header| {
        let alias = header[NORM].clone();
        header.insert("alias".into(), alias);
    });
    refused(&checkpoint, &["alias", "overlap"]);
}

#[test]
fn bytes_that_belong_to_no_tensor() {
    refused(&with_bytes(|b| b.extend([0; 3])), &["3 bytes at the end"]);
    refused(&with_header(|header| drop(header.remove(NORM))), &["144 bytes", "belong to no tensor"]);
}

#[test]
fn offsets_that_do_not_fit_dtype_and_shape() {
    refused(&with_entry("dtype", json!("BF16")), &[NORM, "144 bytes", "BF16 [36]", "72"]);
    refused(&with_entry("shape", json!([35])), &[NORM, "F32 [35]", "140"]);
    refused(&with_entry("shape", json!([1u64 << 62, 8])), &[NORM, "overflow"]);
    refused(&with_entry("shape", json!([])), &[NORM, "F32 []"]);
}

#[test]
fn entries_that_are_no_tensors() {
    refused(&with_entry("dtype", json!("F31")), &[NORM, "F31"]);
    refused(&with_entry("dtype", Value::Null), &[NORM, "dtype"]);
    refused(&with_entry("shape", json!("36")), &[NORM, "shape"]);
    refused(&with_entry("data_offsets", json!([0])), &[NORM, "data_offsets"]);
    refused(&with_header(|h| drop(h.insert(NORM.into(), json!(3)))), &[NORM, "dtype"]);
    refused(&with_header(|h| drop(h.insert("__metadata__".into(), json!({"format": 3})))), &["__metadata__"]);
}

#[test]
fn a_name_with_a_newline_stays_on_one_line() {
    refused(
        &with_header(|header| {
            let mut entry = header[NORM].clone();
            entry["dtype"] = json!("F31");
            header.insert("two\nlines\u{1b}[31m".into(), entry);
        }),
        &["two", "lines"],
    );
}

#[test]
fn good_neighbours() {
    // Data that starts anywhere: a header of each length modulo 8.
    for n in 0..8 {
        good(&with_header(|header| {
            drop(header.insert("__metadata__".into(), json!({"format": "x".repeat(n)})))
        }));
    }
    good(&with_header(|header| drop(header.remove("__metadata__"))));
    // Padded with spaces, as the format asks of writers that align.
    good(&with_bytes(|bytes| {
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes.splice(end..end, [b' '; 1000]);
        bytes[..8].copy_from_slice(&(end as u64 - 8 + 1000).to_le_bytes());
    }));
    // Entries in any order, with fields that nobody knows.
    good(&with_header(|header| {
        *header = std::mem::take(header).into_iter().rev().collect();
        header[NORM]["note"] = json!("hello");
    }));
}
