//! Forward passes that are recorded once and then replayed: CUDA graphs.
//!
//! A decode step of a small model is some hundred short kernels, and to start them takes longer than to run them. A graph starts them
//! all by one call, with the addresses that they had when it was recorded. So what changes from step to step (ids, positions, block
//! tables) must lie in buffers that stay where they are, and activations come from a workspace that only graphs use.
//!
//! The first pass with a key runs twice: once as always, so that the workspace grows, since nothing may be allocated while launches are
//! recorded; then it is recorded and replayed. It may run twice because it writes the same K and V to the same places.

use super::CudaTensor;
use super::device::{Device, Graph};
use crate::error::Result;
use std::collections::HashMap;

/// The recorded passes, by key.
#[derive(Default)]
pub(super) struct Graphs {
    by_key: HashMap<u64, Recorded>,
    /// [`Device::frees`] when they were recorded.
    frees: u64,
}

/// A pass that can be replayed.
struct Recorded {
    graph: Graph,
    /// That it launches.
    kernels: u64,
    output: CudaTensor,
}

impl Graphs {
    /// Replays a pass, which is recorded if it is new. `launched` tells how many kernels were launched so far. Returns its result, and how
    /// many kernels the replay has launched.
    ///
    /// # Errors
    /// Those of the device and of the pass.
    pub fn replay(
        &mut self,
        device: &dyn Device,
        key: u64,
        launched: impl Fn() -> u64,
        forward: &mut dyn FnMut() -> Result<CudaTensor>,
    ) -> Result<(CudaTensor, u64)> {
        if self.frees != device.frees() {
            self.by_key.clear(); // a weight or a table that they read may lie elsewhere now
        }
        if !self.by_key.contains_key(&key) {
            drop(forward()?);
            self.frees = device.frees();
            let before = launched();
            device.begin_capture()?;
            let output = forward();
            let graph = device.end_capture(); // whatever has happened, nothing is recorded any more
            let recorded = Recorded { output: output?, graph: graph?, kernels: launched() - before };
            self.by_key.insert(key, recorded);
        }
        let recorded = &self.by_key[&key];
        (recorded.graph)()?;
        Ok((recorded.output.view(), recorded.kernels))
    }
}
