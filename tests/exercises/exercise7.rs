//! `cargo test --features step7 --test exercise7`: steps/step7-parallel/exercise.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step7-parallel/exercise.rs"]
mod exercise;
