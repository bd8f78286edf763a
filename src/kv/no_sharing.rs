//! Before step 4 requests share nothing, and the engine asks no more of its manager than [`KvManager`] says.

use super::{KvManager, Slots};
use crate::model::KvPool;

/// How memory is shared out: there is nothing to choose yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct ManagerOptions {}

/// The manager of the slots that an attention has reserved, for requests of at most `longest` tokens.
pub fn manager(
    slots: usize,
    _pool: Option<KvPool>,
    longest: usize,
    _options: &ManagerOptions,
) -> Box<dyn KvManager> {
    Box::new(Slots::new(slots, longest))
}
