//! `cargo test --features step5 --test exercise5`: steps/step5-paged-attention/exercise.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step5-paged-attention/exercise.rs"]
mod exercise;
