//! `cargo test --features step6 --test solution6`: steps/step6-flash-attention/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step6-flash-attention/solution.rs"]
mod solution;
