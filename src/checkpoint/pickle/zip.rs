//! The zip archive that `torch.save` writes since PyTorch 1.6: where each file of it lies.
//!
//! ```text
//! ┌────────────────┬────────────────┬───┬───────────────────┬─────────────────┬──────┐
//! │ local 1 │ data │ local 2 │ data │ … │ central directory │ (zip64 records) │ end  │
//! └────────────────┴────────────────┴───┴───────────────────┴─────────────────┴──────┘
//! ```
//! The archive is read from its end: the last record says where the central directory is, and the directory says where each file is.
//! PyTorch stores its files as they are and never compresses them, so that their bytes can be used where they are mapped. Format:
//! PKWARE's APPNOTE.TXT, 4.3 and 4.5.
//!
//! Nothing that the archive says of itself is believed before it is compared with the file: every offset, both copies of every name, and
//! that no two files share bytes.

use std::ops::Range;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

/// Bytes of each record before its names.
const LOCAL_SIZE: usize = 30;
const CENTRAL_SIZE: usize = 46;
const END_SIZE: usize = 22;
const LOCATOR_64_SIZE: usize = 20;
const END_64_SIZE: usize = 56;

/// What a 32-bit field holds where the number is in the zip64 field.
const IN_ZIP64: u64 = u32::MAX as u64;

/// An archive whose files all lie in one folder.
pub(super) struct Archive<'a> {
    folder: &'a str,
    /// Sorted by name.
    entries: Vec<Entry<'a>>,
}

/// One file of the archive.
struct Entry<'a> {
    name: &'a str,
    /// From its local header on.
    start: usize,
    /// Its bytes.
    data: Range<usize>,
}

impl<'a> Archive<'a> {
    /// Whether a file begins as an archive does.
    pub(super) fn is(file: &[u8]) -> bool {
        file.starts_with(LOCAL)
    }

    /// Reads the central directory of a whole file, and compares it with the local headers.
    pub(super) fn parse(file: &'a [u8]) -> Result<Archive<'a>, String> {
        let Directory { range, entries: count } = Directory::find(file)?;
        if count > range.len() / CENTRAL_SIZE {
            return Err(format!("its zip directory claims {count} files in {} bytes", range.len()));
        }
        let mut entries = Vec::with_capacity(count);
        let mut at = range.start;
        for _ in 0..count {
            let (entry, next) = Entry::read(file, at, &range)?;
            entries.push(entry);
            at = next;
        }
        check_overlaps(&mut entries)?;
        entries.sort_unstable_by_key(|entry| entry.name);
        if let Some(two) = entries.array_windows::<2>().find(|[a, b]| a.name == b.name) {
            return Err(format!("its zip directory has '{}' twice", shown(two[0].name)));
        }
        Ok(Archive { folder: folder(&entries)?, entries })
    }

    /// The bytes of a file in the archive's folder.
    pub(super) fn get(&self, name: &str) -> Option<Range<usize>> {
        let inside = |entry: &Entry<'a>| entry.name.get(self.folder.len() + 1..).unwrap_or_default();
        let at = self.entries.binary_search_by_key(&name, |entry| inside(entry)).ok()?;
        Some(self.entries[at].data.clone())
    }
}

/// Where the central directory is.
struct Directory {
    range: Range<usize>,
    entries: usize,
}

impl Directory {
    /// From the last record of the file. `torch.save` writes no comment behind it.
    fn find(file: &[u8]) -> Result<Directory, String> {
        let cut = || "the end of its zip archive is not there; the file was cut off".to_owned();
        let end =
            file.len().checked_sub(END_SIZE).filter(|&end| file[end..].starts_with(END)).ok_or_else(cut)?;
        let field = |at, bytes| number(file, end + at, bytes);
        let (mut entries, mut size, mut start) = (field(10, 2)?, field(12, 4)?, field(16, 4)?);
        let mut limit = end;
        let locator = end.checked_sub(LOCATOR_64_SIZE).filter(|&at| file[at..].starts_with(LOCATOR_64));
        if let Some(locator) = locator {
            let record = number(file, locator + 8, 8)? as usize;
            if record.checked_add(END_64_SIZE).is_none_or(|after| after > locator)
                || !file[record..].starts_with(END_64)
            {
                return Err(format!("its zip64 record should be at byte {record} and is not there"));
            }
            let field = |at| number(file, record + at, 8);
            (entries, size, start) = (field(32)?, field(40)?, field(48)?);
            limit = record;
        }
        let stop = start.checked_add(size).filter(|&stop| stop <= limit as u64).ok_or_else(|| {
            format!(
                "its zip directory should be {size} bytes at byte {start}, and the file has {}",
                file.len()
            )
        })?;
        Ok(Directory { range: start as usize..stop as usize, entries: entries as usize })
    }
}

impl<'a> Entry<'a> {
    /// The entry at byte `at` of the central directory, and where the next one begins.
    fn read(file: &'a [u8], at: usize, directory: &Range<usize>) -> Result<(Entry<'a>, usize), String> {
        let bad = || format!("its zip directory is damaged at byte {at}");
        let record =
            file.get(at..directory.end).filter(|record| record.starts_with(CENTRAL)).ok_or_else(bad)?;
        let field = |at, bytes| number(record, at, bytes);
        let (flags, method) = (field(8, 2)?, field(10, 2)?);
        let lengths = [field(28, 2)?, field(30, 2)?, field(32, 2)?].map(|length| length as usize);
        let [name_end, extra_end, next] = {
            let [name, extra, comment] = lengths;
            [CENTRAL_SIZE + name, CENTRAL_SIZE + name + extra, CENTRAL_SIZE + name + extra + comment]
        };
        let name = record.get(CENTRAL_SIZE..name_end).ok_or_else(bad)?;
        let name = str::from_utf8(name).map_err(|_| bad())?;
        let extra = record.get(name_end..extra_end).ok_or_else(bad)?;
        let [size, packed, start] = zip64(extra, [field(24, 4)?, field(20, 4)?, field(42, 4)?])?;
        if flags & 1 != 0 || method != 0 || size != packed {
            let how = match (flags & 1, method) {
                (0, 8) => "deflated".to_owned(),
                (0, 0) => "stored with two sizes".to_owned(),
                (0, other) => format!("compressed by method {other}"),
                _ => "encrypted".to_owned(),
            };
            return Err(format!(
                "'{}' in its zip archive is {how}, and torch.save stores files as they are",
                shown(name)
            ));
        }
        let data = local(file, name, start, size, directory.start)?;
        Ok((Entry { name, start: start as usize, data }, at + next))
    }
}

/// Sizes and offset of an entry, those of them from the zip64 field that did not fit into 32 bits.
fn zip64(mut extra: &[u8], mut fields: [u64; 3]) -> Result<[u64; 3], String> {
    while extra.len() >= 4 {
        let (id, length) = (number(extra, 0, 2)?, number(extra, 2, 2)? as usize);
        let body = extra.get(4..4 + length).ok_or("a field of its zip directory is cut off")?;
        if id == 1 {
            let mut at = 0;
            for field in fields.iter_mut().filter(|field| **field == IN_ZIP64) {
                *field = number(body, at, 8)?;
                at += 8;
            }
        }
        extra = &extra[4 + length..];
    }
    Ok(fields)
}

/// The bytes of an entry, from its local header, which must say the same. Data ends before `limit`, where the directory begins.
fn local(file: &[u8], name: &str, start: u64, size: u64, limit: usize) -> Result<Range<usize>, String> {
    let bad = |what: &str| format!("'{}' in its zip archive: {what}", shown(name));
    let missing = || bad(&format!("there is no such file at byte {start}"));
    let start = usize::try_from(start).map_err(|_| missing())?;
    let header = file.get(start..).filter(|header| header.starts_with(LOCAL)).ok_or_else(missing)?;
    let lengths = [number(header, 26, 2)?, number(header, 28, 2)?].map(|length| length as usize);
    if header.get(LOCAL_SIZE..LOCAL_SIZE + lengths[0]) != Some(name.as_bytes()) || number(header, 8, 2)? != 0
    {
        return Err(bad("its own header and the directory disagree"));
    }
    let begin = start + LOCAL_SIZE + lengths[0] + lengths[1];
    let end = usize::try_from(size).ok().and_then(|size| begin.checked_add(size)).filter(|&end| end <= limit);
    let end = end.ok_or_else(|| bad(&format!("its {size} bytes do not end before the zip directory")))?;
    Ok(begin..end)
}

/// That no two files share bytes, as they do in archives that are larger inside than outside.
fn check_overlaps(entries: &mut [Entry]) -> Result<(), String> {
    entries.sort_unstable_by_key(|entry| entry.start);
    match entries.array_windows::<2>().find(|[a, b]| a.data.end > b.start) {
        Some([a, b]) => {
            Err(format!("'{}' and '{}' in its zip archive overlap", shown(a.name), shown(b.name)))
        }
        None => Ok(()),
    }
}

/// The folder that every file is in. `torch.save` gives it the file's name, or calls it `archive`.
fn folder<'a>(entries: &[Entry<'a>]) -> Result<&'a str, String> {
    let of = |entry: &Entry<'a>| entry.name.split_once('/').map(|(folder, _)| folder);
    let first = entries.first().ok_or("its zip archive is empty")?;
    let folder =
        of(first).ok_or_else(|| format!("'{}' in its zip archive is in no folder", shown(first.name)))?;
    match entries.iter().find(|entry| of(entry) != Some(folder)) {
        Some(other) => {
            let other = shown(other.name);
            Err(format!(
                "its zip archive has '{other}' beside the folder '{}'; there must be one folder",
                shown(folder)
            ))
        }
        None => Ok(folder),
    }
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64, String> {
    let field = at.checked_add(length).and_then(|end| bytes.get(at..end));
    let field = field.ok_or("a record of its zip archive is cut off")?;
    Ok(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// A name from the file, short enough for a message.
pub(super) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        text.push('…');
    }
    text
}
