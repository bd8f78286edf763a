//! The book's exercises are honest (here those of chapter 1): a stub fails with its sentence, a solution passes, and each wrong solution fails by the
//! contract that the chapter names, with a message that names the mistake.
//!
//! It has no harness, so the `#[test]`s of the files that it includes are not compiled. `scripts/check_exercises.sh` runs
//! those, as a reader does. `cargo test --test exercises -- --nocapture` shows what each contract said.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step1-forward"]
mod step1_forward {
    pub mod exercise;
    pub mod solution;
    pub mod wrong_kv_head;
    pub mod wrong_name_mapper;
    pub mod wrong_resumer;
    pub mod wrong_rms_norm;
    pub mod wrong_rotate_half;
    pub mod wrong_snapshot_finder;
    pub mod wrong_tensor_reader;
}

use crate::contracts::step1;
use crate::rig::{self, Case, KEPT};
use step1_forward::{
    exercise as stub, solution, wrong_kv_head as kv_head, wrong_name_mapper as name_mapper,
    wrong_resumer as resumer, wrong_rms_norm as rms_norm, wrong_rotate_half as rotate_half,
    wrong_snapshot_finder as snapshot_finder, wrong_tensor_reader as tensor_reader,
};

const STUBS: &[Case] = &[
    (
        "rms_norm",
        || step1::rms_norm(&stub::MyRmsNorm),
        Some("not written yet: write x / √(mean(x²) + eps) · weight"),
    ),
    (
        "rms_norm's story",
        || step1::tells_the_demo_story(stub::MyRmsNorm),
        Some("not written yet: write x / √"),
    ),
    ("rotate_half", || step1::rotate_half(&stub::MyRotateHalf), Some("not written yet: turn each pair")),
    (
        "rotate_half's story",
        || step1::tells_the_demo_story(stub::MyRotateHalf),
        Some("not written yet: turn each"),
    ),
    ("kv_head", || step1::kv_head(&stub::MyKvHead), Some("not written yet: return the head of K and V")),
    (
        "kv_head's story",
        || step1::tells_the_demo_story(stub::MyKvHead),
        Some("not written yet: return the head"),
    ),
    (
        "tensor_reader",
        || step1::tensor_reader(&stub::MyTensorReader),
        Some("not written yet: find the shard"),
    ),
    (
        "tensor_reader's story",
        || step1::tensor_reader_tells_the_story(&stub::MyTensorReader),
        Some("not written yet: find the shard"),
    ),
    (
        "name_mapper",
        || step1::name_mapper(&stub::MyNameMapper),
        Some("not written yet: apply the four rules"),
    ),
    (
        "name_mapper's story",
        || step1::name_mapper_tells_the_story(&stub::MyNameMapper),
        Some("not written yet: apply the four rules"),
    ),
    (
        "snapshot_finder",
        || step1::snapshot_finder(&stub::MySnapshotFinder),
        Some("not written yet: ask refs/ for the commit"),
    ),
    (
        "snapshot_finder's story",
        || step1::snapshot_finder_tells_the_story(&stub::MySnapshotFinder),
        Some("not written yet: ask refs/ for the commit"),
    ),
    (
        "resumer",
        || step1::resumer(&stub::MyResumer),
        Some("not written yet: ask for the bytes that are missing"),
    ),
    (
        "resumer's story",
        || step1::resumer_tells_the_story(&stub::MyResumer),
        Some("not written yet: ask for the bytes that are missing"),
    ),
];

const SOLUTIONS: &[Case] = &[
    ("rms_norm", || step1::rms_norm(&solution::MyRmsNorm), KEPT),
    ("rms_norm's story", || step1::tells_the_demo_story(solution::MyRmsNorm), KEPT),
    ("rotate_half", || step1::rotate_half(&solution::MyRotateHalf), KEPT),
    ("rotate_half's story", || step1::tells_the_demo_story(solution::MyRotateHalf), KEPT),
    ("kv_head", || step1::kv_head(&solution::MyKvHead), KEPT),
    ("kv_head's story", || step1::tells_the_demo_story(solution::MyKvHead), KEPT),
    ("tensor_reader", || step1::tensor_reader(&solution::MyTensorReader), KEPT),
    ("tensor_reader's story", || step1::tensor_reader_tells_the_story(&solution::MyTensorReader), KEPT),
    ("name_mapper", || step1::name_mapper(&solution::MyNameMapper), KEPT),
    ("name_mapper's story", || step1::name_mapper_tells_the_story(&solution::MyNameMapper), KEPT),
    ("snapshot_finder", || step1::snapshot_finder(&solution::MySnapshotFinder), KEPT),
    ("snapshot_finder's story", || step1::snapshot_finder_tells_the_story(&solution::MySnapshotFinder), KEPT),
    ("resumer", || step1::resumer(&solution::MyResumer), KEPT),
    ("resumer's story", || step1::resumer_tells_the_story(&solution::MyResumer), KEPT),
];

const WRONG: &[Case] = &[
    ("WithoutEps", || step1::rms_norm(&rms_norm::WithoutEps), Some("did you leave out ε?")),
    (
        "EpsOutsideTheRoot",
        || step1::rms_norm(&rms_norm::EpsOutsideTheRoot),
        Some("did you add ε outside the root"),
    ),
    (
        "MeanSubtracted",
        || step1::rms_norm(&rms_norm::MeanSubtracted),
        Some("did you subtract the mean, as LayerNorm"),
    ),
    (
        "Interleaved",
        || step1::rotate_half(&rotate_half::Interleaved),
        Some("did you pair neighbours (2i, 2i + 1)"),
    ),
    (
        "Interleaved's story",
        || step1::tells_the_demo_story(rotate_half::Interleaved),
        Some("story differs at token"),
    ),
    (
        "OverwritesTheFirstHalf",
        || step1::rotate_half(&rotate_half::OverwritesTheFirstHalf),
        Some("did you overwrite x[i] before"),
    ),
    (
        "TurnedBackwards",
        || step1::rotate_half(&rotate_half::TurnedBackwards),
        Some("did you turn the wrong way"),
    ),
    (
        "HeadModuloKvHeads",
        || step1::kv_head(&kv_head::HeadModuloKvHeads),
        Some("did you take head % kv_heads?"),
    ),
    (
        "HeadModuloKvHeads' story",
        || step1::tells_the_demo_story(kv_head::HeadModuloKvHeads),
        Some("story differs at token"),
    ),
    ("OneForAll", || step1::kv_head(&kv_head::OneForAll), Some("query head 2 reads KV head 0, expected 1")),
    (
        "WithoutHeader",
        || step1::tensor_reader(&tensor_reader::WithoutHeader),
        Some("you counted data_offsets from the file's start"),
    ),
    (
        "ForgetsTheLength",
        || step1::tensor_reader(&tensor_reader::ForgetsTheLength),
        Some("you counted data_offsets from the header's length"),
    ),
    (
        "IgnoresTheIndex",
        || step1::tensor_reader(&tensor_reader::IgnoresTheIndex),
        Some("did you ask the index which shard holds 'layers.1.b'?"),
    ),
    (
        "WithoutHeader's story",
        || step1::tensor_reader_tells_the_story(&tensor_reader::WithoutHeader),
        Some("the demo story"),
    ),
    (
        "ReplacesAnywhere",
        || step1::name_mapper(&name_mapper::ReplacesAnywhere),
        Some("only the leading 'module.' goes"),
    ),
    (
        "DropsBeforeUnwrapping",
        || step1::name_mapper(&name_mapper::DropsBeforeUnwrapping),
        Some("the wrappers go first"),
    ),
    (
        "DropsBeforeUnwrapping's story",
        || step1::name_mapper_tells_the_story(&name_mapper::DropsBeforeUnwrapping),
        Some("v_head.summary.weight"),
    ),
    (
        "BranchIsTheFolder",
        || step1::snapshot_finder(&snapshot_finder::BranchIsTheFolder),
        Some("refs/main says which commit the branch was"),
    ),
    (
        "AnySnapshot",
        || step1::snapshot_finder(&snapshot_finder::AnySnapshot),
        Some("refs/main says which commit the branch was"),
    ),
    (
        "BelievesTheReference",
        || step1::snapshot_finder(&snapshot_finder::BelievesTheReference),
        Some("names a commit whose snapshot is not there"),
    ),
    (
        "AppendsWhatComes",
        || step1::resumer(&resumer::AppendsWhatComes),
        Some("did you append bytes without asking where they begin"),
    ),
    (
        "AppendsWhatComes' story",
        || step1::resumer_tells_the_story(&resumer::AppendsWhatComes),
        Some("the shards that you fetched"),
    ),
    (
        "BeginsAnew",
        || step1::resumer(&resumer::BeginsAnew),
        Some("you asked for bytes from [0], expected [400]"),
    ),
    ("TrustsTheServer", || step1::resumer(&resumer::TrustsTheServer), Some("what was there was damaged")),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step1-forward/exercise.rs"))
}
