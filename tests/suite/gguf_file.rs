//! A writer of GGUF files: the tests build them byte by byte, as ggml's documentation lays them out.
#![allow(dead_code)] // each test file uses a part of it

/// Numbers of value types.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// What a file holds.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    pub alignment: usize,
    pub pairs: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

/// A tensor to write.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// The type's number in ggml.
    pub kind: u32,
    /// Innermost first.
    pub extents: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl GgufFile {
    pub fn new(architecture: &str) -> GgufFile {
        let mut file = GgufFile { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() };
        file.text("general.architecture", architecture);
        file
    }

    /// Sets a pair: its type's number and its value's bytes.
    pub fn set(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut GgufFile {
        self.pairs.retain(|(known, _)| known != key);
        self.pairs.push((key.into(), [&kind.to_le_bytes()[..], value].concat()));
        self
    }

    pub fn text(&mut self, key: &str, text: &str) -> &mut GgufFile {
        self.set(key, TEXT, &string(text.as_bytes()))
    }

    pub fn u32(&mut self, key: &str, number: u32) -> &mut GgufFile {
        self.set(key, U32, &number.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, number: f32) -> &mut GgufFile {
        self.set(key, F32, &number.to_le_bytes())
    }

    pub fn flag(&mut self, key: &str, flag: bool) -> &mut GgufFile {
        self.set(key, BOOL, &[flag.into()])
    }

    pub fn texts<T: AsRef<str>>(&mut self, key: &str, texts: &[T]) -> &mut GgufFile {
        let bytes = texts.iter().flat_map(|text| string(text.as_ref().as_bytes())).collect::<Vec<u8>>();
        self.list(key, TEXT, texts.len(), &bytes)
    }

    pub fn i32s(&mut self, key: &str, numbers: &[i32]) -> &mut GgufFile {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        self.list(key, I32, numbers.len(), &bytes)
    }

    pub fn f32s(&mut self, key: &str, numbers: &[f32]) -> &mut GgufFile {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        self.list(key, F32, numbers.len(), &bytes)
    }

    fn list(&mut self, key: &str, kind: u32, count: usize, bytes: &[u8]) -> &mut GgufFile {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.set(key, LIST, &[&head[..], bytes].concat())
    }

    /// Adds a tensor, whose extents stand outermost first.
    pub fn tensor(&mut self, name: &str, kind: u32, shape: &[usize], bytes: Vec<u8>) -> &mut GgufFile {
        let extents = shape.iter().rev().map(|extent| *extent as u64).collect();
        self.tensors.push(Tensor { name: name.into(), kind, extents, bytes });
        self
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            file.extend(string(key.as_bytes()));
            file.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            file.extend(string(tensor.name.as_bytes()));
            file.extend((tensor.extents.len() as u32).to_le_bytes());
            tensor.extents.iter().for_each(|extent| file.extend(extent.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        [file, data].concat()
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}
