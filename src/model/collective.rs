//! Where ranks meet: the identity until step 7.
//!
//! With tensor parallelism a model's matrices are cut among several workers, and at three places their results have to be put
//! together. The model names these places from the start, so step 7 does not touch it.

use crate::{backend::Backend, error::Result};
use std::ops::Range;

/// Which of several workers this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    pub rank: usize,
    pub world_size: usize,
}

impl Rank {
    /// The only worker.
    pub const ALONE: Rank = Rank { rank: 0, world_size: 1 };

    // ANCHOR: part
    /// This rank's part of `n` things. The parts are equal, except that the last ones may be shorter or empty.
    pub fn part(self, n: usize) -> Range<usize> {
        let size = n.div_ceil(self.world_size);
        (self.rank * size).min(n)..((self.rank + 1) * size).min(n)
    }

    /// This rank's part of `n` things of which each rank needs one at least: where ranks outnumber them, several ranks hold the same one.
    pub fn shared_part(self, n: usize) -> Range<usize> {
        if self.world_size <= n {
            return self.part(n);
        }
        let one = self.rank * n / self.world_size;
        one..one + 1
    }
    // ANCHOR_END: part
}

/// Gives what every rank of a group has, in their order, for means that must agree on something before they can be used.
pub type Share<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Vec<Vec<u8>>>;

/// Puts the ranks' results together.
#[allow(clippy::missing_errors_doc)]
pub trait Collective<B: Backend>: Send + Sync {
    /// By what means sums are taken, for stats.
    fn name(&self) -> &'static str {
        "none"
    }

    /// The sum over ranks, after a linear layer whose inputs were cut, and after the embedding.
    fn reduce(&self, _backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        Ok(x)
    }

    /// The ranks' columns side by side, the first `cols` of them, after lm_head.
    fn gather(&self, _backend: &B, x: B::Tensor, _cols: usize) -> Result<B::Tensor> {
        Ok(x)
    }
}

/// One rank: nothing to put together.
pub struct Alone;
impl<B: Backend> Collective<B> for Alone {}
