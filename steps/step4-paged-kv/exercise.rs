//! The exercises of chapter 4. Write the bodies that say `stub!`, then run
//!
//!     cargo test --features step4 --test exercise4            all of them
//!     cargo test --features step4 --test exercise4 pool       one of them
//!
//! Each exercise has a contract, which says what is wrong. When all three are written, the engine tells stories with them: four requests
//! with a common beginning, two of them samples of one prompt, in so few blocks that they give way to each other. Each must read as it does
//! alone. Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet
#![allow(dead_code)] // fields that nobody reads yet
#![allow(clippy::ptr_arg)] // a table that does not grow yet

use crate::contracts::step4::{self, Growth, Hash, PrefixIndex, ReferenceCounts};
use crate::contracts::stub;

// 1. The pool -----------------------------------------------------------------------------------------------------------

pub struct MyPool {
    blocks: usize,
    // Add what you need: how many hold each block, and which nobody holds.
}

impl MyPool {
    /// `blocks` free blocks, numbered from 0.
    pub fn new(blocks: usize) -> MyPool {
        MyPool { blocks }
    }
}

impl ReferenceCounts for MyPool {
    fn allocate(&mut self) -> Option<u32> {
        stub!("give out a block that nobody holds; read \"Sharing\" in steps/step4-paged-kv/README.md")
    }

    fn share(&mut self, block: u32) {
        stub!("count one more reference; read \"Sharing\" in steps/step4-paged-kv/README.md")
    }

    /// With the last reference the block is free. Leave a block alone that nobody holds.
    fn free(&mut self, block: u32) {
        stub!("take a reference away; read \"Sharing\" in steps/step4-paged-kv/README.md")
    }

    fn references(&self, block: u32) -> u32 {
        stub!("say how many hold the block; read \"Sharing\" in steps/step4-paged-kv/README.md")
    }

    fn available(&self) -> usize {
        stub!("count the free blocks of the pool; read \"Sharing\" in steps/step4-paged-kv/README.md")
    }
}

#[test]
fn pool() {
    step4::pool(MyPool::new);
}

// 2. The table ----------------------------------------------------------------------------------------------------------

/// Makes room for the first `growth.tokens` tokens of a sequence, if there is not room for them already. Those from `growth.written` on will be written: a block of them
/// that others hold too is replaced by a new one, and (old, new) is noted in `copies`. If there are not enough blocks: false, and
/// nothing has changed.
pub fn my_append(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    stub!(
        "grow the table, and copy what is shared before it is written to; read \"Sharing\" in steps/step4-paged-kv/README.md"
    )
}

#[test]
fn append() {
    step4::append(my_append);
}

// 3. The index ----------------------------------------------------------------------------------------------------------

pub struct MyIndex {
    hash: Hash,
    // Add what you need: which blocks have a hash, and what is in each.
}

impl MyIndex {
    /// `hash(parent, tokens)` is a hint where to look, and may be the same for different contents.
    pub fn new(hash: Hash) -> MyIndex {
        MyIndex { hash }
    }
}

impl PrefixIndex for MyIndex {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        stub!(
            "remember what is in the block, and name it; read \"A prefix cache\" in steps/step4-paged-kv/README.md"
        )
    }

    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        stub!(
            "find the block with these tokens after this parent; read \"A prefix cache\" in steps/step4-paged-kv/README.md"
        )
    }

    fn forget(&mut self, block: u32) {
        stub!("drop what was in the block; read \"A prefix cache\" in steps/step4-paged-kv/README.md")
    }
}

#[test]
fn index() {
    step4::prefix_index(MyIndex::new);
}

// All of them -----------------------------------------------------------------------------------------------------------

#[test]
fn all_tell_the_stories() {
    step4::tells_the_demo_stories(MyPool::new, my_append, MyIndex::new);
}
