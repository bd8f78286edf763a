//! The block manager against a model of the memory that it manages.
//!
//! In the model, K and V of a token are a fingerprint of all tokens up to it. Blocks hold fingerprints; moves and writes are carried out
//! as `Paged` does; and before a request's row is "computed", every place that it reads must hold the fingerprints of its own tokens.
//! Whatever a wrong manager does (a stale hash, a shared block that is freed or written to, a lost copy), somebody reads something
//! that is not his.

use super::testing::{Cache, Model, PLAIN, Setup};
use crate::kv::{GONE, KvManager, Preemption, RequestId, Sharing};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

#[test]
fn every_place_that_is_read_holds_what_was_computed_for_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (mut operations, mut seen) = (0, [0; 5]);
    for round in 0..60 {
        let setup = Setup {
            block_size: [1, 2, 4, 8][round % 4],
            blocks: rng.random_range(3..20),
            swap_blocks: rng.random_range(0..20),
            window: [None, None, Some(5)][round % 3],
            preemption: [Preemption::Recompute, Preemption::Swap][round / 2 % 2],
            cache: [Cache::On, Cache::Colliding, Cache::Off, Cache::On, Cache::On][round % 5],
        };
        let mut model = Model::new(setup);
        while model.operations < 5000 {
            model.random(&mut rng);
        }
        let ids: Vec<RequestId> = model.requests.keys().copied().collect();
        ids.into_iter().for_each(|id| model.finish(id));
        assert_eq!(model.kv.usage().reserved, 0, "{setup:?}: nobody is there, and blocks are held");
        operations += model.operations;
        let counts = model.kv.counts();
        let happened = [counts.copies, counts.evictions, counts.swapped_out, counts.swapped_in, model.hits];
        seen.iter_mut().zip(happened).for_each(|(seen, now)| *seen += now);
    }
    assert!(operations >= 100_000, "{operations} operations were checked");
    assert!(seen.iter().all(|count| *count > 500), "copies, evictions, swaps out and in, hits: {seen:?}");
}

#[test]
fn a_block_that_is_used_again_is_not_found_by_its_old_tokens() {
    let mut model = Model::new(Setup { blocks: 3, ..PLAIN });
    let old = model.arrive(vec![1; 8], None, None);
    model.run(old);
    model.finish(old);
    assert_eq!(model.kv.counts().cached, 2);
    // The old second block becomes the second of another request, which does not fill it: no new name takes the place of the old.
    let other = model.arrive(vec![2; 7], None, None);
    model.run(other);
    assert_eq!(model.kv.counts().evictions, 1);
    model.finish(other);
    let again = model.arrive(vec![1; 9], None, None);
    model.run(again); // `forward` reads as the request does
    assert_eq!(model.requests[&again].cached, 4);
}

#[test]
fn a_prompt_that_is_wholly_cached_computes_its_last_tokens() {
    let mut model = Model::new(PLAIN);
    for n in [4, 8, 9] {
        let tokens: Vec<u32> = (10..10 + n).collect();
        let first = model.arrive(tokens.clone(), None, None);
        model.run(first);
        model.finish(first);
        let again = model.arrive(tokens, None, None);
        let computed = model.schedule(again, 100).unwrap();
        assert_eq!(computed, [4, 4, 1][[4, 8, 9].iter().position(|m| *m == n).unwrap()], "{n} tokens");
        model.forward(&[(again, computed)]);
        model.finish(again);
    }
}

#[test]
fn two_new_requests_of_one_batch_share_what_they_have_in_common() {
    let mut model = Model::new(PLAIN);
    let first = model.arrive([vec![7; 8], vec![1]].concat(), None, None);
    let second = model.arrive([vec![7; 8], vec![2, 3]].concat(), None, None);
    let batch = [first, second].map(|id| (id, model.schedule(id, 100).unwrap()));
    assert_eq!(batch, [(first, 9), (second, 2)]);
    model.forward(&batch);
    assert_eq!(model.kv.counts().held, 4, "two in common, and one each");
    // The first one ends; what they share stays.
    model.finish(first);
    model.requests.get_mut(&second).unwrap().tokens.push(5);
    model.run(second);
}

#[test]
fn a_preempted_request_finds_its_own_blocks() {
    let mut model = Model::new(PLAIN);
    let id = model.arrive((0..14).collect(), None, None);
    model.run(id);
    model.preempt(id);
    assert_eq!((model.requests[&id].computed, model.kv.counts().held), (0, 0));
    assert_eq!(model.schedule(id, 100), Some(2), "12 of 14 are in full blocks");
    model.forward(&[(id, 2)]);
}

#[test]
fn a_freed_block_is_in_no_table_and_is_written_by_one() {
    let mut model = Model::new(Setup { cache: Cache::Off, ..PLAIN });
    let first = model.arrive(vec![1; 32], None, None);
    model.run(first);
    let waits = model.arrive(vec![2; 4], None, None);
    assert_eq!(model.schedule(waits, 4), None, "all blocks are held");
    model.finish(first);
    assert!(model.kv.table(first).is_empty());
    model.run(waits);
    let other = model.arrive(vec![3; 28], None, None);
    model.run(other);
    let (a, b) = (model.kv.table(waits), model.kv.table(other));
    assert!(a.iter().all(|block| !b.contains(block)), "{a:?} and {b:?}");
}

#[test]
fn samples_copy_the_block_that_they_write_to_and_no_other() {
    for cache in [Cache::On, Cache::Off] {
        let mut model = Model::new(Setup { cache, ..PLAIN });
        let first = model.arrive((0..10).collect(), None, None);
        model.run(first);
        model.requests.get_mut(&first).unwrap().tokens.push(50);
        let second = model.arrive((0..10).collect(), None, Some((first, 10)));
        // In one batch: the first sample goes on in its block, the second one copies that block before.
        let batch = [first, second].map(|id| (id, model.schedule(id, 1).unwrap()));
        model.forward(&batch);
        let counts = model.kv.counts();
        assert_eq!((counts.copies, counts.held), (1, 4), "two shared, and one each: {cache:?}");
        assert_eq!(model.requests[&second].cached, 9, "all but the last token");
        let (a, b) = (model.kv.table(first), model.kv.table(second));
        assert!(a[..2] == b[..2] && a[2] != b[2], "{a:?} and {b:?}");
    }
}

#[test]
fn tenants_with_other_salts_share_nothing() {
    let mut model = Model::new(PLAIN);
    for (salt, cached) in [(None, 0), (Some("a"), 0), (Some("b"), 0), (Some("a"), 8), (None, 8)] {
        let id = model.arrive(vec![3; 9], salt, None);
        model.run(id);
        assert_eq!(model.requests[&id].cached, cached, "{salt:?}");
        model.finish(id);
    }
}

#[test]
fn swapped_blocks_come_back_as_they_were() {
    let swap = Setup { preemption: Preemption::Swap, swap_blocks: 3, cache: Cache::Off, ..PLAIN };
    let mut model = Model::new(swap);
    let (a, b) = (model.arrive((0..9).collect(), None, None), model.arrive((20..29).collect(), None, None));
    model.run(a);
    model.run(b);
    model.preempt(a);
    assert_eq!(model.requests[&a].computed, 9);
    model.preempt(b);
    assert_eq!(model.requests[&b].computed, 0, "there is no host memory left: it is computed again");
    let other = model.arrive(vec![5; 32], None, None);
    model.run(other); // overwrites the whole pool
    model.finish(other);
    for id in [a, b] {
        model.requests.get_mut(&id).unwrap().tokens.push(99);
        model.run(id);
    }
    let counts = model.kv.counts();
    assert_eq!((counts.swapped_out, counts.swapped_in), (3, 3));
}

#[test]
fn what_is_behind_the_window_is_given_back() {
    let mut model = Model::new(Setup { window: Some(6), blocks: 5, ..PLAIN });
    assert_eq!(model.kv.max_tokens(), usize::MAX, "it never holds more than the window and a chunk");
    let id = model.arrive((0..100).collect(), None, None);
    while model.requests[&id].computed < 100 {
        let n = model.schedule(id, 8).expect("room, however long it gets");
        model.forward(&[(id, n)]);
    }
    assert!(model.kv.counts().held <= 3 && model.kv.table(id)[..20].iter().all(|block| *block == GONE));
}
