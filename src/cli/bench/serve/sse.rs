//! Server-sent events: from bytes to events, wherever the packets that bring them are cut.
//!
//! A stream is a list of lines, and an empty line ends an event. A line may end with LF, CR LF or CR; a line that begins with a colon is a
//! comment (servers send one to keep an idle connection open); an event may have several `data:` lines, which one newline joins.

/// Bytes that one event may have. A server that sends more is broken, and we would only fill our memory with its answer.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// One event.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// From its `event:` line; empty without one.
    pub name: String,
    pub data: String,
}

/// Reads a stream.
#[derive(Default)]
pub struct Events {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The last packet ended with CR, so an LF at the beginning of the next packet ends the same line.
    after_cr: bool,
    /// The first line is behind us. A byte order mark may stand before it.
    begun: bool,
    name: String,
    /// `None` until the event has a `data:` line: an event without one is none.
    data: Option<String>,
}

impl Events {
    /// Takes a packet, and returns the events that it completes.
    ///
    /// # Errors
    /// If an event does not end within [`MAX_EVENT_BYTES`].
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, String> {
        let mut complete = Vec::new();
        if self.after_cr && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            self.after_cr = false;
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = match &bytes[end..] {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                other => &other[1..],
            };
            complete.extend(self.end_line());
        }
        self.line.extend_from_slice(bytes);
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if held > MAX_EVENT_BYTES {
            return Err(format!("an event of the stream has more than {MAX_EVENT_BYTES} bytes"));
        }
        Ok(complete)
    }

    /// Reads the line that has just ended. An empty line completes the event before it.
    fn end_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if self.begun { &*line } else { line.trim_start_matches('\u{feff}') };
        self.begun = true;
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (field, &mut self.data) {
            ("event", _) => self.name = value.into(),
            ("data", Some(data)) => data.extend(["\n", value]),
            ("data", none) => *none = Some(value.into()),
            // `id:` and `retry:`, comments (their field's name is empty), and fields that nobody knows.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    /// Every event, with the stream cut into packets of so many bytes.
    fn read(stream: &str, packet: usize) -> Vec<Event> {
        let mut events = Events::default();
        stream.as_bytes().chunks(packet).flat_map(|bytes| events.take(bytes).unwrap()).collect()
    }

    #[test]
    fn packets_may_be_cut_anywhere() {
        let stream = "\u{feff}: hello\n\ndata: {\"a\": \"ä🦀\"}\n\ndata:one\ndata: two\ndata\n\nevent: error\nid: 7\ndata:  x\n\nretry: 5\n\n\
                      event: lost\n\ndata: [DONE]\n\ndata: never ended\n";
        let expected = [
            event("", "{\"a\": \"ä🦀\"}"),
            event("", "one\ntwo\n"),
            event("error", " x"),
            event("", "[DONE]"),
        ];
        for ends in ["\n", "\r\n", "\r"] {
            let stream = stream.replace('\n', ends);
            for packet in [1, 2, 3, 7, 64, stream.len()] {
                assert_eq!(read(&stream, packet), expected, "{ends:?}, packets of {packet}");
            }
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let (mut events, packet) = (Events::default(), vec![b'x'; 1 << 20]);
        let taken = (0..20).map(|_| events.take(&packet)).find(Result::is_err);
        assert!(taken.unwrap().unwrap_err().contains("16777216 bytes"));
        let (mut events, packet) = (Events::default(), b"data: 0123456789\n".repeat(1 << 16));
        assert!((0..40).any(|_| events.take(&packet).is_err()), "many lines of one event");
    }
}
