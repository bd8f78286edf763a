//! The exercises of chapter 4 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step4-paged-kv"]
mod step4_paged_kv {
    pub mod exercise;
    pub mod solution;
    pub mod wrong_append;
    pub mod wrong_index;
    pub mod wrong_pool;
}

use crate::contracts::step4;
use crate::rig::{self, Case, KEPT};
use step4_paged_kv::{
    exercise as stub,
    solution::{self, MyIndex, MyPool, my_append},
    wrong_append as append, wrong_index as index, wrong_pool as pool,
};

const STUBS: &[Case] = &[
    ("pool", || step4::pool(stub::MyPool::new), Some("not written yet: count the free blocks of the pool")),
    ("append", || step4::append(stub::my_append), Some("not written yet: grow the table")),
    (
        "index",
        || step4::prefix_index(stub::MyIndex::new),
        Some("not written yet: find the block with these tokens"),
    ),
    (
        "the stories",
        || step4::tells_the_demo_stories(stub::MyPool::new, stub::my_append, stub::MyIndex::new),
        Some("not written yet: "),
    ),
];

const SOLUTIONS: &[Case] = &[
    ("pool", || step4::pool(MyPool::new), KEPT),
    ("append", || step4::append(my_append), KEPT),
    ("index", || step4::prefix_index(MyIndex::new), KEPT),
    ("the stories", || step4::tells_the_demo_stories(solution::MyPool::new, my_append, MyIndex::new), KEPT),
];

const WRONG: &[Case] = &[
    ("freed_at_once", || step4::pool(pool::freed_at_once), Some("did you free it with the first reference?")),
    ("freed_twice", || step4::pool(pool::freed_twice), Some("did you check that somebody holds it?")),
    ("ShareForgotten", || step4::pool(pool::ShareForgotten::new), Some("did you count the second?")),
    (
        "ShareForgotten's stories",
        || step4::tells_the_demo_stories(pool::ShareForgotten::new, my_append, MyIndex::new),
        Some("is not the one that it is alone"),
    ),
    (
        "writes_to_shared",
        || step4::append(append::writes_to_shared),
        Some("did you write to a shared block?"),
    ),
    (
        "writes_to_shared's stories",
        || step4::tells_the_demo_stories(MyPool::new, append::writes_to_shared, MyIndex::new),
        Some("is not the one that it is alone"),
    ),
    (
        "one_too_many",
        || step4::append(append::one_too_many),
        Some("did you add one though the last had room?"),
    ),
    ("copies_all", || step4::append(append::copies_all), Some("did you copy what nobody writes to?")),
    (
        "half_done",
        || step4::append(append::half_done),
        Some("did you count all blocks before you took the first?"),
    ),
    (
        "counts_from_written",
        || step4::append(append::counts_from_written),
        Some("did you count from what is written?"),
    ),
    ("keeps_one_back", || step4::append(append::keeps_one_back), Some("did you keep the last one back?")),
    ("HashOnly", || step4::prefix_index(index::HashOnly::new), Some("did you take the hash for the name?")),
    (
        "NoTokens",
        || step4::prefix_index(index::NoTokens::new),
        Some("did you compare the tokens, or only the hash?"),
    ),
    ("NamedByCount", || step4::prefix_index(index::NamedByCount::new), Some("did you use a name again?")),
    ("NoParent", || step4::prefix_index(index::NoParent::new), Some("did you compare the parent?")),
    (
        "NamedByBlock",
        || step4::prefix_index(index::NamedByBlock::new),
        Some("did you name a parent by its block?"),
    ),
    (
        "NeverFinds",
        || step4::prefix_index(index::NeverFinds::new),
        Some("did you keep it, whatever else has its hash?"),
    ),
    (
        "NeverFinds's stories",
        || step4::tells_the_demo_stories(MyPool::new, my_append, index::NeverFinds::new),
        Some("is a published block found?"),
    ),
    ("NeverForgets", || step4::prefix_index(index::NeverForgets::new), Some("did you keep its name?")),
    (
        "NeverForgets's stories",
        || step4::tells_the_demo_stories(MyPool::new, my_append, index::NeverForgets::new),
        Some("is not the one that it is alone"),
    ),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step4-paged-kv/exercise.rs"))
}
