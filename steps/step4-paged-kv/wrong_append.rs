//! Wrong answers to the second exercise of chapter 4: each has one mistake.

use crate::contracts::step4::{Growth, ReferenceCounts};

/// Writes to blocks that others hold too.
pub fn writes_to_shared(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    _: &mut Vec<(u32, u32)>,
) -> bool {
    let more = growth.tokens.div_ceil(growth.block_size).saturating_sub(table.len());
    if more > pool.available() {
        return false;
    }
    table.extend((0..more).filter_map(|_| pool.allocate()));
    true
}

/// Takes a block for the next token, also when the last one has room for it.
pub fn one_too_many(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    let tokens = growth.tokens + 1;
    super::solution::my_append(pool, table, Growth { tokens, ..growth }, copies)
}

/// Copies every shared block, also the full ones, to which nobody writes.
pub fn copies_all(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    super::solution::my_append(pool, table, Growth { written: 0, ..growth }, copies)
}

/// Takes what there is before it sees that there is not enough.
pub fn half_done(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    for block in table.iter_mut().skip(growth.written / growth.block_size) {
        if pool.references(*block) > 1 {
            let Some(mine) = pool.allocate() else { return false };
            copies.push((*block, mine));
            pool.free(*block);
            *block = mine;
        }
    }
    while table.len() < growth.tokens.div_ceil(growth.block_size) {
        let Some(block) = pool.allocate() else { return false };
        table.push(block);
    }
    true
}

/// Counts new blocks from the tokens that are written: room that was made before is made again.
pub fn counts_from_written(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    let Growth { block_size, written, tokens } = growth;
    let more = tokens.div_ceil(block_size) - written.div_ceil(block_size);
    let room = table.len() + more;
    super::solution::my_append(pool, table, Growth { tokens: room * block_size, ..growth }, copies)
}

/// Refuses to take the last free block: `>=` where it must be `>`.
pub fn keeps_one_back(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    let Growth { block_size, written, tokens } = growth;
    let shared = table.iter().skip(written / block_size).filter(|block| pool.references(**block) > 1).count();
    let more = tokens.div_ceil(block_size).saturating_sub(table.len());
    if shared + more >= pool.available() {
        return false;
    }
    super::solution::my_append(pool, table, growth, copies)
}
