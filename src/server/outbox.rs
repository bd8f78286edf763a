//! What waits for a client: one request's texts between the detokenizer, which never waits, and a socket, which may.
//!
//! Nothing is written as JSON before it is read, so that a token that waits takes some tens of bytes and not the hundreds of an event.
//! Where pieces gather, they are put together. Above a bound of bytes the client is *behind*, and the engine holds its request until the
//! client has read half of them. Other samples of the request may still run for a while; above a second bound, the reader is given up.

use super::io_struct::{Piece, SampleEnd};
use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Bytes that wait for a client that is behind.
const BEHIND: usize = 64 << 10;
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
    behind: bool,
    caught_up: bool,
    overflow: bool,
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    KeepsUp,
    /// It has more waiting than it should: no more is to be computed until it has caught up.
    Behind,
    /// It had more waiting than it may.
    GivenUp,
}

/// The client reads too slowly, and its answer was given up.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

impl Outbox {
    // ANCHOR: push
    /// Adds a piece, of which the client's task hears with the next [`wake`](Outbox::wake). For a client that was given up, nothing is kept.
    pub fn push(&self, piece: Piece) -> Pace {
        let mut waiting = self.lock();
        if !waiting.overflow {
            waiting.add(piece);
        }
        if waiting.bytes > MAX_WAITING_BYTES {
            *waiting = Waiting { overflow: true, ..Waiting::default() };
        }
        waiting.behind |= waiting.bytes > BEHIND;
        match *waiting {
            Waiting { overflow: true, .. } => Pace::GivenUp,
            Waiting { behind: true, .. } => Pace::Behind,
            _ => Pace::KeepsUp,
        }
    }
    // ANCHOR_END: push

    /// Wakes the client's task: pieces were added.
    pub fn wake(&self) {
        self.news.notify_one();
    }

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

    /// Whether the client should read before more is computed for it.
    pub fn is_behind(&self) -> bool {
        self.lock().behind
    }

    /// Whether the client has caught up since this was asked last.
    pub fn caught_up(&self) -> bool {
        mem::take(&mut self.lock().caught_up)
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
        let catches_up = self.behind && self.bytes <= BEHIND / 2;
        self.behind &= !catches_up;
        self.caught_up |= catches_up;
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
            assert_ne!(outbox.push(piece(i % 2, &format!("{i} "), 0)), Pace::GivenUp);
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
        let kept = (0..100_000).take_while(|_| outbox.push(piece(0, "a", 20)) != Pace::GivenUp).count();
        assert!(kept > 10_000 && kept < MAX_WAITING_BYTES / 160, "{kept}");
        assert_eq!(outbox.push(piece(0, "a", 0)), Pace::GivenUp);
        assert_eq!(outbox.take().await.unwrap_err(), Overflow);
    }

    #[tokio::test]
    async fn a_client_is_behind_until_it_has_read_half() {
        let outbox = Outbox::default();
        let kept_up = (0..10_000).take_while(|_| outbox.push(piece(0, "a", 0)) == Pace::KeepsUp).count();
        assert!(kept_up > 100 && kept_up < 10_000, "{kept_up}");
        assert!(outbox.is_behind() && !outbox.caught_up());
        while outbox.is_behind() {
            assert!(!outbox.caught_up() && outbox.lock().bytes > BEHIND / 2);
            outbox.take().await.unwrap();
        }
        assert!(outbox.caught_up() && !outbox.caught_up(), "it is said once");
        assert_eq!(outbox.push(piece(0, "a", 0)), Pace::KeepsUp);
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
        outbox.wake();
        assert_eq!(reader.await.unwrap(), 1);
    }
}
