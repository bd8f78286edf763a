//! Someone's KV manager of step 3 for the engine of step 4, which would let requests share: in this one they share nothing.

use stairwell::kv::{KvManager, KvUsage, Manager, RequestId, Sharing};

/// The manager, as the engine takes it.
pub(super) fn of(manager: impl KvManager + 'static) -> Box<dyn Manager> {
    Box::new(Unshared(manager))
}

struct Unshared<M>(M);

impl<M: KvManager> Sharing for Unshared<M> {}

impl<M: KvManager> KvManager for Unshared<M> {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        self.0.reserve(id, tokens)
    }

    fn table(&self, id: RequestId) -> &[u32] {
        self.0.table(id)
    }

    fn release(&mut self, id: RequestId) {
        self.0.release(id);
    }

    fn max_tokens(&self) -> usize {
        self.0.max_tokens()
    }

    fn usage(&self) -> KvUsage {
        self.0.usage()
    }
}
