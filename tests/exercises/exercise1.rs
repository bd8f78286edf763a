//! `cargo test --test exercise1`: steps/step1-forward/exercise.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step1-forward/exercise.rs"]
mod exercise;
