//! `cargo test --test solution1`: steps/step1-forward/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step1-forward/solution.rs"]
mod solution;
