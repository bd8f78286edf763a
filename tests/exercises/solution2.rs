//! `cargo test --features step2 --test solution2`: steps/step2-kv-cache/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step2-kv-cache/solution.rs"]
mod solution;
