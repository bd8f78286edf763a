//! The contracts of step 8, for the exercises of chapter 8: events of a stream, written and read, and stop strings that are spread over tokens. A request
//! that is taken back is in step8_server.rs, and the queue in step8_queue.rs.

pub use super::step8_queue::{Queue, Refused, queue, queue_under_load};
pub use super::step8_server::{Guard, guard, guard_frees_blocks};

use super::step8_server::{Rig, ask, text_of};
use stairwell::request::Fields;

// Events ----------------------------------------------------------------------------------------------------------------

/// Writes one event to `out`, whose data is `text`. `text` has no carriage return.
pub type Frame = fn(text: &str, out: &mut Vec<u8>);

/// Texts that are hard to frame, and the mistake that each shows.
const TEXTS: [(&str, &str); 10] = [
    ("a cat", "did you write `data: `, the text, and an empty line?"),
    ("one\ntwo", "did you give each line of the text its own `data: `?"),
    ("a\n", "did you lose the text's last line, which is empty? `str::lines` does"),
    ("\n\n", "did you give empty lines a `data: ` too?"),
    (" cat", "did you write a space after the colon? A reader takes one away"),
    ("", "is an empty text one event with one empty line of data?"),
    ("data: x", "a text that looks like the format is still text"),
    (": x", "a text that looks like a comment is still text"),
    ("ü 你 🦀", "did you write the characters as UTF-8?"),
    ("a\u{2028}b\u{85}c", "U+2028 and U+0085 are no line ends of this format"),
];

/// An event's data is the text, whatever the text.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn frame(frame: Frame) {
    for (text, hint) in TEXTS {
        let mut out = Vec::new();
        frame(text, &mut out);
        let shown = String::from_utf8_lossy(&out).into_owned();
        assert!(
            out.ends_with(b"\n\n"),
            "the event of {text:?} is {shown:?}: did you end it with an empty line, so that the reader knows that it is whole?"
        );
        let got = reference(&out);
        assert!(
            got == [text],
            "a reader gets {got:?} from the event of {text:?}, which is {shown:?}: {hint}"
        );
    }
    let mut out = Vec::new();
    TEXTS.iter().for_each(|(text, _)| frame(text, &mut out));
    let want = TEXTS.map(|(text, _)| text);
    assert_eq!(
        reference(&out),
        want,
        "all of them one after the other: did you write only after `out`'s end?"
    );
}

/// The data of all events of a whole stream, by the letter of the HTML standard: lines end with LF, CR or CRLF; an empty line ends an event; lines of data are
/// joined by LF.
fn reference(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut data) = (Vec::new(), None::<String>);
    // What follows the last line end is no line yet.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for line in lines.split('\n') {
        if line.is_empty() {
            events.extend(data.take());
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            data = Some(data.map_or(value.to_owned(), |data| data + "\n" + value));
        }
    }
    events
}

/// Reads events from bytes as they come from a socket.
pub trait EventReader {
    /// Takes the next bytes, which may begin and end anywhere; gives the data of the events that are whole now.
    fn push(&mut self, bytes: &[u8]) -> Vec<String>;
}

/// Streams, each with the mistake that it shows.
const STREAMS: [(&str, &str); 8] = [
    ("data: a\n\ndata: b\n\n", "did you keep the beginning of an event for the next bytes?"),
    (": ping\n\ndata: a\n\n: ping\n\n", "did you skip comments, and events without data?"),
    ("data: one\ndata: two\n\n", "did you join lines of data by a newline?"),
    ("data:a\n\ndata:  b\n\n", "did you take away one space after the colon, if there is one, and no more?"),
    ("id: 7\nevent: token\ndata: a\nretry: 3\n\n", "did you skip fields that you don't know?"),
    ("data: ü 你 🦀\n\n", "did you make text of bytes that end inside a character? Wait for the whole line"),
    (
        "data: one\r\ndata: two\r\n\r\ndata: b\r\n\r\n",
        "did you take CR and LF for two line ends when they come one after the other?",
    ),
    (
        "data: {\"text\":\"a: b\"}\n\ndata: [DONE]\n\ndata: cut",
        "did you give an event whose end has not come?",
    ),
];

/// A reader gives the same events wherever the bytes are cut.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn reader<R: EventReader>(new: impl Fn() -> R) {
    for (stream, hint) in STREAMS {
        let (bytes, want) = (stream.as_bytes(), reference(stream.as_bytes()));
        let check = |cut: &str, chunks: &[&[u8]]| {
            let mut reader = new();
            let got: Vec<String> = chunks.iter().flat_map(|chunk| reader.push(chunk)).collect();
            assert!(got == want, "{stream:?} {cut} gives {got:?}, expected {want:?}: {hint}");
        };
        check("in one piece", &[bytes]);
        for at in 1..bytes.len() {
            check(&format!("cut after {at} bytes"), &[&bytes[..at], &bytes[at..]]);
        }
        check("byte by byte", &bytes.chunks(1).collect::<Vec<_>>());
        let mut reader = new();
        let whole = stream.rfind("\n\n").map(|at| at + 2);
        if let Some(end) = whole.filter(|end| *end == bytes.len() && !stream.contains('\r')) {
            let now: Vec<String> = reader.push(&bytes[..end]);
            assert_eq!(now, want, "{stream:?} is whole: did you wait for bytes behind the empty line?");
        }
    }
}

// Stop strings ----------------------------------------------------------------------------------------------------------

/// Looks for stop strings in a text that comes in pieces.
pub trait StopFilter {
    /// Takes the next piece. Gives the text that is final now, and whether a stop string is complete: then nothing more is asked for.
    fn push(&mut self, piece: &str) -> (String, bool);
    /// The text has ended: gives what was held back.
    fn finish(&mut self) -> String;
}

/// The text before the first stop string to be complete (of two with one end, the longer one), and whether there is one.
fn before_stop<'a>(text: &'a str, stops: &[&str]) -> (&'a str, bool) {
    let ends = stops.iter().filter_map(|stop| Some((text.find(stop)? + stop.len(), stop.len())));
    match ends.min_by_key(|(end, length)| (*end, usize::MAX - length)) {
        Some((end, length)) => (&text[..end - length], true),
        None => (text, false),
    }
}

/// The longest end of a text with which a stop string begins.
fn open(text: &str, stops: &[&str]) -> usize {
    let begins =
        |at: &usize| text.is_char_boundary(*at) && stops.iter().any(|stop| stop.starts_with(&text[*at..]));
    (0..text.len()).find(begins).map_or(0, |at| text.len() - at)
}

/// Whatever the pieces, the text up to the first stop string comes out, each character as soon as it is sure.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn stops<F: StopFilter>(new: impl Fn(&[&str]) -> F) {
    let cases: [(&[&str], &[&str]); 9] = [
        (&[], &["a", "b"]),
        (&["stop"], &["a sto", "p b"]),
        (&["stop"], &["st", "o", "p"]),
        (&["stop"], &["a sto", "ne"]),
        (&["stop"], &["a st"]),
        (&["aab"], &["aa", "a", "b"]),
        (&["bc", "abcd"], &["a", "b", "c", "d"]),
        (&["c", "abc"], &["ab", "c"]),
        (&["über"], &["ü", "b", "el ü", "ber"]),
    ];
    cases.iter().for_each(|(stops, pieces)| check_pieces(&new, stops, pieces));
    // Texts of a small alphabet, cut anywhere.
    let mut random = 1u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % n
    };
    for _ in 0..3000 {
        let pieces: Vec<String> =
            (0..1 + below(6)).map(|_| (0..below(4)).map(|_| ["a", "b", "ü"][below(3)]).collect()).collect();
        let stops: Vec<String> = (0..1 + below(2))
            .map(|_| (0..1 + below(4)).map(|_| ["a", "b", "ü"][below(3)]).collect())
            .collect();
        let [pieces, stops] =
            [&pieces, &stops].map(|texts| texts.iter().map(String::as_str).collect::<Vec<_>>());
        check_pieces(&new, &stops, &pieces);
    }
}

#[track_caller]
fn check_pieces<F: StopFilter>(new: &impl Fn(&[&str]) -> F, stops: &[&str], pieces: &[&str]) {
    let (mut filter, mut out, mut text) = (new(stops), String::new(), String::new());
    let place = format!("stop strings {stops:?}, pieces {pieces:?}");
    for piece in pieces {
        let (more, stopped) = filter.push(piece);
        text += piece;
        out += &more;
        let (want, stops_here) = before_stop(&text, stops);
        assert!(
            want.starts_with(&out),
            "{place}: {out:?} is out after {text:?}, and the text is {want:?}: did you give out a part of a stop string, which can't be taken back?"
        );
        assert!(
            stopped == stops_here,
            "{place}: after {text:?} you say that {} stop string is complete: did you look across pieces, and from the first place that is held?",
            if stopped { "a" } else { "no" }
        );
        if stopped {
            assert_eq!(
                out, want,
                "{place}: the text before the stop string: did you give out what was held before it?"
            );
            return;
        }
        let sure = &text[..text.len() - open(&text, stops)];
        let hint = match out.len() > sure.len() {
            true => "did you give out what may still become a stop string, and can't be taken back?",
            false => "did you hold back more than the longest end with which a stop string begins?",
        };
        assert!(out == sure, "{place}: {out:?} is out after {text:?}, expected {sure:?}: {hint}");
    }
    out += &filter.finish();
    assert_eq!(out, text, "{place}: the whole text: did you give out at the end what was held back?");
}

/// The demo story, streamed through the reader's filter, ends where the server's own ends.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn stops_the_demo_story<F: StopFilter>(new: impl Fn(&[&str]) -> F) {
    const STOP: &str = "lake, there";
    _ = new(&[STOP]).push(""); // what is not written yet says so before anything is loaded
    let rig = Rig::start(64);
    let plain = rig.run(async |manager| ask(manager, Fields::default()).await);
    let want =
        rig.run(async |manager| ask(manager, Fields { stop: vec![STOP.into()], ..Fields::default() }).await);
    let (want, mut filter, mut out, mut stopped) = (text_of(&want), new(&[STOP]), String::new(), false);
    for piece in &plain {
        let (more, stops) = filter.push(&piece.text);
        out += &more;
        stopped |= stops;
        if stopped {
            break;
        }
    }
    assert!(
        stopped,
        "the stop string {STOP:?} is spread over tokens of the demo story, and was not found in {:?}",
        text_of(&plain)
    );
    assert_eq!(out, want, "the demo story up to {STOP:?}, by your filter and by the server's");
}
