//! Step 7: a model cut among ranks gives the tokens of one worker.

use crate::common::{Reference, TOLERANCE, distance, fixture, fixtures, greedy_params, shared};
use stairwell::{
    attention::{AttentionKind, KvOptions},
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    checkpoint::Directory,
    engine::{Continuous, Engine, Limits, RanksReport},
    error::Result,
    parallel::{Leader, Setup, Topology, Workload, check_ranks, in_threads},
    runner::read_config,
};
use std::path::Path;

const TENSOR: [usize; 4] = [1, 2, 3, 4];
const PIPELINE: [usize; 4] = [1, 2, 3, 5];

/// The model in a directory on so many ranks, which are threads.
fn ranks(dir: &Path, topology: Topology, kv: KvOptions, micro_batches: Option<usize>) -> Result<Leader<Cpu>> {
    let setup = Setup { micro_batches, ..Setup::new(Directory::Disk(dir.into()), topology) };
    in_threads(Cpu::default(), &setup, Workload { max_length: None, kv }, None)
}

/// Every way to cut a model among ranks that its heads and layers allow, but for one rank alone.
fn cuts(dir: &Path) -> Vec<Topology> {
    let config = read_config(&Directory::Disk(dir.into())).unwrap();
    let all = TENSOR.into_iter().flat_map(|tensor| PIPELINE.map(|pipeline| Topology { tensor, pipeline }));
    all.filter(|cut| *cut != Topology::ALONE && cut.check(&config).is_ok()).collect()
}

/// What a leader's ranks write after a prompt, greedily, and the leader again.
fn write(leader: Leader<Cpu>, prompt: &[u32], n: usize) -> (Vec<u32>, Leader<Cpu>) {
    let limits = Limits { max_num_seqs: 1, max_batched_tokens: usize::MAX };
    let mut engine = Engine::new(leader, Box::new(Continuous), limits);
    engine.add(prompt.to_vec(), greedy_params(n)).unwrap();
    (engine.run().unwrap().pop().unwrap().output, engine.worker)
}

/// Logits of all rows of a prompt.
fn logits(leader: &mut Leader<Cpu>, prompt: &[u32]) -> Vec<f32> {
    let mut batch = Batch::of(prompt);
    batch.want_all_logits();
    let logits = leader.logits(&batch).unwrap();
    leader.runner.backend.download(&logits).unwrap()
}

/// Generates with `micro_batches` of a pass, compares the ids, and gives what the ranks say of themselves.
fn generated(dir: &Path, want: &Reference, cut: Topology, micro_batches: Option<usize>) -> RanksReport {
    let leader = ranks(dir, cut, KvOptions::default(), micro_batches).unwrap();
    let (ids, mut leader) = write(leader, &want.prompt, want.greedy.len());
    assert_eq!(ids, want.greedy, "{} on {cut:?}", dir.display());
    leader.ranks().unwrap()
}

#[test]
fn every_cut_gives_hugging_faces_ids() {
    let mut seen = Vec::new();
    for name in fixtures() {
        let (dir, want) = (fixture(&name), Reference::of(&name));
        for cut in cuts(&dir).into_iter().filter(|_| !want.greedy.is_empty()) {
            generated(&dir, &want, cut, None);
            seen.push((cut.tensor, cut.pipeline));
        }
    }
    for cut in [(2, 1), (4, 1), (1, 2), (1, 3), (2, 2), (4, 3), (4, 5)] {
        assert!(seen.contains(&cut), "no fixture was cut into {cut:?}");
    }
}

/// Two all_reduces a layer and one for the embedding, of a row of hidden states for each token; the logits are gathered.
#[test]
fn what_ranks_say_to_each_other_is_counted() {
    for (name, micro_batches) in [("qwen2-deep", None), ("qwen2-deep", Some(3)), ("gpt2-deep", Some(2))] {
        let (dir, want) = (fixture(name), Reference::of(name));
        let config = read_config(&Directory::Disk(dir.clone())).unwrap();
        let (steps, prompt) = (want.greedy.len(), want.prompt.len());
        for cut in cuts(&dir) {
            let report = generated(&dir, &want, cut, micro_batches);
            // The prompt's pass may be cut; the others have one row.
            let of_prompt = if cut.pipeline == 1 { 1 } else { micro_batches.unwrap_or(1) };
            let forwards = (steps - 1 + of_prompt) as u64;
            assert_eq!((report.passes, report.micro_batches), (steps as u64, forwards));
            assert_eq!((report.tensor_parallel, report.pipeline_parallel), (cut.tensor, cut.pipeline));
            assert_eq!(report.ranks.len(), cut.world_size());
            for rank in &report.ranks {
                let (first, last) = (rank.layers.start == 0, rank.layers.end == config.num_hidden_layers);
                let each = u64::from(cut.tensor > 1) * (2 * rank.layers.len() as u64 + u64::from(first));
                let row = 4 * config.hidden_size as u64;
                let traffic = rank.traffic;
                assert_eq!(traffic.all_reduces, forwards * each, "{name} {cut:?}, rank {}", rank.rank);
                assert_eq!(traffic.all_reduce_bytes, (prompt + steps - 1) as u64 * each * row);
                let sends_logits = last && cut.pipeline > 1 && rank.slice == 0;
                let sends = if last { u64::from(sends_logits) * steps as u64 } else { forwards };
                assert_eq!(traffic.sends, sends, "{name} {cut:?}, rank {}", rank.rank);
            }
        }
    }
}

/// Each rank holds its part and no more, and all of them together the whole model.
#[test]
fn ranks_hold_their_part_of_the_weights() {
    for name in ["qwen2-deep", "gpt2-deep", "llama2", "qwen3"] {
        let dir = fixture(name);
        let whole = crate::common::load(&dir).weights;
        for cut in cuts(&dir).into_iter().filter(|cut| cut.pipeline <= 2) {
            let mut leader = ranks(&dir, cut, KvOptions::default(), None).unwrap();
            let report = leader.ranks().unwrap();
            let config = &leader.runner.config;
            let held: u64 = report.ranks.iter().map(|rank| rank.weight_bytes).sum();
            // What several ranks have: vectors, positions, heads of K and V where ranks outnumber them; and the table that both ends of a pipeline have.
            let (layers, hidden) = (config.num_hidden_layers, config.hidden_size);
            let heads = usize::from(cut.tensor > config.num_key_value_heads) * config.num_key_value_heads;
            let vectors = 8 * layers * (hidden + config.head_dim) + 4 * hidden;
            let positions = usize::from(name == "gpt2-deep") * config.context() * hidden;
            let kv = 2 * layers * heads * config.head_dim * (hidden + 1);
            let replicated = (4 * cut.tensor * (vectors + positions + kv)) as u64;
            let table = (4 * config.vocab_size * config.hidden_size) as u64;
            let twice = if cut.pipeline > 1 && config.tie_word_embeddings { table } else { 0 };
            assert!((whole.held..=whole.held + replicated + twice).contains(&held), "{name} {cut:?}: {held}");
            for rank in &report.ranks {
                let share = (whole.held + twice) / cut.tensor as u64;
                assert!(rank.weight_bytes <= share + replicated, "{name} {cut:?}: {rank:?}");
                let copies = rank.weight_bytes_copied;
                assert!(
                    copies < rank.weight_bytes && (copies > 0) == (cut.tensor > 1),
                    "{name} {cut:?}: {rank:?}"
                );
            }
        }
    }
}

#[test]
fn logits_are_hugging_faces() {
    for name in fixtures() {
        let (dir, want) = (fixture(&name), Reference::of(&name));
        for cut in cuts(&dir).into_iter().filter(|cut| cut.pipeline <= 2) {
            let setup = Setup { micro_batches: Some(2), ..Setup::new(Directory::Disk(dir.clone()), cut) };
            let workload = Workload { max_length: Some(want.prompt.len()), kv: KvOptions::default() };
            let mut runner = in_threads(Cpu::default(), &setup, workload, None).unwrap();
            let error = distance(&logits(&mut runner, &want.prompt), &want.logits);
            assert!(error <= TOLERANCE, "{name} on {cut:?}: {error:e}");
        }
    }
}

/// Stages work at the same time whatever keeps K and V, and step 1's attention too, whose sequences can't be cut.
#[test]
fn every_attention_runs_on_ranks() {
    let (dir, want) = (fixture("qwen2-deep"), Reference::of("qwen2-deep"));
    for kind in [AttentionKind::Recompute, AttentionKind::Contiguous, AttentionKind::Paged] {
        let kv = KvOptions { attention: Some(kind), ..KvOptions::default() };
        let leader = ranks(&dir, Topology { tensor: 2, pipeline: 2 }, kv, Some(3)).unwrap();
        assert_eq!(write(leader, &want.prompt, want.greedy.len()).0, want.greedy, "{kind:?}");
    }
}

/// Two runs give the same bits: sums are in the order of ranks, whichever comes first.
#[test]
fn bits_do_not_vary_from_run_to_run() {
    let (dir, prompt) = (fixture("qwen2-deep"), Reference::of("qwen2-deep").prompt);
    let run = || {
        let mut runner =
            ranks(&dir, Topology { tensor: 4, pipeline: 2 }, KvOptions::default(), None).unwrap();
        crate::common::bits(&logits(&mut runner, &prompt))
    };
    let first = run();
    for _ in 0..5 {
        assert_eq!(run(), first);
    }
}

/// Checkpoints that we did not make.
#[test]
fn other_checkpoints_agree_too() {
    let Some(root) = shared("check/fixtures") else { return };
    let mut cut_ones = 0;
    let seeds = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    for dir in seeds.flat_map(|seed| std::fs::read_dir(seed).unwrap().map(|entry| entry.unwrap().path())) {
        let expected = std::fs::read(dir.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(expected[key].clone()).unwrap() };
        for cut in cuts(&dir) {
            let leader = ranks(&dir, cut, KvOptions::default(), None).unwrap();
            let (want, prompt) = (ids("greedy_ids"), ids("prompt_ids"));
            assert_eq!(write(leader, &prompt, want.len()).0, want, "{} on {cut:?}", dir.display());
            cut_ones += 1;
        }
    }
    assert!(cut_ones > 30, "{cut_ones}");
}

#[test]
fn a_size_that_does_not_divide_is_refused_with_those_that_do() {
    let mut config = read_config(&Directory::Disk(fixture("llama3"))).unwrap();
    (config.num_attention_heads, config.num_key_value_heads) = (12, 2);
    for ranks in [0, 3, 5, 8, 24] {
        let said = check_ranks(&config, ranks).unwrap_err().to_string();
        let sizes = "the model has 12 query heads on 2 of K and V; give 1, 2, 4, 6, 12";
        assert_eq!(said, format!("--tp {ranks}: each rank takes whole heads, and {sizes}"));
    }
}

/// What is wrong in one rank's part alone is said by name, and nobody waits for ever.
#[test]
fn a_rank_that_cannot_load_is_named() {
    let copy = crate::common::Checkpoint::copy("qwen2-deep");
    copy.edit_header("model-00005-of-00005.safetensors", |header| {
        let name = header.keys().find(|name| name.contains("layers.4")).unwrap().clone();
        header.remove(&name);
    });
    let said = ranks(copy.path(), Topology { tensor: 1, pipeline: 2 }, KvOptions::default(), None);
    let said = said.err().expect("a tensor is missing").to_string();
    assert!(said.starts_with("rank 1 failed: ") && said.contains("layers.4"), "{said}");
}

/// A stage opens no shard that holds only others' tensors.
#[test]
fn a_shard_of_another_stage_is_not_opened() {
    let copy = crate::common::Checkpoint::copy("qwen2-deep");
    let stage = stairwell::model::Stage { layers: 0..1, of: 5 };
    let directory = Directory::Disk(copy.path().into());
    let open = || {
        stairwell::checkpoint::StateDict::open_some(
            &directory,
            stairwell::checkpoint::LoadFormat::Auto,
            |name| stage.holds(name, true),
        )
    };
    let shards = open().unwrap().shards().len();
    assert!(shards < 5, "{shards} shards");
    let read: Vec<String> = open().unwrap().shards().iter().map(|shard| shard.file.clone()).collect();
    for file in (1..=5).map(|i| format!("model-0000{i}-of-00005.safetensors")).filter(|f| !read.contains(f)) {
        copy.remove(&file);
    }
    let names: Vec<String> = open().unwrap().names().map(str::to_owned).collect();
    assert!(names.iter().all(|name| stage.holds(name, true)) && names.len() > 3, "{names:?}");
}

/// The hidden states that a stage gives are those of the whole model, layer by layer.
#[test]
fn a_batch_of_several_sequences_is_cut_anywhere() {
    let dir = fixture("qwen2-deep");
    let want = Reference::of("qwen2-deep");
    let mut batch = Batch::default();
    batch.push(&want.prompt, 0, &[0, 1]);
    batch.push(&want.prompt[..7], 0, &[2, 3]);
    let kv = || KvOptions { max_num_seqs: Some(2), max_model_len: Some(32), ..KvOptions::default() };
    let mut alone = crate::common::load_with(
        Cpu::default(),
        &dir,
        stairwell::runner::LoadOptions { kv: kv(), ..Default::default() },
    )
    .unwrap();
    let of_alone = alone.forward(&batch, None).unwrap();
    let of_alone = alone.backend.download(&of_alone).unwrap();
    for count in [1, 2, 3, 5, 28] {
        let mut runner = ranks(&dir, Topology { tensor: 1, pipeline: 3 }, kv(), Some(count)).unwrap();
        let logits = runner.logits(&batch).unwrap();
        // One rank for each stage: the same sums in the same order.
        assert_eq!(runner.runner.backend.download(&logits).unwrap(), of_alone, "{count} micro-batches");
    }
}
