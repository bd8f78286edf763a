//! The header of a safetensors file.
//!
//! ```text
//! ┌────────┬──────────────────────────────┬─────────────────────────────────────────┐
//! │ n: u64 │ n bytes of JSON              │ data                                    │
//! └────────┴──────────────────────────────┴─────────────────────────────────────────┘
//! 0        8                              8 + n                          end of file
//!   {"name": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, …, "__metadata__": {…}}
//! ```
//! Offsets count from the start of the data. The data has no holes and no overlaps: sorted by their start, the tensors
//! follow each other from 0 to the end of the file. Format: <https://github.com/huggingface/safetensors#format>.
//!
//! Two readers must agree before a tensor is used. Ours goes first, because its messages say what is wrong, where, and with how many bytes;
//! the crate `safetensors`, the reference implementation, reads what passed, and its entries are the ones used.

use super::{CheckpointError, Result};
use crate::tensor::DType;
use safetensors::SafeTensors;
use serde_json::Value;
use std::{collections::BTreeMap, ops::Range, path::Path};

/// Bytes before the JSON: its length as a little-endian u64.
pub const PREFIX: usize = 8;
/// The longest header that the reference implementation accepts; a 100,000-tensor model needs a tenth of it.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor as the header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Byte range **in the file** (the header's offsets, moved by where the data starts).
    pub range: Range<usize>,
}

/// A checked header.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The free-form `__metadata__`, such as `format: pt`.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Parses and checks the header of a whole file (mapped, so only the header's pages are read).
    ///
    /// # Errors
    /// [`CheckpointError::Truncated`], [`CheckpointError::Header`], [`CheckpointError::Tensor`] or
    /// [`CheckpointError::LfsPointer`], each naming `path`.
    pub fn parse(file: &[u8], path: &Path) -> Result<Header> {
        let json = json_part(file, path)?;
        check(json, file.len(), path)?;
        let bad = |reason: String| CheckpointError::Header { path: path.into(), reason };
        let (length, read) = SafeTensors::read_metadata(file).map_err(|error| bad(error.to_string()))?;
        let in_file = |(begin, end)| PREFIX + length + begin..PREFIX + length + end;
        let mut header = Header::default();
        for (name, info) in read.tensors() {
            let (shape, range) = (info.shape.clone(), in_file(info.data_offsets));
            let dtype =
                info.dtype.to_string().parse().map_err(|_| bad(format!("unknown dtype {}", info.dtype)))?;
            header.tensors.insert(name, TensorInfo { dtype, shape, range });
        }
        header.metadata.extend(read.metadata().clone().into_iter().flatten());
        Ok(header)
    }
}

/// Says what is wrong with a header. The crate names no cause for most of it; it also takes a list for an entry's object, which the format does
/// not have and we refuse.
fn check(json: &[u8], file_len: usize, path: &Path) -> Result<()> {
    let bad = |reason: String| CheckpointError::Header { path: path.into(), reason };
    let value: Value = serde_json::from_slice(json).map_err(|e| bad(format!("it is not JSON ({e})")))?;
    let Value::Object(entries) = value else { return Err(bad("it is not a JSON object".into())) };
    let mut ranges = Vec::with_capacity(entries.len());
    for (name, entry) in &entries {
        if name == "__metadata__" {
            let strings = entry.as_object().is_some_and(|map| map.values().all(Value::is_string));
            if !strings && !entry.is_null() {
                return Err(bad("__metadata__ is not a map of strings".into()));
            }
            continue;
        }
        let range = range_in_file(entry, PREFIX + json.len());
        let range = range.map_err(|reason| bad_tensor(path, name, reason))?;
        ranges.push((range.start, range.end, name.as_str()));
    }
    check_layout(ranges, PREFIX + json.len()..file_len, path)
}

/// The tensors follow each other without hole or overlap up to the end of the file.
fn check_layout(mut ranges: Vec<(usize, usize, &str)>, data: Range<usize>, path: &Path) -> Result<()> {
    ranges.sort_unstable();
    let (mut before_end, mut before, file_len) = (data.start, "the header", data.end);
    for (start, end, name) in ranges {
        if end > file_len {
            let (needed, actual) = (end as u64, file_len as u64);
            let what = format!("tensor '{name}'");
            return Err(CheckpointError::Truncated { path: path.into(), what, needed, actual });
        }
        if start < before_end {
            return Err(bad_tensor(path, name, format!("its bytes overlap those of '{before}'")));
        }
        if start > before_end {
            let hole = start - before_end;
            return Err(bad_tensor(path, name, format!("{hole} bytes before it belong to no tensor")));
        }
        (before_end, before) = (end, name);
    }
    if before_end == file_len {
        return Ok(());
    }
    let reason = format!("{} bytes at the end of the file belong to no tensor", file_len - before_end);
    Err(CheckpointError::Header { path: path.into(), reason })
}

fn bad_tensor(path: &Path, tensor: &str, reason: String) -> CheckpointError {
    CheckpointError::Tensor { path: path.into(), tensor: tensor.into(), reason }
}

/// The JSON bytes, after the length was compared with the file's.
fn json_part<'a>(file: &'a [u8], path: &Path) -> Result<&'a [u8]> {
    super::directory::refuse_lfs_pointer(file, path)?;
    let truncated = |what: &str, needed: u64| CheckpointError::Truncated {
        path: path.into(),
        what: what.into(),
        needed,
        actual: file.len() as u64,
    };
    let prefix =
        file.first_chunk::<PREFIX>().ok_or_else(|| truncated("the header's length", PREFIX as u64))?;
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER {
        let reason =
            format!("it claims {length} bytes, more than the format allows; is this a safetensors file?");
        return Err(CheckpointError::Header { path: path.into(), reason });
    }
    let end = PREFIX + length as usize;
    file.get(PREFIX..end).ok_or_else(|| truncated("the header", end as u64))
}

// ANCHOR: range_in_file
/// The bytes of the file that an entry claims, or what is wrong with it.
fn range_in_file(entry: &Value, data_start: usize) -> Result<Range<usize>, String> {
    let dtype_value = entry.get("dtype").ok_or("it has no dtype")?;
    let dtype = dtype_value.as_str().and_then(|name| name.parse::<DType>().ok());
    let dtype =
        dtype.filter(|dtype| !dtype.is_block()).ok_or_else(|| format!("unknown dtype {dtype_value}"))?;
    let shape = unsigned_list(entry, "shape")?;
    let offsets = unsigned_list(entry, "data_offsets")?;
    let [begin, end] = offsets[..] else {
        return Err(format!("data_offsets has {} numbers, not 2", offsets.len()));
    };
    if begin > end {
        return Err(format!("data_offsets [{begin}, {end}] are reversed"));
    }
    let bits = shape.iter().try_fold(dtype.block().1, |n, &extent| n.checked_mul(extent));
    let bits = bits.ok_or_else(|| format!("shape {shape:?} overflows"))?;
    if bits % 8 != 0 || bits / 8 != end - begin {
        let bytes = end - begin;
        return Err(format!(
            "data_offsets [{begin}, {end}] hold {bytes} bytes, but {dtype} {shape:?} takes {}",
            bits / 8
        ));
    }
    let in_file =
        |offset: usize| data_start.checked_add(offset).ok_or_else(|| format!("offset {offset} overflows"));
    Ok(in_file(begin)?..in_file(end)?)
}
// ANCHOR_END: range_in_file

fn unsigned_list(entry: &Value, key: &str) -> Result<Vec<usize>, String> {
    let list = entry.get(key).and_then(Value::as_array).ok_or_else(|| format!("it has no list '{key}'"))?;
    let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
    list.iter().map(|v| number(v).ok_or_else(|| format!("{key} holds {v}, which is no size"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::select};

    /// A file with this header and as many data bytes.
    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut f = (json.len() as u64).to_le_bytes().to_vec();
        f.extend(json.as_bytes());
        f.resize(f.len() + data, 7);
        f
    }
    fn parse(json: &str, data: usize) -> Result<Header, String> {
        Header::parse(&file(json, data), Path::new("m.safetensors")).map_err(|e| e.to_string())
    }
    const A: &str = r#""a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}"#;

    #[test]
    fn good_headers() {
        let h = parse(&format!(r#"{{"__metadata__":{{"format":"pt"}},{A}}}   "#), 12).unwrap();
        assert_eq!(h.metadata["format"], "pt");
        let start = h.tensors["a"].range.start;
        assert_eq!((h.tensors["a"].shape.clone(), h.tensors["a"].range.len()), (vec![2, 3], 12));
        assert_eq!(start, PREFIX + r#"{"__metadata__":{"format":"pt"},}   "#.len() + A.len());
        // An empty tensor, a scalar, an empty file, tensors in any order.
        parse(&format!(r#"{{{A},"e":{{"dtype":"F32","shape":[0,9],"data_offsets":[12,12]}}}}"#), 12).unwrap();
        parse(r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, 4).unwrap();
        parse("{}", 0).unwrap();
        // No metadata, as some writers put it.
        assert!(parse(&format!(r#"{{"__metadata__":null,{A}}}"#), 12).unwrap().metadata.is_empty());
        let b = r#""b":{"dtype":"U8","shape":[5],"data_offsets":[12,17]}"#;
        parse(&format!("{{{b},{A}}}"), 17).unwrap();
    }

    #[test]
    fn bad_headers_say_what_is_wrong() {
        let one = |entry: &str| format!(r#"{{"x":{entry}}}"#);
        let f32x2 =
            |offsets: &str| one(&format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#));
        let cases = [
            ("{".to_string(), 0, "not JSON"),
            ("[]".into(), 0, "not a JSON object"),
            (r#"{"__metadata__":3}"#.into(), 0, "not a map of strings"),
            (f32x2("[0,8]"), 7, "truncated"),
            (f32x2("[0,8]"), 9, "1 bytes at the end"),
            (f32x2("[8,0]"), 8, "reversed"),
            (f32x2("[0,12]"), 12, "takes 8"),
            (f32x2("[4,12]"), 12, "4 bytes before it"),
            (f32x2("[0,8,9]"), 8, "3 numbers"),
            (f32x2("[0,-8]"), 8, "-8"),
            (f32x2("[18446744073709551607,18446744073709551615]"), 8, "overflows"),
            (one(r#"{"dtype":"F31","shape":[2],"data_offsets":[0,8]}"#), 8, "unknown dtype \"F31\""),
            (one(r#"{"shape":[2],"data_offsets":[0,8]}"#), 8, "no dtype"),
            (one(r#"{"dtype":"F32","data_offsets":[0,8]}"#), 8, "'shape'"),
            (one(r#"{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}"#), 8, "overflows"),
            (one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#), 1, "F4 [3]"),
            (
                format!(r#"{{{A},"b":{{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}}}"#),
                12,
                "overlap those of 'a'",
            ),
        ];
        for (json, data, want) in cases {
            let e = parse(&json, data).expect_err(&json);
            assert!(e.contains("m.safetensors") && e.contains(want), "{json}: {e}");
        }
    }

    #[test]
    fn a_length_larger_than_the_file_is_not_believed() {
        for length in [9u64, 99_999_999, 100_000_001, u64::MAX] {
            let mut f = length.to_le_bytes().to_vec();
            f.extend(b"{}");
            assert!(Header::parse(&f, Path::new("m")).is_err());
        }
        assert!(Header::parse(b"1234567", Path::new("m")).unwrap_err().to_string().contains("truncated"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        assert!(Header::parse(pointer, Path::new("m")).unwrap_err().to_string().contains("git lfs pull"));
    }

    /// Headers that are nearly right: a few texts of a good one are replaced, or a few of its bytes.
    fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
        const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"F4","shape":[0,9],"data_offsets":[32,32]}}"#;
        const TEXTS: &[&str] = &[
            "\"__metadata__\"",
            "{\"format\":\"pt\"}",
            "\"a\"",
            "\"b\"",
            "\"c\"",
            "\"F32\"",
            "\"BF16\"",
            "\"F4\"",
            "[2,3]",
            "[4]",
            "[0,9]",
            "[0,24]",
            "[24,32]",
            "[32,32]",
            "\"dtype\"",
            "\"shape\"",
            "\"data_offsets\"",
            "24",
            "32",
            "null",
            "3",
            "-8",
            "0.0",
            "[]",
            "{}",
            "18446744073709551615",
            "9223372036854775808",
            "\"U8\"",
            "\"F8_E4M3FNUZ\"",
            "[8]",
            "[24,24]",
            "[\"F32\",[2,3],[0,24]]",
            "{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}",
            " ",
            ",",
            "\u{e9}",
        ];
        let texts = vec((select(TEXTS), select(TEXTS)), 0..4).prop_map(|pairs| {
            pairs.iter().fold(GOOD.to_string(), |text, (from, to)| text.replacen(from, to, 1)).into_bytes()
        });
        let bytes = vec((0..GOOD.len(), any::<u8>()), 0..3).prop_map(|changes| {
            let mut text = GOOD.as_bytes().to_vec();
            changes.into_iter().for_each(|(at, byte)| text[at] = byte);
            text
        });
        (
            prop_oneof![3 => texts, 1 => bytes],
            prop_oneof![6 => Just(0), 1 => -9i64..9],
            prop_oneof![6 => Just(32), 1 => 0usize..40],
        )
            .prop_map(|(text, lie, data)| {
                let length = (text.len() as i64 + lie) as u64;
                [&length.to_le_bytes()[..], &text, &vec![7; data]].concat()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        /// What the reference implementation rejects, we reject; what we accept, it accepts, with the same tensors.
        #[test]
        fn never_more_lenient_than_the_reference(file in nearly_right()) {
            let (ours, theirs) = (Header::parse(&file, "m".as_ref()), SafeTensors::deserialize(&file));
            if let Ok(ours) = ours {
                let theirs = theirs.expect("the reference refuses it");
                prop_assert_eq!(ours.tensors.len(), theirs.len());
                for (name, info) in ours.tensors {
                    let tensor = theirs.tensor(&name).unwrap();
                    prop_assert_eq!(info.dtype.to_string(), tensor.dtype().to_string());
                    prop_assert_eq!(&info.shape, tensor.shape());
                    prop_assert_eq!(file[info.range].as_ptr(), tensor.data().as_ptr());
                }
            } else if let Ok(theirs) = theirs {
                // Only these are refused by us alone: what the format does not have, or a dtype that we don't know.
                let text = String::from_utf8_lossy(&file);
                let ours_alone = ["[\"F32\"", "FNUZ"].iter().any(|part| text.contains(part));
                prop_assert!(ours_alone, "{} tensors refused in {text}", theirs.len());
            }
        }
    }
}
