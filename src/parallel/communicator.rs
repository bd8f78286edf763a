//! The operations by which ranks exchange data.

use crate::error::{Error, Result};
use crate::{engine::Traffic, model::Rank};

// ANCHOR: communicator
/// A rank's line to the others of its group. All ranks call the same operations in the same order; where they don't, or where one of them is late or gone,
/// every operation ends with an error that names it.
#[allow(clippy::missing_errors_doc)]
pub trait Communicator: Send + Sync {
    /// The name in stats, such as `threads`.
    fn name(&self) -> &'static str;

    /// This rank's number, and the number of ranks.
    fn rank(&self) -> Rank;

    /// x becomes the sum over ranks, added up in their order: every rank gets the same bits, in every run.
    fn all_reduce(&self, x: &mut [f32]) -> Result<()>;

    /// The bytes of every rank, in the order of ranks. Their lengths may differ.
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// `bytes` becomes what rank `root` has there. The others wait without a deadline, as long as the root is alive: work comes when it comes.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// Sends to one rank, and doesn't wait until it has come. Messages from one rank to another come in their order.
    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()>;

    /// Waits for the next message of one rank.
    fn recv(&self, from: usize) -> Result<Vec<u8>>;

    /// Waits until all ranks are here.
    fn barrier(&self) -> Result<()>;

    /// Tells the others that a rank can't go on, and why: they end with that.
    fn fail(&self, error: &Error);

    /// Counts what was said by other means.
    fn count(&self, more: Traffic);

    /// What was said so far.
    fn traffic(&self) -> Traffic;
}
// ANCHOR_END: communicator

/// Another rank of the same group, to speak to.
///
/// # Errors
/// If there is no such rank.
pub fn other(me: Rank, rank: usize) -> Result<usize> {
    if rank < me.world_size && rank != me.rank {
        return Ok(rank);
    }
    let Rank { rank: me, world_size } = me;
    Err(Error::Parallel(format!("rank {me} of {world_size} names rank {rank} as another one")))
}

/// The error of a broadcast from a rank that does not exist.
pub(super) fn no_root(root: usize, me: Rank) -> Error {
    Error::Parallel(format!("broadcast from rank {root}: there are {} ranks", me.world_size))
}

/// Numbers as they are sent.
pub fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Numbers as they came.
pub fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
