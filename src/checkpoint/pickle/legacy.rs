//! The files of PyTorch before 1.6: five pickles, one behind the other, and then the storages.
//!
//! ```text
//! ┌───────┬──────┬──────────┬────────────┬──────┬───────────────────┬───────────────────┬───
//! │ magic │ 1001 │ sys_info │ state dict │ keys │ n: i64 │ n numbers │ n: i64 │ n numbers │ …
//! └───────┴──────┴──────────┴────────────┴──────┴───────────────────┴───────────────────┴───
//! ```
//! The storages come in the order of their keys, and begin at any byte. What a number is, only the state dict says. Written by
//! `_legacy_save` in `torch/serialization.py`.

use super::check_size;
use super::machine::Machine;
use super::objects::{Objects, Tensor, Value};
use super::zip::shown;
use std::ops::Range;

/// The first pickle: the integer 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// The version of this format, which never changed.
const PROTOCOL: i64 = 1001;

/// Whether a file begins so.
pub(super) fn is(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Where the storages are, sorted by their keys.
pub(super) struct Storages<'a>(Vec<(&'a str, Range<usize>)>);

impl Storages<'_> {
    /// The bytes of a tensor's storage.
    pub(super) fn get(&self, objects: &Objects, tensor: &Tensor) -> Result<Range<usize>, String> {
        let storage = objects.storages[tensor.storage];
        let key = objects.text(storage.key);
        let at = self.0.binary_search_by_key(&key, |(key, _)| *key);
        let at = at.map_err(|_| format!("its storage '{}' is not in the file", shown(key)))?;
        check_size(&storage, self.0[at].1.len() as u128)?;
        Ok(self.0[at].1.clone())
    }
}

/// The object, and where the storages are.
pub(super) fn read<'a>(objects: &mut Objects<'a>, file: &'a [u8]) -> Result<(Value, Storages<'a>), String> {
    let (version, at) = Machine::run(objects, MAGIC.len(), file.len())?;
    if version != Value::Int(PROTOCOL) {
        return Err(format!("it is of another protocol than {PROTOCOL}"));
    }
    let (system, at) = Machine::run(objects, at, file.len())?;
    if !is_little_endian(objects, system) {
        return Err("its numbers are in another byte order; save it on a little-endian machine".into());
    }
    let (top, at) = Machine::run(objects, at, file.len())?;
    let (keys, at) = Machine::run(objects, at, file.len())?;
    let Value::List(keys) = keys else { return Err("its list of storages is none".into()) };
    Ok((top, storages(objects, keys, file, at)?))
}

/// Whether sys_info says so.
fn is_little_endian(objects: &Objects, system: Value) -> bool {
    let Value::Dict(system) = system else { return false };
    let is_order = |key: &Value| matches!(key, Value::Text(key) if objects.text(*key) == "little_endian");
    objects.dicts[system].iter().any(|(key, value)| is_order(key) && *value == Value::Bool(true))
}

/// Walks over the storages that begin at byte `at`.
fn storages<'a>(
    objects: &mut Objects<'a>,
    keys: usize,
    file: &[u8],
    mut at: usize,
) -> Result<Storages<'a>, String> {
    let count = objects.sequences[keys].len();
    objects.count::<(&str, Range<usize>)>(count)?;
    objects.count::<(&str, usize)>(objects.storages.len())?;
    let mut sizes: Vec<(&str, usize)> = objects
        .storages
        .iter()
        .map(|storage| (objects.text(storage.key), storage.dtype.map_or(1, |dtype| dtype.bytes())))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut found = Vec::with_capacity(count);
    for key in &objects.sequences[keys] {
        let Value::Text(key) = key else { return Err("its list of storages holds what is no text".into()) };
        let key = objects.text(*key);
        let of_key = sizes.partition_point(|(other, _)| *other < key);
        let size = match &sizes[of_key..] {
            [(one, _), (two, _), ..] if *one == key && *two == key => {
                return Err(format!("storage '{}' has numbers of two types", shown(key)));
            }
            [(one, size), ..] if *one == key => *size,
            _ => return Err(format!("storage '{}' belongs to no tensor", shown(key))),
        };
        let cut = || format!("storage '{}' at byte {at} is cut off", shown(key));
        let numbers = file.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
        let bytes = usize::try_from(i64::from_le_bytes(*numbers)).ok().and_then(|n| n.checked_mul(size));
        let start = at + 8;
        let end = bytes.and_then(|bytes| start.checked_add(bytes)).filter(|&end| end <= file.len());
        let end = end.ok_or_else(cut)?;
        found.push((key, start..end));
        at = end;
    }
    found.sort_unstable_by_key(|(key, _)| *key);
    if let Some([(key, _), _]) = found.array_windows::<2>().find(|[a, b]| a.0 == b.0) {
        return Err(format!("storage '{}' is there twice", shown(key)));
    }
    Ok(Storages(found))
}
