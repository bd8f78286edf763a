//! What ranks say to each other.

use crate::{error::Result, model::Rank};

/// What a rank has done so far: calls, and bytes of its own that it gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub all_reduces: u64,
    pub all_reduce_bytes: u64,
    pub all_gathers: u64,
    pub all_gather_bytes: u64,
    pub broadcasts: u64,
    pub sends: u64,
    pub send_bytes: u64,
}

// ANCHOR: communicator
/// A rank's line to the others. All ranks call the same operations in the same order; where they don't, or where one of them is late or gone, every
/// operation ends with an error that names it.
#[allow(clippy::missing_errors_doc)]
pub trait Communicator: Send + Sync {
    /// The name in stats, such as `threads`.
    fn name(&self) -> &'static str;

    /// Who this is, and among how many.
    fn rank(&self) -> Rank;

    /// x becomes the sum over ranks, added up in their order: every rank gets the same bits, in every run.
    fn all_reduce(&self, x: &mut [f32]) -> Result<()>;

    /// What each rank has, in their order. Their lengths may differ.
    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>>;

    /// `bytes` becomes what rank `root` has there.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// Sends to one rank. Messages from one rank to another come in their order.
    fn send(&self, to: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for the next message of one rank.
    fn recv(&self, from: usize) -> Result<Vec<u8>>;

    /// Waits until all ranks are here.
    fn barrier(&self) -> Result<()>;

    /// Tells the others that this rank can't go on, and why: they end with that.
    fn fail(&self, why: &str);

    /// What was said so far.
    fn traffic(&self) -> Traffic;
}
// ANCHOR_END: communicator
