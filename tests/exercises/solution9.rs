//! `cargo test --features step9 --test solution9`: steps/step9-quantized/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step9-quantized/solution.rs"]
mod solution;
