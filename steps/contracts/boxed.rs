//! Someone's KV manager for the engine of step 3, which asks no more of it.

use stairwell::kv::{KvManager, Manager};

/// The manager, as the engine takes it.
pub(super) fn of(manager: impl KvManager + 'static) -> Box<dyn Manager> {
    Box::new(manager)
}
