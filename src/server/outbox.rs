//! What waits for a client: one request's texts between the detokenizer, which never waits, and a socket, which may.
//!
//! Nothing is written as JSON before it is read, so that a token that waits takes some tens of bytes and not the hundreds of an event.
//! Where pieces gather, they are put together, and where more gathers than a bound of bytes, the reader is given up.

use super::io_struct::{Piece, SampleEnd};
use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Bytes that may wait for one request's client.
pub const MAX_WAITING_BYTES: usize = 8 << 20;
/// Pieces that wait one by one; from then on, each is put to the last one of its sample.
const APART: usize = 64;
/// Tokens that a piece may have, and that are taken at a time: JSON of tokens with log-probabilities takes ten times their memory.
const AT_A_TIME: usize = 64;

/// One request's pieces, of all its samples, in the order in which they came.
#[derive(Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Piece>,
    bytes: usize,
    overflow: bool,
}

/// The client reads too slowly, and its answer was given up.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

impl Outbox {
    // ANCHOR: push
    /// Adds a piece. False if the client has more waiting than it may: nothing more is kept for it.
    pub fn push(&self, piece: Piece) -> bool {
        let mut waiting = self.lock();
        if waiting.overflow {
            return false;
        }
        waiting.add(piece);
        if waiting.bytes > MAX_WAITING_BYTES {
            *waiting = Waiting { overflow: true, ..Waiting::default() };
        }
        let kept = !waiting.overflow;
        drop(waiting);
        self.news.notify_one();
        kept
    }
    // ANCHOR_END: push

    /// The next pieces, once there are some.
    ///
    /// # Errors
    /// [`Overflow`], if the answer was given up.
    pub async fn take(&self) -> Result<Vec<Piece>, Overflow> {
        loop {
            let news = self.news.notified();
            {
                let mut waiting = self.lock();
                if waiting.overflow {
                    return Err(Overflow);
                }
                if !waiting.pieces.is_empty() {
                    return Ok(waiting.next());
                }
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic between two of the lines above leaves nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    // ANCHOR: add
    fn add(&mut self, piece: Piece) {
        let crowded = self.pieces.len() >= APART;
        match self.pieces.iter_mut().rev().find(|last| crowded && last.index == piece.index) {
            Some(last) if last.tokens.len() < AT_A_TIME => {
                self.bytes -= last.bytes();
                last.append(piece);
                self.bytes += last.bytes();
            }
            _ => {
                self.bytes += piece.bytes();
                self.pieces.push_back(piece);
            }
        }
    }
    // ANCHOR_END: add

    /// Takes pieces with about so many tokens as are taken at a time.
    fn next(&mut self) -> Vec<Piece> {
        let (mut taken, mut tokens) = (Vec::new(), 0);
        while let Some(piece) = self.pieces.pop_front_if(|_| tokens < AT_A_TIME) {
            tokens += 1 + piece.tokens.len();
            self.bytes -= piece.bytes();
            taken.push(piece);
        }
        taken
    }
}

impl Piece {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let of_tokens: usize = self.tokens.iter().map(|token| 48 + 8 * token.top_logprobs.len()).sum();
        mem::size_of::<Piece>() + self.text.len() + of_tokens
    }

    /// Adds the next piece of the same sample.
    fn append(&mut self, next: Piece) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
        self.prompt_logprobs.extend(next.prompt_logprobs);
        self.end = next.end;
    }

    /// Whether it is the last one of its sample.
    pub fn is_last(&self) -> bool {
        self.end.is_some()
    }
}

impl SampleEnd {
    /// Whether the sample came to an end of its own.
    pub fn is_good(&self) -> bool {
        self.error.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Sampled;

    fn piece(index: usize, text: &str, tops: usize) -> Piece {
        let token = Sampled { token: 1, logprob: None, top_logprobs: vec![(0, 0.0); tops] };
        Piece { index, text: text.into(), tokens: vec![token], ..Piece::default() }
    }

    #[tokio::test]
    async fn pieces_are_put_together_where_they_gather() {
        let outbox = Outbox::default();
        for i in 0..1000 {
            assert!(outbox.push(piece(i % 2, &format!("{i} "), 0)));
        }
        let mut pieces = Vec::new();
        while pieces.iter().map(|piece: &Piece| piece.tokens.len()).sum::<usize>() < 1000 {
            let more = outbox.take().await.unwrap();
            assert!(more.len() <= AT_A_TIME && more.iter().all(|piece| piece.tokens.len() <= AT_A_TIME));
            pieces.extend(more);
        }
        assert!(pieces.len() < 100, "{}", pieces.len());
        assert_eq!(outbox.lock().bytes, 0);
        let text =
            |index| pieces.iter().filter(|p| p.index == index).map(|p| p.text.as_str()).collect::<String>();
        assert_eq!(text(0), (0..1000).step_by(2).map(|i| format!("{i} ")).collect::<String>());
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let outbox = Outbox::default();
        let kept = (0..100_000).take_while(|_| outbox.push(piece(0, "a", 20))).count();
        assert!(kept > 10_000 && kept < MAX_WAITING_BYTES / 160, "{kept}");
        assert!(!outbox.push(piece(0, "a", 0)));
        assert_eq!(outbox.take().await.unwrap_err(), Overflow);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let reader = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.take().await.unwrap().len() }
        });
        tokio::task::yield_now().await;
        outbox.push(piece(0, "a", 0));
        assert_eq!(reader.await.unwrap(), 1);
    }
}
