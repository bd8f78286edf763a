//! Who is who: ranks, the slices of a stage, and the stages of the pipeline.

use super::{Communicator, check_ranks, stages::check_stages};
use crate::error::{Error, Result};
use crate::{config::ModelConfig, engine::Traffic, model::Rank};
use std::{ops::Range, sync::Arc};

/// Into what a model is cut: each of `pipeline` stages has some layers, and each of its `tensor` ranks a slice of their matrices.
///
/// ```text
///              slice 0   slice 1
/// stage 0      rank 0    rank 1      --tp 2 --pp 2
/// stage 1      rank 2    rank 3
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Ranks of a stage.
    pub tensor: usize,
    /// Stages.
    pub pipeline: usize,
}

impl Topology {
    /// One rank, with everything.
    pub const ALONE: Topology = Topology { tensor: 1, pipeline: 1 };

    /// All ranks.
    pub fn world_size(self) -> usize {
        self.tensor * self.pipeline
    }

    /// The stage of a rank.
    pub fn stage(self, rank: usize) -> usize {
        rank / self.tensor
    }

    /// A rank's place in its stage.
    pub fn slice(self, rank: usize) -> Rank {
        Rank { rank: rank % self.tensor, world_size: self.tensor }
    }

    /// The ranks of a stage.
    pub fn ranks_of(self, stage: usize) -> Range<usize> {
        stage * self.tensor..(stage + 1) * self.tensor
    }

    /// The rank with the same slice in the stage before, and in the one behind.
    pub fn neighbours(self, rank: usize) -> (Option<usize>, Option<usize>) {
        let behind = Some(rank + self.tensor).filter(|behind| *behind < self.world_size());
        (rank.checked_sub(self.tensor), behind)
    }

    /// Checks that a model can be cut so.
    ///
    /// # Errors
    /// [`Error::Usage`], with what would do.
    pub fn check(self, config: &ModelConfig) -> Result<()> {
        check_ranks(config, self.tensor)?;
        check_stages(config, self.pipeline)
    }
}

/// A rank's lines to the others.
#[derive(Clone)]
pub struct Lines {
    pub topology: Topology,
    /// To all ranks.
    pub world: Arc<dyn Communicator>,
    /// To those of its stage.
    pub stage: Arc<dyn Communicator>,
    /// Ranks on this machine, and this one's number among them.
    pub here: usize,
    pub number_here: usize,
}

impl Lines {
    /// Its number among all.
    pub fn rank(&self) -> usize {
        self.world.rank().rank
    }

    /// Tells everybody that this rank can't go on.
    pub fn fail(&self, error: &Error) {
        self.stage.fail(error);
        self.world.fail(error);
    }

    /// What was said on both.
    pub fn traffic(&self) -> Traffic {
        self.world.traffic() + self.stage.traffic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_their_slice_and_their_neighbours() {
        let topology = Topology { tensor: 2, pipeline: 3 };
        let place = |rank| (topology.stage(rank), topology.slice(rank).rank, topology.neighbours(rank));
        assert_eq!(place(0), (0, 0, (None, Some(2))));
        assert_eq!(place(3), (1, 1, (Some(1), Some(5))));
        assert_eq!(place(5), (2, 1, (Some(3), None)));
        assert_eq!((topology.world_size(), topology.ranks_of(1)), (6, 2..4));
    }
}
