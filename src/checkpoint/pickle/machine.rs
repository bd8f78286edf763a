//! An interpreter of pickles that can only build what a state dict is made of.
//!
//! A pickle is a program for a machine with a stack: `}` pushes an empty dict, `X` a text, `u` takes the texts and values above the last mark
//! and puts them into the dict below. Python's machine can also import any function (`c`, GLOBAL) and call it (`R`, REDUCE), which is how
//! a checkpoint runs code. Here a GLOBAL is a name that is compared with the list in [`Global::called`], and a REDUCE of one of these names
//! makes a record of its arguments. No name leads to a function, so there is nothing to call. Opcodes: `Lib/pickle.py` and
//! `Lib/pickletools.py` of Python.
//!
//! Objects refer to each other by index, so that no depth of nesting is a depth of calls, and every byte that they take is counted against
//! a budget.

use super::names::{Global, opcode_name};
use super::objects::{Objects, Text, Value};
use super::zip::shown;

/// One pickle that runs.
pub(super) struct Machine<'a, 'o> {
    objects: &'o mut Objects<'a>,
    stack: Vec<Value>,
    /// The most that the stack has held.
    highest: usize,
    memo: Vec<Value>,
    at: usize,
    end: usize,
}

/// The longest name of a module or a function in bytes.
const MAX_NAME: usize = 1000;

impl<'a, 'o> Machine<'a, 'o> {
    /// Runs the pickle that begins at byte `at` of the file and ends before `end`. Returns its object, and where it ended.
    pub(super) fn run(objects: &'o mut Objects<'a>, at: usize, end: usize) -> Result<(Value, usize), String> {
        let mut machine = Machine { objects, stack: Vec::new(), highest: 0, memo: Vec::new(), at, end };
        loop {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(value)) => return Ok((value, machine.at)),
                Err(why) => return Err(format!("its pickle has {why} (at byte {at} of the file)")),
            }
        }
    }

    /// Does what the next opcode says; the object if that is STOP.
    fn step(&mut self) -> Result<Option<Value>, String> {
        let [opcode] = self.take()?;
        match opcode {
            b'\x80' => {
                let [version] = self.take()?;
                if version > 2 {
                    return Err(format!("protocol {version}; torch.save writes protocol 2"));
                }
            }
            b'N' => self.push(Value::None)?,
            b'\x88' => self.push(Value::Bool(true))?,
            b'\x89' => self.push(Value::Bool(false))?,
            b'J' => self.integer::<4>(true)?,
            b'K' => self.integer::<1>(false)?,
            b'M' => self.integer::<2>(false)?,
            b'\x8a' => self.long()?,
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Number)?;
            }
            b'X' => self.text()?,
            b'}' => {
                let dict = self.objects.dict()?;
                self.push(dict)?;
            }
            b']' => {
                let list = self.objects.sequence(Vec::new())?;
                self.push(Value::List(list))?;
            }
            b'(' => self.push(Value::Mark)?,
            b')' => self.tuple(Some(0))?,
            b'\x85' => self.tuple(Some(1))?,
            b'\x86' => self.tuple(Some(2))?,
            b'\x87' => self.tuple(Some(3))?,
            b't' => self.tuple(None)?,
            b'a' => {
                let value = self.pop()?;
                self.append(&[value])?;
            }
            b'e' => {
                let values = self.above_mark()?;
                self.append(&values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            b'q' => {
                let [index] = self.take()?;
                self.remember(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.take()?);
                self.remember(index as usize)?;
            }
            b'h' => {
                let [index] = self.take()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.take()?);
                self.recall(index as usize)?;
            }
            b'c' => self.global()?,
            b'Q' => {
                let id = self.pop()?;
                let storage = self.objects.storage(id)?;
                self.push(storage)?;
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'.' => {
                let value = self.pop()?;
                return if self.stack.is_empty() {
                    Ok(Some(value))
                } else {
                    Err("more than one object".into())
                };
            }
            other => {
                let name = opcode_name(other).map_or(String::new(), |name| format!(" {name}"));
                return Err(format!(
                    "the opcode{name} 0x{other:02x}, which no state dict needs; it was not followed"
                ));
            }
        }
        Ok(None)
    }

    /// The next bytes of the pickle.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], String> {
        let rest = &self.objects.file[self.at..self.end];
        let bytes = rest
            .get(..length)
            .ok_or_else(|| format!("{} bytes left where {length} should be", rest.len()))?;
        self.at += length;
        Ok(bytes)
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        self.stack.push(value);
        if self.stack.len() > self.highest {
            self.highest = self.stack.len();
            self.objects.count::<Value>(1)?;
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err("an opcode that finds too little on the stack".into()),
            Some(value) => Ok(value),
        }
    }

    /// Takes what stands above the last mark, and the mark.
    fn above_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or("an opcode that finds no mark on the stack")?;
        let values = self.stack.drain(mark + 1..).collect();
        self.stack.pop();
        Ok(values)
    }

    /// A little-endian integer of N bytes.
    fn integer<const N: usize>(&mut self, signed: bool) -> Result<(), String> {
        let bytes = self.take::<N>()?;
        self.push(Value::Int(little_endian(&bytes, signed)))
    }

    /// An integer with its length before it.
    fn long(&mut self) -> Result<(), String> {
        let [length] = self.take()?;
        let bytes = self.bytes(length.into())?;
        self.push(if bytes.len() <= 8 { Value::Int(little_endian(bytes, true)) } else { Value::Number })
    }

    fn text(&mut self) -> Result<(), String> {
        let length = u32::from_le_bytes(self.take()?);
        let start = self.at;
        let bytes = self.bytes(length as usize)?;
        str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8")?;
        self.push(Value::Text(Text { start, length }))
    }

    /// A tuple of the last values, or of those above the mark.
    fn tuple(&mut self, length: Option<usize>) -> Result<(), String> {
        let values = match length {
            None => self.above_mark()?,
            Some(length) => {
                let mut values = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                values.reverse();
                values
            }
        };
        let tuple = self.objects.sequence(values)?;
        self.push(Value::Tuple(tuple))
    }

    fn append(&mut self, values: &[Value]) -> Result<(), String> {
        let Some(Value::List(list)) = self.stack.last() else {
            return Err("an APPEND to what is no list".into());
        };
        self.objects.count::<Value>(values.len())?;
        self.objects.sequences[*list].extend(values);
        Ok(())
    }

    /// Keys and values alternate.
    fn set_items(&mut self, items: &[Value]) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("a SETITEM in what is no dict".into());
        };
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("a SETITEMS with a key that has no value".into());
        };
        self.objects.count::<(Value, Value)>(pairs.len())?;
        self.objects.dicts[*dict].extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    /// Python numbers what it remembers one by one, from 0 or 1.
    fn remember(&mut self, index: usize) -> Result<(), String> {
        let value = match self.stack.last() {
            None | Some(Value::Mark) => return Err("a PUT of nothing".into()),
            Some(value) => *value,
        };
        while self.memo.len() <= index {
            if index > self.memo.len() + 1 {
                return Err(format!("a PUT of number {index} after {}", self.memo.len()));
            }
            self.objects.count::<Value>(1)?;
            self.memo.push(Value::Mark);
        }
        self.memo[index] = value;
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<(), String> {
        match self.memo.get(index) {
            None | Some(Value::Mark) => Err(format!("a GET of number {index}, which was never PUT")),
            Some(value) => self.push(*value),
        }
    }

    // ANCHOR: global
    /// Two lines: a module and a name. They are compared with the names that a state dict needs.
    fn global(&mut self) -> Result<(), String> {
        let [module, name] = [self.line()?, self.line()?];
        let global = Global::called(module, name).ok_or_else(|| {
            format!(
                "the global '{}.{}', which no state dict needs; it was not looked up",
                shown(module),
                shown(name)
            )
        })?;
        self.push(Value::Global(global))
    }
    // ANCHOR_END: global

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.objects.file[self.at..self.end];
        let length =
            rest.iter().take(MAX_NAME).position(|byte| *byte == b'\n').ok_or("a name without an end")?;
        let line = str::from_utf8(self.bytes(length)?).map_err(|_| "a name that is not UTF-8")?;
        self.at += 1;
        Ok(line)
    }

    // ANCHOR: reduce
    /// What Python would call: here a record of the arguments.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), Value::Global(global)) = (arguments, function) else {
            return Err("a REDUCE of what is no name and a tuple".into());
        };
        let made = match (global, self.objects.sequences[arguments].first()) {
            (Global::OrderedDict, None) => self.objects.dict(),
            (Global::RebuildTensor(version), _) => self.objects.tensor(version, arguments),
            (Global::RebuildParameter, Some(tensor @ Value::Tensor(_))) => Ok(*tensor),
            _ => Err("a REDUCE with arguments that describe no tensor and no dict".into()),
        };
        self.push(made?)
    }
    // ANCHOR_END: reduce

    /// Attributes of an object. A state dict has its `_metadata`, which no load needs.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            _ => Err("a BUILD of what is no dict".into()),
        }
    }
}

/// At most 8 bytes.
fn little_endian(bytes: &[u8], signed: bool) -> i64 {
    let sign = signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if sign { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}
