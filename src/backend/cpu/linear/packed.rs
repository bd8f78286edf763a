//! Packed weights.

use crate::backend::PartShape;
use crate::{error::Result, packed::Packed, quant::PackedRows};
use std::{ops::Range, sync::Arc};

/// A packed part: rows of codes, or a matrix whose numbers are computed one row at a time.
pub enum PackedPart {
    Rows(PackedRows),
    Matrix { packed: Arc<dyn Packed>, outputs: Range<usize>, inputs: Range<usize> },
}

impl PackedPart {
    pub fn new(packed: Arc<dyn Packed>, outputs: Range<usize>, inputs: Range<usize>) -> Result<PackedPart> {
        Ok(match packed.rows(outputs.clone(), inputs.clone())? {
            Some(rows) => PackedPart::Rows(rows),
            None => PackedPart::Matrix { packed, outputs, inputs },
        })
    }

    pub fn shape(&self) -> PartShape {
        match self {
            PackedPart::Rows(rows) => PartShape { outputs: rows.outputs, inputs: rows.inputs },
            PackedPart::Matrix { outputs, inputs, .. } => {
                PartShape { outputs: outputs.len(), inputs: inputs.len() }
            }
        }
    }

    /// The numbers of one output.
    pub fn widen(&self, output: usize, numbers: &mut [f32]) {
        match self {
            PackedPart::Rows(rows) => rows.row(output, numbers),
            PackedPart::Matrix { packed, outputs, inputs } => {
                packed.row(outputs.start + output, inputs.clone(), numbers);
            }
        }
    }
}
