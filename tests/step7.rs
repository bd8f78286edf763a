//! Step 7: a model cut among ranks gives the tokens of one worker.

mod common;

use common::{Reference, fixture, fixtures, greedy_params};
use stairwell::{
    backend::cpu::Cpu,
    checkpoint::Directory,
    generate::generate,
    kv::{self, KvOptions},
    parallel::{Communicator, Threads, ThroughHost, Traffic, check_ranks},
    runner::{LoadOptions, ModelRunner, Place, read_config},
};
use std::{ops::ControlFlow, sync::Arc, thread, time::Duration};

/// What each rank generates, and what it said.
fn generated(name: &str, ranks: usize) -> Vec<(Vec<u32>, Traffic)> {
    let reference = Reference::of(name);
    let lines = Threads::group(ranks, Duration::from_secs(60));
    thread::scope(|scope| {
        let run = |line: Threads| {
            let reference = &reference;
            scope.spawn(move || {
                let (rank, line): (_, Arc<dyn Communicator>) = (line.rank(), Arc::new(line));
                let place = Place { rank, collective: Arc::new(ThroughHost(line.clone())) };
                let options = LoadOptions { kv: KvOptions::default(), ..LoadOptions::default() };
                let directory = Directory::Disk(fixture(name));
                let loaded = ModelRunner::load_rank(Cpu::default(), &directory, options, place, kv::build);
                let (mut runner, params) = (loaded.unwrap(), greedy_params(reference.greedy.len()));
                let output =
                    generate(&mut runner, &reference.prompt, &params, &mut |_| ControlFlow::Continue(()));
                (output.unwrap().ids, line.traffic())
            })
        };
        let running: Vec<_> = lines.into_iter().map(run).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn ranks_in_threads_give_hugging_faces_ids() {
    let mut cut = Vec::new();
    for name in fixtures() {
        let config = read_config(&Directory::Disk(fixture(&name))).unwrap();
        let (reference, layers) = (Reference::of(&name), config.num_hidden_layers as u64);
        for ranks in [1, 2, 3, 4].into_iter().filter(|ranks| check_ranks(&config, *ranks).is_ok()) {
            let passes = reference.greedy.len() as u64;
            for (rank, (ids, traffic)) in generated(&name, ranks).into_iter().enumerate() {
                assert_eq!(ids, reference.greedy, "{name}, rank {rank} of {ranks}");
                // Two for each layer, and one for the embedding; the logits are gathered.
                assert_eq!((traffic.all_reduces, traffic.all_gathers), (passes * (2 * layers + 1), passes));
            }
            cut.extend((ranks > 1).then_some(ranks));
        }
    }
    assert!(cut.contains(&2) && cut.contains(&4), "{cut:?}");
}

#[test]
fn a_size_that_does_not_divide_is_refused_with_those_that_do() {
    let mut config = read_config(&Directory::Disk(fixture("llama3"))).unwrap();
    (config.num_attention_heads, config.num_key_value_heads) = (12, 2);
    for ranks in [0, 3, 5, 8, 24] {
        let said = check_ranks(&config, ranks).unwrap_err().to_string();
        let sizes = "the model has 12 query heads on 2 of K and V; take 1, 2, 4, 6, 12";
        assert_eq!(said, format!("{ranks} ranks: each takes whole heads, and {sizes}"));
    }
}
