//! The place of `parallel_args.rs` in builds without step 7.

use clap::Args;
use stairwell::error::Error;

/// There are several ranks from step 7 on.
#[derive(Args)]
pub struct ParallelArgs {}

impl ParallelArgs {
    /// Ranks of the model. Step 4's `--auto` asks.
    #[allow(dead_code)]
    pub fn ranks(&self) -> usize {
        1
    }

    /// As many as there are cores.
    pub fn threads(&self) -> usize {
        0
    }
}

/// Whether it is for this process to say what went wrong: there is no other.
pub fn speaks(_error: &Error) -> bool {
    true
}

/// Ends what ranks have begun together: nothing.
pub fn finish(_well: bool) {}
