//! Below step 9 no packed matrix is ever loaded.

use crate::{backend::PartShape, error::Result, packed::Packed};
use std::{ops::Range, sync::Arc};

/// A packed part, whose numbers are computed one row at a time.
pub struct PackedPart {
    packed: Arc<dyn Packed>,
    outputs: Range<usize>,
    inputs: Range<usize>,
}

impl PackedPart {
    pub fn new(packed: Arc<dyn Packed>, outputs: Range<usize>, inputs: Range<usize>) -> Result<PackedPart> {
        Ok(PackedPart { packed, outputs, inputs })
    }

    pub fn shape(&self) -> PartShape {
        PartShape { outputs: self.outputs.len(), inputs: self.inputs.len() }
    }

    /// The numbers of one output.
    pub fn widen(&self, output: usize, numbers: &mut [f32]) {
        self.packed.row(self.outputs.start + output, self.inputs.clone(), numbers);
    }
}
