//! Writes what `torch.save` writes: pickles of state dicts, and the zip archives and older files around them.

/// A text.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An integer of 8 bytes.
pub fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08", &n.to_le_bytes()[..]].concat()
}

/// A tuple of values.
pub fn tuple(values: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let values: Vec<u8> = values.into_iter().flatten().collect();
    [b"(", &values[..], b"t"].concat()
}

/// A tuple of integers.
pub fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(numbers.iter().map(|n| int(*n)))
}

/// The name of a function or a class.
pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A tensor's part of a storage.
pub struct View<'a> {
    pub key: &'a str,
    pub class: &'a str,
    pub numbers: i64,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
    /// Whether the file is of PyTorch before 1.6.
    pub legacy: bool,
}

impl View<'_> {
    /// The opcodes that build it.
    pub fn pickle(&self) -> Vec<u8> {
        let mut id = vec![
            text("storage"),
            global("torch", self.class),
            text(self.key),
            text("cpu"),
            int(self.numbers),
        ];
        id.extend(self.legacy.then(|| b"N".to_vec()));
        let storage = [tuple(id), b"Q".to_vec()].concat();
        let hooks = [&global("collections", "OrderedDict")[..], b")R"].concat();
        let arguments =
            [storage, int(self.offset), ints(&self.size), ints(&self.stride), b"\x89".to_vec(), hooks];
        [global("torch._utils", "_rebuild_tensor_v2"), tuple(arguments), b"R".to_vec()].concat()
    }
}

/// A pickle of a dict.
pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let entries = entries.into_iter().flat_map(|(name, value)| [text(name), value].concat());
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(entries);
    pickle.extend(b"u.");
    pickle
}

/// A zip archive of stored files.
pub fn zip(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let start = out.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        let sizes = [&[0; 4][..], &size, &size, &(name.len() as u16).to_le_bytes(), &[0; 2]].concat();
        out.extend([&b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0"[..], &sizes, name.as_bytes(), data].concat());
        let head = [&b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0"[..], &sizes, &[0; 10]].concat();
        central.extend([&head[..], &start.to_le_bytes(), name.as_bytes()].concat());
    }
    let (count, size, start) = (files.len() as u16, central.len() as u32, out.len() as u32);
    out.extend(central);
    let count = count.to_le_bytes();
    let end =
        [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size.to_le_bytes(), &start.to_le_bytes(), &[0; 2]];
    out.extend(end.concat());
    out
}

/// A state dict and its storages as PyTorch writes them since 1.6.
pub fn torch_zip(pickle: Vec<u8>, storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let named = storages.iter().map(|(key, data)| (format!("m/data/{key}"), data.clone()));
    let mut files = vec![("m/data.pkl".to_owned(), pickle), ("m/byteorder".to_owned(), b"little".to_vec())];
    files.extend(named);
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, data)| (&name[..], data.clone())).collect();
    zip(&files)
}

/// A state dict and its storages, each with how many numbers it has, as PyTorch before 1.6 writes them.
pub fn legacy(pickle: Vec<u8>, storages: &[(&str, i64, Vec<u8>)]) -> Vec<u8> {
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let parts = [
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
        [b"\x80\x02", &int(1001)[..], b"."].concat(),
        dict([("little_endian", b"\x88".to_vec())]),
        pickle,
        [b"\x80\x02](", &keys[..], b"e."].concat(),
    ];
    let data = storages.iter().flat_map(|(_, numbers, data)| [&numbers.to_le_bytes()[..], data].concat());
    parts.concat().into_iter().chain(data).collect()
}
