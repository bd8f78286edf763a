//! A batch in pieces that follow each other through the stages of a pipeline.
//!
//! ```text
//! stage 0   │ a │ b │ c │ d │   │        4 micro-batches on 2 stages: of 5 turns,
//! stage 1   │   │ a │ b │ c │ d │        each stage waits for one
//! ```

use crate::batch::{Batch, Span};
use std::ops::Range;

/// Rows of a micro-batch at least, unless a number was asked for. Each one reads all of the weights: with few rows that costs more than what the stages
/// gain by working at the same time.
pub const MICRO_BATCH_ROWS: usize = 32;
/// Micro-batches for each stage at most: behind that the bubble hardly shrinks.
const FOR_EACH_STAGE: usize = 4;

/// Into how many micro-batches a batch of so many rows is cut.
pub fn micro_batch_count(rows: usize, stages: usize, asked: Option<usize>) -> usize {
    match (stages, asked) {
        (1, _) => 1,
        (_, Some(asked)) => asked.min(rows).max(1),
        (_, None) => (rows / MICRO_BATCH_ROWS).clamp(1, FOR_EACH_STAGE * stages),
    }
}

// ANCHOR: micro_batches
/// Cuts a batch into at most `count` micro-batches of about as many rows. Attention sees K and V of all rows before: a sequence may be cut, as a chunked
/// prompt is. Where it keeps nothing (`remembers` is false), sequences stay whole.
pub fn micro_batches(batch: &Batch, count: usize, remembers: bool) -> Vec<Batch> {
    let rows = batch.tokens.len();
    let mut ends: Vec<usize> = (1..=count).map(|i| i * rows / count).collect();
    if !remembers {
        let whole = |end: usize| batch.spans.iter().map(|span| span.rows.end).find(|e| *e >= end);
        ends = ends.into_iter().map(|end| whole(end).unwrap_or(rows)).collect();
    }
    ends.dedup();
    let starts = [0].into_iter().chain(ends.clone());
    let mut pieces: Vec<Batch> = starts.zip(ends).map(|(start, end)| piece(batch, start..end)).collect();
    // What is copied in the cache is copied before anything is computed.
    pieces[0].moves.clone_from(&batch.moves);
    pieces
}

/// Some rows of a batch.
fn piece(batch: &Batch, rows: Range<usize>) -> Batch {
    let mut piece = Batch::default();
    for span in &batch.spans {
        let (start, end) = (span.rows.start.max(rows.start), span.rows.end.min(rows.end));
        if start < end {
            let at = piece.tables.len();
            piece.tables.extend(&batch.tables[span.table.clone()]);
            let rows = start - rows.start..end - rows.start;
            piece.spans.push(Span { rows, table: at..piece.tables.len() });
        }
    }
    piece.tokens.extend(&batch.tokens[rows.clone()]);
    piece.positions.extend(&batch.positions[rows.clone()]);
    let wanted = batch.logit_rows.iter().filter(|row| rows.contains(&(**row as usize)));
    piece.logit_rows.extend(wanted.map(|row| row - rows.start as u32));
    piece
}
// ANCHOR_END: micro_batches

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sequences: 5 rows of a prompt from position 7 on, a decode row, 4 rows of which no logits are wanted.
    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3, 4, 5], 7, &[10, 11]);
        batch.push(&[6], 3, &[12]);
        batch.push_chunk(&[7, 8, 9, 10], 0, &[13, 14, 15]);
        batch.moves.push(crate::batch::Move::Copy { from: 1, to: 2 });
        batch
    }

    #[test]
    fn pieces_have_every_row_once_with_its_table_and_its_logits() {
        let whole = batch();
        for count in 1..=10 {
            let pieces = micro_batches(&whole, count, true);
            assert_eq!(pieces.len(), count);
            let (mut tokens, mut positions, mut logits) = (Vec::new(), Vec::new(), Vec::new());
            for (i, piece) in pieces.iter().enumerate() {
                assert_eq!(piece.moves.len(), usize::from(i == 0));
                assert_eq!(piece.padding(), 0);
                for span in &piece.spans {
                    for row in span.rows.clone() {
                        let of = whole.spans.iter().find(|s| s.rows.contains(&(tokens.len() + row))).unwrap();
                        assert_eq!(piece.tables[span.table.clone()], whole.tables[of.table.clone()]);
                    }
                }
                logits.extend(piece.logit_rows.iter().map(|row| row + tokens.len() as u32));
                tokens.extend(&piece.tokens);
                positions.extend(&piece.positions);
            }
            assert_eq!(
                (tokens, positions, logits),
                (whole.tokens.clone(), whole.positions.clone(), vec![4, 5])
            );
        }
    }

    #[test]
    fn sequences_stay_whole_where_nothing_is_kept() {
        let pieces = micro_batches(&batch(), 3, false);
        assert_eq!(pieces.iter().map(|piece| piece.tokens.len()).collect::<Vec<_>>(), [5, 1, 4]);
        assert_eq!(micro_batches(&Batch::of(&[1, 2, 3]), 3, false).len(), 1);
    }

    #[test]
    fn few_rows_stay_together_unless_a_number_is_asked_for() {
        let count = |rows, asked| micro_batch_count(rows, 2, asked);
        assert_eq!((count(1, None), count(16, None), count(256, None), count(9999, None)), (1, 1, 8, 8));
        assert_eq!((count(16, Some(4)), count(2, Some(4)), micro_batch_count(256, 1, Some(4))), (4, 2, 1));
    }
}
