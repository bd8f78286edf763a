//! Contracts: what every implementation of a trait must do.
//!
//! A contract is a function that is generic over the trait. The book's exercises call it with the reader's own type, our
//! tests with the standard one and with solutions that are wrong. It panics with one message that says which value is wrong,
//! what was expected, and, where it can tell, what the mistake is. The last contract of each exercise puts the piece into the
//! engine and writes the demo story with it.

#[cfg(feature = "step4")]
mod blocks;
#[cfg(feature = "step2")]
pub mod cached;
mod hub;
mod loading;
#[cfg(all(feature = "step3", not(feature = "step4")))]
#[path = "boxed.rs"]
mod manager;
#[cfg(feature = "step4")]
#[path = "unshared.rs"]
mod manager;
#[cfg(feature = "step4")]
mod paged_story;
mod scratch;
pub mod step1;
#[cfg(feature = "step2")]
pub mod step2;
#[cfg(feature = "step3")]
pub mod step3;
#[cfg(feature = "step4")]
pub mod step4;
#[cfg(feature = "step5")]
pub mod step5;
#[cfg(feature = "step5")]
mod step5_attention;
#[cfg(feature = "step6")]
pub mod step6;
#[cfg(feature = "step7")]
pub mod step7;
#[cfg(feature = "serve")]
pub mod step8;
#[cfg(feature = "serve")]
mod step8_queue;
#[cfg(feature = "serve")]
mod step8_server;
#[cfg(feature = "quantized")]
pub mod step9;
#[cfg(feature = "quantized")]
mod step9_demo;
#[cfg(feature = "quantized")]
mod step9_pickle;
#[cfg(feature = "quantized")]
mod step9_update;
pub mod story;

pub use hub::{Resumer, Server, SnapshotFinder, sha256};
pub use loading::{NameMapper, Outcome, TensorReader};

/// The body of an exercise that is not written yet: panics with a sentence that says what to write and where to read.
#[allow(unused_macros)] // of exercises only
macro_rules! stub {
    ($sentence:literal) => {
        panic!(concat!("not written yet: ", $sentence))
    };
}

pub(crate) use stub;

/// Checks values [n] against those of a formula in f64. `suspects` are known mistakes with the values that each would give;
/// the message asks about the one that fits.
#[track_caller]
fn check_values(what: &str, got: &[f32], want: &[f64], suspects: &[(&str, Vec<f64>)]) {
    let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= 1e-5 * (1.0 + want.abs());
    let all_near = |values: &[f64]| got.iter().zip(values).all(|(g, v)| near(*g, *v));
    let Some(at) = got.iter().zip(want).position(|(g, w)| !near(*g, *w)) else { return };
    let suspect = suspects.iter().find(|(_, values)| all_near(values));
    let hint = suspect.map_or(String::new(), |(mistake, _)| format!(": did you {mistake}?"));
    panic!("element {at} of {what} is {}, expected {:.6}{hint}", got[at], want[at]);
}
