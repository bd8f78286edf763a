//! Pairs of key and value, as bytes.

/// Numbers of the types (`gguf_type` in ggml's `gguf.h`).
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Pairs in the order in which they were added.
#[derive(Default)]
pub struct Pairs {
    count: usize,
    bytes: Vec<u8>,
}

/// A text with its length.
pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Pairs {
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn add(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        self.bytes.extend(string(key));
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn list<T>(&mut self, key: &str, kind: u32, values: &[T], bytes: impl Fn(&T) -> Vec<u8>) {
        let mut list = kind.to_le_bytes().to_vec();
        list.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| list.extend(bytes(value)));
        self.add(key, LIST, &list);
    }

    pub fn text(&mut self, key: &str, text: &str) {
        self.add(key, TEXT, &string(text));
    }

    pub fn size(&mut self, key: &str, size: usize) {
        self.add(key, U32, &u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub fn float(&mut self, key: &str, number: f64) {
        self.add(key, F32, &(number as f32).to_le_bytes());
    }

    pub fn flag(&mut self, key: &str, flag: bool) {
        self.add(key, BOOL, &[flag.into()]);
    }

    pub fn texts<T: AsRef<str>>(&mut self, key: &str, texts: &[T]) {
        self.list(key, TEXT, texts, |text| string(text.as_ref()));
    }

    pub fn integers(&mut self, key: &str, numbers: &[i32]) {
        self.list(key, I32, numbers, |number| number.to_le_bytes().into());
    }

    pub fn floats(&mut self, key: &str, numbers: &[f32]) {
        self.list(key, F32, numbers, |number| number.to_le_bytes().into());
    }
}
