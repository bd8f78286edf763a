//! The contracts of step 4, for the exercises of chapter 4: references to blocks, a table that grows, and blocks that are found by
//! their contents.

pub use super::blocks::{Append, Counted, Growth, Hash, PrefixIndex, ReferenceCounts};

use super::paged_story;

/// A pool gives out each block once, counts its holders, and takes it back with the last of them. `new` makes one of so many blocks.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn pool<P: ReferenceCounts>(new: impl Fn(usize) -> P) {
    let mut pool = new(3);
    assert_eq!(pool.available(), 3, "in a new pool nobody holds anything");
    let mut blocks: Vec<u32> = (0..3).filter_map(|_| pool.allocate()).collect();
    let [a, b, c] = blocks[..] else { panic!("of 3 blocks, {} could be allocated", blocks.len()) };
    blocks.sort_unstable();
    assert_eq!(blocks, [0, 1, 2], "each block is given out once: did you take it off the free ones?");
    assert_eq!(pool.references(a), 1, "whoever allocates a block holds it: its references");
    assert_eq!(pool.allocate(), None, "all blocks are held");

    pool.free(b);
    assert_eq!(pool.available(), 1, "a block was given back: did you forget to keep it?");
    assert_eq!(pool.allocate(), Some(b), "one block is free");

    pool.share(a);
    assert_eq!(pool.references(a), 2, "two hold block {a}: did you count the second?");
    pool.free(a);
    assert_eq!(
        (pool.references(a), pool.available()),
        (1, 0),
        "references of block {a}, which one of two gave back, and free blocks: did you free it with the first reference?"
    );
    pool.free(a);
    pool.free(a);
    assert_eq!(
        pool.available(),
        1,
        "blocks that are free after block {a} was given back once too often: did you check that somebody holds it?"
    );
    pool.free(c);
    check_against_counts(new(5));
}

/// Random operations, against plain counts.
#[track_caller]
fn check_against_counts(mut pool: impl ReferenceCounts) {
    let (mut counts, mut random) = ([0u32; 5], 1u64);
    for step in 0..5000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let block = (random >> 33) as u32 % 5;
        match (random >> 40) % 4 {
            0 => match pool.allocate() {
                Some(block) if counts[block as usize] == 0 => counts[block as usize] = 1,
                Some(block) => panic!("operation {step}: block {block} was allocated, and somebody holds it"),
                None => {
                    assert!(!counts.contains(&0), "operation {step}: a block is free, and nobody gets it")
                }
            },
            1 if counts[block as usize] > 0 => {
                pool.share(block);
                counts[block as usize] += 1;
            }
            _ => {
                pool.free(block);
                counts[block as usize] = counts[block as usize].saturating_sub(1);
            }
        }
        let got: Vec<u32> = (0..5).map(|block| pool.references(block)).collect();
        assert_eq!(got, counts, "operation {step}: references to the 5 blocks");
        let free = counts.iter().filter(|n| **n == 0).count();
        assert_eq!(
            pool.available(),
            free,
            "operation {step}: free blocks: is a block with two references one block?"
        );
    }
}

/// A growing table takes a block when the last one is full, and copies a shared block before it is written to.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn append(append: Append) {
    let grow = |pool: &mut Counted, table: &mut Vec<u32>, written: usize, tokens: usize| {
        let mut copies = Vec::new();
        let fits = append(pool, table, Growth { block_size: 4, written, tokens }, &mut copies);
        (fits, copies)
    };
    let (mut pool, mut table) = (Counted::new(6), Vec::new());
    let plain = (true, Vec::new());
    assert_eq!(grow(&mut pool, &mut table, 0, 5), plain, "5 tokens in an empty pool of 6 blocks of 4");
    assert_eq!(table.len(), 2, "blocks for 5 tokens, of 4 tokens each: did you round down?");
    assert_eq!(grow(&mut pool, &mut table, 5, 8), plain, "the last block has room for tokens 5 to 7");
    assert_eq!(table.len(), 2, "blocks for 8 tokens: did you add one though the last had room?");
    assert_eq!(grow(&mut pool, &mut table, 8, 9), plain, "the ninth token needs a block, and four are free");
    assert_eq!(table.len(), 3, "blocks for 9 tokens: is the last of 8 full?");
    for tokens in [9, 8] {
        assert_eq!(
            grow(&mut pool, &mut table, 8, tokens),
            plain,
            "there is room for {tokens} tokens already"
        );
        assert_eq!(
            table.len(),
            3,
            "blocks, and there was room for {tokens} tokens already: did you count from what is written?"
        );
    }
    let mut distinct = table.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "the blocks of a table are different ones; it is {table:?}");

    // Another sequence with the first 8 tokens: it writes to a block of its own.
    let mut other = share(&mut pool, &table[..2]);
    assert_eq!(grow(&mut pool, &mut other, 8, 9), plain, "full blocks: did you copy what nobody writes to?");
    assert_eq!(other[..2], table[..2], "full blocks stay shared");
    assert_ne!(other[2], table[2], "did you give two sequences the same block to write to?");

    // A third one with the first 6: it will write to the second block, which is not full for it.
    let mut third = share(&mut pool, &table[..2]);
    let before = third.clone();
    let (fits, copies) = grow(&mut pool, &mut third, 6, 7);
    assert!(fits, "a block is free for the copy");
    assert_ne!(third[1], before[1], "others hold block {}: did you write to a shared block?", before[1]);
    assert_eq!(copies, [(before[1], third[1])], "the copies to make, as (from, to)");
    let counts = |pool: &Counted| [before[0], before[1], third[1]].map(|block| pool.references(block));
    assert_eq!(
        counts(&pool),
        [3, 2, 1],
        "references of the shared ones and of the copy: did you give one back?"
    );
    assert_eq!(
        grow(&mut pool, &mut third, 7, 8),
        plain,
        "it has that block alone now: did you copy it again?"
    );

    // One block is left. A fourth one needs two: a copy, and one more.
    let mut fourth = share(&mut pool, &table[..2]);
    let (before, free) = (fourth.clone(), pool.available());
    assert_eq!(free, 1, "free blocks after all that");
    assert_eq!(
        grow(&mut pool, &mut fourth, 6, 9),
        (false, Vec::new()),
        "two blocks are needed, and one is free: did you count all blocks before you took the first?"
    );
    assert_eq!(
        (&fourth, pool.available()),
        (&before, free),
        "a refusal changes nothing: did you count all blocks before you took the first?"
    );
    let (fits, _) = grow(&mut pool, &mut fourth, 6, 7);
    assert!(fits, "one block is needed, for a copy, and one is free: did you keep the last one back?");
}

/// The same blocks for one more table.
fn share(pool: &mut Counted, blocks: &[u32]) -> Vec<u32> {
    blocks.iter().for_each(|block| pool.share(*block));
    blocks.to_vec()
}

/// An index finds a block by its tokens after their parent, whatever the hash, and nothing else. `new` makes one with a hash.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn prefix_index<I: PrefixIndex>(new: impl Fn(Hash) -> I) {
    let mixing = |parent: u64, tokens: &[u32]| {
        tokens
            .iter()
            .fold(parent ^ 0xcbf29ce484222325, |h, t| (h ^ u64::from(*t)).wrapping_mul(0x100000001b3))
    };
    check_index(new(mixing), "");
    check_index(new(|_, _| 7), " (under a hash that is the same for all)");
}

#[track_caller]
fn check_index(mut index: impl PrefixIndex, hash: &str) {
    let (first, second, other) = ([1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]);
    assert_eq!(index.find(None, &first), None, "nothing was published{hash}");
    let a = index.publish(None, &first, 0);
    let b = index.publish(Some(a), &second, 1);
    assert_ne!(a, b, "two contents have one name{hash}: did you take the hash for the name?");
    assert_eq!(
        index.find(None, &first),
        Some((0, a)),
        "block 0, which was published{hash}: did you keep it, whatever else has its hash?"
    );
    assert_eq!(index.find(Some(a), &second), Some((1, b)), "block 1, after block 0{hash}");
    let wrong = index.find(None, &other);
    assert_eq!(wrong, None, "a block of other tokens{hash}: did you compare the tokens, or only the hash?");
    let wrong = index.find(None, &second);
    assert_eq!(wrong, None, "the same tokens, not after those of block 0{hash}: did you compare the parent?");

    let c = index.publish(None, &other, 2);
    assert_eq!(
        index.find(Some(c), &second),
        None,
        "block 1 follows block 0{hash}: did you compare the parent?"
    );
    assert_eq!(
        index.publish(None, &first, 3),
        a,
        "the name of what is there already{hash}: did you look it up first?"
    );
    assert_eq!(index.find(None, &first), Some((0, a)), "the block that was there stays{hash}");

    index.forget(3);
    index.forget(0);
    assert_eq!(index.find(None, &first), None, "block 0 will be overwritten{hash}: did you keep its name?");
    let d = index.publish(None, &other.map(|t| t + 1), 0);
    assert_eq!(index.find(None, &first), None, "block 0 holds other tokens{hash}");
    assert_eq!(
        index.find(Some(d), &second),
        None,
        "block 0 holds other tokens now, and block 1 is found after them{hash}: did you name a parent by its block?"
    );
    assert!(![a, b, c].contains(&d), "new contents have the name of others{hash}: did you use a name again?");
    assert_eq!(
        index.find(None, &other),
        Some((2, c)),
        "nobody touched block 2{hash}: did you forget all that have a hash?"
    );
}

/// The engine tells stories with the reader's pieces: prompts with a common beginning, and two samples of one of them, in blocks of 4
/// tokens and so few of them that requests give way to each other. Each story is the one that it is alone.
///
/// # Panics
/// If a story differs, a block is lost, or nothing was shared, copied or preempted.
#[track_caller]
pub fn tells_the_demo_stories<P, I>(
    pool: impl FnOnce(usize) -> P,
    append: Append,
    index: impl FnOnce(Hash) -> I,
) where
    P: ReferenceCounts + 'static,
    I: PrefixIndex + 'static,
{
    paged_story::check(pool, append, index);
}
