//! `cargo test --features step8 --test solution8`: steps/step8-serve/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step8-serve/solution.rs"]
mod solution;
