//! `cargo test --features step4 --test solution4`: steps/step4-paged-kv/solution.rs with its contracts.

#[allow(dead_code, unused_imports)] // each chapter uses a part of it
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
#[path = "../../steps/step4-paged-kv/solution.rs"]
mod solution;
