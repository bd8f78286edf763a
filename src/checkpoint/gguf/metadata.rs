//! The pairs of key and value that a GGUF file begins with.
//!
//! Values stay where they lie in the file. What is kept of each pair is its place, 8 bytes, so that the memory does not depend on what a
//! hostile file claims; a value is read when it is asked for.

use super::super::Result;
use super::cursor::Cursor;
use std::path::Path;

/// The least bytes of a pair: the key's length, the value's type, a value of one byte.
const LEAST: usize = 8 + 4 + 1;

/// All pairs of a file, sorted by key.
pub struct Metadata<'a> {
    file: &'a [u8],
    path: &'a Path,
    /// Where each pair begins.
    pairs: Vec<usize>,
}

/// One value. Integers of all widths are one kind, and so are floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    List(List<'a>),
}

/// A list of values of one type, as bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct List<'a> {
    kind: Kind,
    pub count: usize,
    bytes: &'a [u8],
}

/// The types of values, by their numbers in the file (`gguf_type` in ggml's `gguf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8 = 0,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Text, List, U64, I64, F64]
    };

    fn read(cursor: &mut Cursor, key: &str) -> Result<Kind> {
        let number = cursor.u32("a value's type")?;
        let kind = Kind::ALL.get(number as usize).copied();
        kind.ok_or_else(|| cursor.bad(format!("'{key}' has a value of the unknown type {number}")))
    }

    /// Bytes of one value; `None` if that depends on the value.
    fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::List => None,
        }
    }
}

/// Reads a value of a given kind, or walks over the strings of a list.
fn value<'a>(cursor: &mut Cursor<'a>, kind: Kind, key: &str) -> Result<Value<'a>> {
    let what = "a value";
    Ok(match kind {
        Kind::U8 => Value::Integer(cursor.array::<1>(what)?[0].into()),
        Kind::I8 => Value::Integer(i8::from_le_bytes(cursor.array(what)?).into()),
        Kind::U16 => Value::Integer(u16::from_le_bytes(cursor.array(what)?).into()),
        Kind::I16 => Value::Integer(i16::from_le_bytes(cursor.array(what)?).into()),
        Kind::U32 => Value::Integer(cursor.u32(what)?.into()),
        Kind::I32 => Value::Integer(i32::from_le_bytes(cursor.array(what)?).into()),
        Kind::U64 => Value::Integer(u64::from_le_bytes(cursor.array(what)?).into()),
        Kind::I64 => Value::Integer(i64::from_le_bytes(cursor.array(what)?).into()),
        Kind::F32 => Value::Float(f32::from_le_bytes(cursor.array(what)?).into()),
        Kind::F64 => Value::Float(f64::from_le_bytes(cursor.array(what)?)),
        Kind::Bool => match cursor.array::<1>(what)?[0] {
            byte @ (0 | 1) => Value::Bool(byte == 1),
            byte => return Err(cursor.bad(format!("'{key}' is {byte}, which is neither true nor false"))),
        },
        Kind::Text => Value::Text(cursor.text(&format!("the value of '{key}'"))?),
        Kind::List => list(cursor, key)?,
    })
}

fn list<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>> {
    let kind = Kind::read(cursor, key)?;
    let (count, mut end) = (cursor.size("a list's length")?, *cursor);
    match (kind, kind.size()) {
        (_, Some(size)) => drop(end.take(count.saturating_mul(size), "a list")?),
        (Kind::List, None) => {
            return Err(cursor.bad(format!("'{key}' is a list of lists, which no model needs")));
        }
        // Each string takes 8 bytes at least, so the file ends a walk that a count makes too long.
        (_, None) => (0..count).try_for_each(|_| end.string("a list of strings").map(drop))?,
    }
    let bytes = cursor.take(end.at - cursor.at, "a list")?;
    Ok(Value::List(List { kind, count, bytes }))
}

impl<'a> Metadata<'a> {
    /// Walks over `count` pairs and leaves the cursor behind them.
    pub fn read(
        cursor: &mut Cursor<'a>,
        count: usize,
        file: &'a [u8],
        path: &'a Path,
    ) -> Result<Metadata<'a>> {
        if count > cursor.left() / LEAST {
            let left = cursor.left();
            return Err(cursor
                .bad(format!("it claims {count} pairs of metadata, and {left} bytes are left for them")));
        }
        let mut metadata = Metadata { file, path, pairs: Vec::with_capacity(count) };
        for _ in 0..count {
            metadata.pairs.push(cursor.at);
            let key = cursor.text("a key")?;
            let kind = Kind::read(cursor, key)?;
            value(cursor, kind, key)?;
        }
        metadata.pairs.sort_unstable_by_key(|at| key_at(file, path, *at));
        let twice = metadata.pairs.windows(2).find(|pair| metadata.key(pair[0]) == metadata.key(pair[1]));
        match twice {
            Some(pair) => Err(cursor.bad(format!("the key '{}' is there twice", metadata.key(pair[0])))),
            None => Ok(metadata),
        }
    }

    fn key(&self, at: usize) -> &'a str {
        key_at(self.file, self.path, at)
    }

    /// The error that the file is wrong.
    pub fn bad(&self, reason: String) -> super::super::CheckpointError {
        Cursor::new(self.file, self.path, 0).bad(reason)
    }

    /// A value, if the key is there.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let at = self.pairs.binary_search_by_key(&key, |at| self.key(*at)).ok()?;
        let mut cursor = Cursor::new(self.file, self.path, self.pairs[at]);
        cursor.string("").ok()?;
        let kind = Kind::read(&mut cursor, key).ok()?;
        value(&mut cursor, kind, key).ok()
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let other = || self.bad(format!("'{key}' is {}, and should be {kind}", shown(&value)));
        read(value).map(Some).ok_or_else(other)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// A number that is finite.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value {
            Value::Float(number) => Some(number).filter(|number| number.is_finite()),
            Value::Integer(number) => Some(number as f64),
            _ => None,
        })
    }

    /// A size or an id. A list of the same number for every layer counts as that number.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let size = |number: i128| u32::try_from(number).ok().map(|n| n as usize);
        self.typed(key, "one size (a whole number below 2^32)", |value| match value {
            Value::Integer(number) => size(number),
            Value::List(list) => {
                let mut numbers = list.integers()?;
                let first = numbers.next()?;
                numbers.all(|number| number == first).then(|| size(first)).flatten()
            }
            _ => None,
        })
    }

    /// A list of integers, of floats or of strings: what it is of is for its methods to say.
    pub fn list(&self, key: &str) -> Result<Option<List<'a>>> {
        self.typed(key, "a list", |value| match value {
            Value::List(list) => Some(list),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        if list.kind != Kind::Text {
            return Err(self.bad(format!("'{key}' should be a list of strings")));
        }
        let mut cursor = Cursor::new(list.bytes, self.path, 0);
        let text = |i| {
            let bytes = cursor.string("a list of strings")?;
            str::from_utf8(bytes).map_err(|_| self.bad(format!("string {i} of '{key}' is not UTF-8")))
        };
        (0..list.count).map(text).collect::<Result<Vec<_>>>().map(Some)
    }
}

impl<'a> List<'a> {
    fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor::new(self.bytes, Path::new(""), 0);
        (0..self.count).map_while(move |_| value(&mut cursor, self.kind, "").ok())
    }

    /// Its numbers, if it is a list of integers.
    pub fn integers(self) -> Option<impl Iterator<Item = i128>> {
        use Kind::*;
        let of_integers = matches!(self.kind, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64);
        of_integers.then(|| {
            self.values().filter_map(|value| match value {
                Value::Integer(number) => Some(number),
                _ => None,
            })
        })
    }

    /// Its numbers, if it is a list of floats.
    pub fn floats(self) -> Option<impl Iterator<Item = f64>> {
        matches!(self.kind, Kind::F32 | Kind::F64).then(|| {
            self.values().filter_map(|value| match value {
                Value::Float(number) => Some(number),
                _ => None,
            })
        })
    }
}

/// The key of the pair at this place, which was read before.
fn key_at<'a>(file: &'a [u8], path: &'a Path, at: usize) -> &'a str {
    Cursor::new(file, path, at).text("a key").unwrap_or_default()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Text(text) if text.chars().count() > 40 => format!("a string of {} bytes", text.len()),
        Value::Text(text) => format!("{text:?}"),
        Value::List(list) => format!("a list of {} values", list.count),
    }
}
