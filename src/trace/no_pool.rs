//! Before step 4 the KV cache has no blocks to record.

use crate::kv::Manager;
use serde_json::Value;

/// Records nothing.
#[derive(Default)]
pub struct PoolTrace {}

impl PoolTrace {
    /// No events.
    pub fn events(&mut self, _ts: f64, _kv: &dyn Manager) -> Vec<Value> {
        Vec::new()
    }
}
