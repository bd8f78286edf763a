//! `cargo test --features step9 --test exercise9`: steps/step9-quantized/exercise.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step9-quantized/exercise.rs"]
mod exercise;
