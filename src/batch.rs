//! What one forward pass computes: a flat list of tokens of one or many sequences.
//!
//! ```text
//! tokens     │ 5 17  3 │ 9 │ 44  8 61  2 │     three sequences: a prompt, a decode step, a prompt
//! positions  │ 0  1  2 │ 7 │  0  1  2  3 │
//! spans      │ rows 0..3 │ 3..4 │ 4..8
//! logit_rows │       2   │ 3    │      7        the rows whose logits are wanted
//! ```
//! Everything but attention looks at rows alone. Step 1's batch is one sequence, whole.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One sequence's part of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// Its part of [`Batch::tables`]: nothing in step 1, then a slot (2, 3), then blocks (4).
    pub table: Range<usize>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
// ANCHOR: batch
pub struct Batch {
    /// Token ids, `[rows]`.
    pub tokens: Vec<u32>,
    /// Each token's position in its sequence, `[rows]`.
    pub positions: Vec<u32>,
    /// The sequences, in the order of their rows.
    pub spans: Vec<Span>,
    /// Where each sequence's K and V are kept.
    pub tables: Vec<u32>,
    /// Rows that need logits.
    pub logit_rows: Vec<u32>,
    /// What is copied in the cache before anything is computed, one after the other (4).
    pub moves: Vec<Move>,
}
// ANCHOR_END: batch

/// A block of K and V that is copied, in all layers. (Step 4.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Move {
    /// Within the pool: a shared block is about to be written to.
    Copy { from: u32, to: u32 },
    /// To host memory.
    SwapOut { block: u32, host: u32 },
    /// And back.
    SwapIn { host: u32, block: u32 },
}

impl Batch {
    /// A batch of one whole sequence that has the cache to itself (slot 0, or blocks 0, 1, 2, …) and wants the logits of its last row.
    pub fn of(tokens: &[u32]) -> Batch {
        let mut batch = Batch::default();
        batch.push(tokens, 0, &(0..tokens.len() as u32).collect::<Vec<_>>());
        batch
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
        self.tables.clear();
        self.logit_rows.clear();
        self.moves.clear();
    }

    /// Adds tokens of one sequence, the first at position `start`; the last one's logits are wanted.
    pub fn push(&mut self, tokens: &[u32], start: usize, table: &[u32]) {
        self.push_chunk(tokens, start, table);
        self.want_logits(tokens.len().min(1));
    }

    /// Wants the logits of the last `rows` rows so far.
    pub fn want_logits(&mut self, rows: usize) {
        let end = self.tokens.len();
        self.logit_rows.extend((end - rows..end).map(|row| row as u32));
    }

    /// The same, and no logits are wanted: there is more of the prompt to come.
    pub fn push_chunk(&mut self, tokens: &[u32], start: usize, table: &[u32]) {
        let (row, at) = (self.tokens.len(), self.tables.len());
        self.tokens.extend(tokens);
        self.positions.extend((start..start + tokens.len()).map(|p| p as u32));
        self.tables.extend(table);
        self.spans.push(Span { rows: row..self.tokens.len(), table: at..self.tables.len() });
    }

    /// Its sequences, if each of them has one token whose logits are wanted: a decode step.
    pub fn decode_rows(&self) -> Option<usize> {
        let (rows, sequences) = (self.tokens.len(), self.spans.len());
        (sequences == rows - self.padding() && self.logit_rows.len() == rows).then_some(sequences)
    }

    /// Rows at the end that belong to no sequence: they write no K and V, and nobody wants their logits.
    pub fn padding(&self) -> usize {
        self.tokens.len() - self.spans.last().map_or(0, |span| span.rows.end)
    }

    /// The same with more rows at the end, up to `rows`.
    pub fn padded(&self, rows: usize) -> Batch {
        let mut batch = self.clone();
        batch.tokens.resize(rows, 0);
        batch.positions.resize(rows, 0);
        batch.logit_rows.extend(self.tokens.len() as u32..rows as u32);
        batch
    }

    /// Wants every row's logits.
    pub fn want_all_logits(&mut self) {
        self.logit_rows.clear();
        self.logit_rows.extend(0..self.tokens.len() as u32);
    }
}
