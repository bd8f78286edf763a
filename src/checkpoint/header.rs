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
//! Nothing here trusts the file: no length is believed before it was compared with the file's own.

use super::CheckpointError;
use crate::tensor::DType;
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
    pub fn parse(file: &[u8], path: &Path) -> Result<Header, CheckpointError> {
        let json = json_part(file, path)?;
        let bad = |reason: String| CheckpointError::Header { path: path.into(), reason };
        let value: Value = serde_json::from_slice(json).map_err(|e| bad(format!("it is not JSON ({e})")))?;
        let Value::Object(entries) = value else { return Err(bad("it is not a JSON object".into())) };

        let data_start = PREFIX + json.len();
        let mut header = Header::default();
        for (name, entry) in entries {
            if name == "__metadata__" {
                header.metadata =
                    string_map(&entry).ok_or_else(|| bad("__metadata__ is not a map of strings".into()))?;
                continue;
            }
            let info = tensor_info(&entry, data_start).map_err(|reason| CheckpointError::Tensor {
                path: path.into(),
                tensor: name.clone(),
                reason,
            })?;
            header.tensors.insert(name, info);
        }
        header.check_layout(data_start, file.len(), path)?;
        Ok(header)
    }

    /// The tensors follow each other without hole or overlap up to the end of the file.
    fn check_layout(&self, data_start: usize, file_len: usize, path: &Path) -> Result<(), CheckpointError> {
        let mut by_start: Vec<(&String, &TensorInfo)> = self.tensors.iter().collect();
        by_start.sort_by_key(|(_, t)| (t.range.start, t.range.end));
        let (mut end, mut before) = (data_start, None::<&str>);
        for (name, info) in by_start {
            let tensor = |reason| CheckpointError::Tensor { path: path.into(), tensor: name.clone(), reason };
            if info.range.end > file_len {
                let what = format!("tensor '{name}'");
                let (needed, actual) = (info.range.end as u64, file_len as u64);
                return Err(CheckpointError::Truncated { path: path.into(), what, needed, actual });
            }
            if info.range.start < end {
                return Err(tensor(format!(
                    "its bytes overlap those of '{}'",
                    before.unwrap_or("the header")
                )));
            }
            if info.range.start > end {
                return Err(tensor(format!(
                    "{} bytes before it belong to no tensor",
                    info.range.start - end
                )));
            }
            (end, before) = (info.range.end, Some(name.as_str()));
        }
        if end != file_len {
            let reason = format!("{} bytes at the end of the file belong to no tensor", file_len - end);
            return Err(CheckpointError::Header { path: path.into(), reason });
        }
        Ok(())
    }
}

/// The JSON bytes, after the length was compared with the file's.
fn json_part<'a>(file: &'a [u8], path: &Path) -> Result<&'a [u8], CheckpointError> {
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

fn string_map(value: &Value) -> Option<BTreeMap<String, String>> {
    let map = value.as_object()?;
    map.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

// ANCHOR: tensor_info
/// One entry, or what is wrong with it.
fn tensor_info(entry: &Value, data_start: usize) -> Result<TensorInfo, String> {
    let dtype_value = entry.get("dtype").ok_or("it has no dtype")?;
    let dtype: DType =
        serde_json::from_value(dtype_value.clone()).map_err(|_| format!("unknown dtype {dtype_value}"))?;
    let shape = unsigned_list(entry, "shape")?;
    let offsets = unsigned_list(entry, "data_offsets")?;
    let [begin, end] = offsets[..] else {
        return Err(format!("data_offsets has {} numbers, not 2", offsets.len()));
    };
    if begin > end {
        return Err(format!("data_offsets [{begin}, {end}] are reversed"));
    }
    let bits = shape.iter().try_fold(dtype.bits(), |n, &extent| n.checked_mul(extent));
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
    Ok(TensorInfo { dtype, shape, range: in_file(begin)?..in_file(end)? })
}
// ANCHOR_END: tensor_info

fn unsigned_list(entry: &Value, key: &str) -> Result<Vec<usize>, String> {
    let list = entry.get(key).and_then(Value::as_array).ok_or_else(|| format!("it has no list '{key}'"))?;
    let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
    list.iter().map(|v| number(v).ok_or_else(|| format!("{key} holds {v}, which is no size"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
