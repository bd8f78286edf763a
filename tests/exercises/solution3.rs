//! `cargo test --features step3 --test solution3`: steps/step3-scheduling/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step3-scheduling/solution.rs"]
mod solution;
