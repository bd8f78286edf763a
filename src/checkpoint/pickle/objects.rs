//! What pickles of one file have built: objects that refer to each other by index, each counted against a budget.

use super::names::Global;
use crate::tensor::DType;

/// What stands on the stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// Where a tuple, or what goes into a dict or a list, begins.
    Mark,
    None,
    Bool(bool),
    Int(i64),
    /// A number that no tensor is described by: a float, or an integer of more than 64 bits.
    Number,
    Text(Text),
    Global(Global),
    /// Indices into the parts of [`Objects`].
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// A text: where it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Text {
    pub(super) start: usize,
    pub(super) length: u32,
}

/// Numbers in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    /// None if it is bytes.
    pub dtype: Option<DType>,
    pub key: Text,
    /// How many numbers it has.
    pub numbers: i64,
}

/// A tensor as the pickle describes it. Nothing of it has been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub storage: usize,
    pub dtype: Option<DType>,
    pub offset: i64,
    /// Tuples.
    pub size: usize,
    pub stride: usize,
}

/// Everything that pickles of one file have built.
pub(super) struct Objects<'a> {
    pub(super) file: &'a [u8],
    /// Tuples and lists.
    pub sequences: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<Tensor>,
    /// Bytes that may still be taken.
    left: usize,
}

/// What stays free of the budget's mebibyte.
const SPARE: usize = 128 << 10;
/// A vector that grows holds its old and its new memory, and the new one may be half empty.
const GROWTH: usize = 3;

impl<'a> Objects<'a> {
    /// Nothing yet. A file of n bytes may take n + 1 MiB to describe.
    pub(super) fn new(file: &'a [u8]) -> Objects<'a> {
        let left = file.len().saturating_add((1 << 20) - SPARE);
        Objects { file, sequences: vec![], dicts: vec![], storages: vec![], tensors: vec![], left }
    }

    /// Counts so many values of a type against the budget.
    pub(super) fn count<T>(&mut self, values: usize) -> Result<(), String> {
        let bytes = values.saturating_mul(size_of::<T>() * GROWTH);
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or("more objects than the tensors of a file of this size can need")?;
        Ok(())
    }

    pub(super) fn text(&self, text: Text) -> &'a str {
        let bytes = &self.file[text.start..text.start + text.length as usize];
        str::from_utf8(bytes).expect("texts were checked when they were read")
    }

    pub(super) fn sequence(&mut self, values: Vec<Value>) -> Result<usize, String> {
        self.count::<Vec<Value>>(1)?;
        self.count::<Value>(values.len())?;
        self.sequences.push(values);
        Ok(self.sequences.len() - 1)
    }

    pub(super) fn dict(&mut self) -> Result<Value, String> {
        self.count::<Vec<(Value, Value)>>(1)?;
        self.dicts.push(Vec::new());
        Ok(Value::Dict(self.dicts.len() - 1))
    }

    /// `_rebuild_tensor(storage, offset, size, stride)`. Version 2 adds requires_grad and hooks, version 3 also the type of the numbers.
    pub(super) fn tensor(&mut self, version: u8, arguments: usize) -> Result<Value, String> {
        let arguments = &self.sequences[arguments][..];
        let dtype = match (version, arguments.get(6)) {
            (3, Some(Value::Global(Global::DType(dtype)))) => Some(*dtype),
            (3, _) => return Err("a tensor without a type".into()),
            _ => None,
        };
        let &[Value::Storage(storage), Value::Int(offset), Value::Tuple(size), Value::Tuple(stride), ..] =
            arguments
        else {
            return Err("arguments of _rebuild_tensor that describe no tensor".into());
        };
        self.count::<Tensor>(1)?;
        let dtype = dtype.or(self.storages[storage].dtype);
        self.tensors.push(Tensor { storage, dtype, offset, size, stride });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    /// A persistent id: ('storage', class, key, location, how many numbers), and before PyTorch 1.6 what part of another storage it is.
    pub(super) fn storage(&mut self, id: Value) -> Result<Value, String> {
        let bad = || Err("a persistent id that names no storage".to_owned());
        let Value::Tuple(id) = id else { return bad() };
        let (kind, rest) = match self.sequences[id][..] {
            [Value::Text(kind), ref rest @ ..] => (self.text(kind), rest),
            _ => return bad(),
        };
        let [
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(numbers),
            ref view @ ..,
        ] = *rest
        else {
            return bad();
        };
        if kind != "storage" || !matches!(view, [] | [Value::None]) {
            return bad();
        }
        self.count::<Storage>(1)?;
        self.storages.push(Storage { dtype, key, numbers });
        Ok(Value::Storage(self.storages.len() - 1))
    }
}
