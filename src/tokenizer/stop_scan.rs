//! All stop strings of a request at once, byte by byte: the automaton of Aho and Corasick (1975).
//!
//! A byte costs the same however many strings there are, and however long they are; making the automaton costs their length, once.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::{Anchored, nfa::contiguous::NFA};
use std::{collections::HashMap, sync::Arc};

/// Where a stream of bytes stands among the beginnings of stop strings.
#[derive(Clone, Debug)]
pub struct StopScan {
    automaton: Arc<NFA>,
    /// Bytes of the beginning that a state stands for.
    depths: Arc<HashMap<StateID, usize>>,
    state: StateID,
}

impl StopScan {
    /// At the beginning of a stream. `None` without a string; empty ones are ignored, since they would stop before the first byte.
    pub fn new(stops: &[impl AsRef<str>]) -> Option<StopScan> {
        let stops: Vec<&str> = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty()).collect();
        let automaton = NFA::new(&stops).ok().filter(|_| !stops.is_empty())?;
        let start = automaton.start_state(Anchored::No).ok()?;
        let mut depths = HashMap::new();
        for stop in stops {
            let mut state = start;
            for (at, byte) in stop.bytes().enumerate() {
                state = automaton.next_state(Anchored::No, state, byte);
                depths.insert(state, at + 1);
            }
        }
        Some(StopScan { automaton: Arc::new(automaton), depths: Arc::new(depths), state: start })
    }

    /// Takes the next byte. If stop strings end with it, the length of the longest: the one that began first.
    pub fn push(&mut self, byte: u8) -> Option<usize> {
        self.state = self.automaton.next_state(Anchored::No, self.state, byte);
        let longest = |_| self.automaton.pattern_len(self.automaton.match_pattern(self.state, 0));
        self.automaton.is_match(self.state).then_some(()).map(longest)
    }

    /// The bytes at the end of the stream that are the beginning of a stop string.
    pub fn open(&self) -> usize {
        self.depths.get(&self.state).copied().unwrap_or(0)
    }
}
