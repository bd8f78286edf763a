//! Packed weights.

use crate::backend::PartShape;
use crate::quant::{
    PackedRows,
    gguf::{Blocks, SUB_BLOCK},
};
use crate::{error::Result, packed::Packed};
use std::{ops::Range, sync::Arc};

/// A packed part: rows of codes, GGUF's blocks, or a matrix whose numbers are computed one row at a time.
pub enum PackedPart {
    Rows(PackedRows),
    /// `inputs` are whole sub-blocks of 32.
    Blocks {
        blocks: Blocks,
        outputs: Range<usize>,
        inputs: Range<usize>,
    },
    Matrix {
        packed: Arc<dyn Packed>,
        outputs: Range<usize>,
        inputs: Range<usize>,
    },
}

impl PackedPart {
    pub fn new(packed: Arc<dyn Packed>, outputs: Range<usize>, inputs: Range<usize>) -> Result<PackedPart> {
        if let Some(blocks) = packed.blocks()
            && [inputs.start, inputs.end].iter().all(|at| at.is_multiple_of(SUB_BLOCK))
        {
            return Ok(PackedPart::Blocks { blocks: blocks.clone(), outputs, inputs });
        }
        Ok(match packed.rows(outputs.clone(), inputs.clone())? {
            Some(rows) => PackedPart::Rows(rows),
            None => PackedPart::Matrix { packed, outputs, inputs },
        })
    }

    pub fn shape(&self) -> PartShape {
        match self {
            PackedPart::Rows(rows) => PartShape { outputs: rows.outputs, inputs: rows.inputs },
            PackedPart::Blocks { outputs, inputs, .. } | PackedPart::Matrix { outputs, inputs, .. } => {
                PartShape { outputs: outputs.len(), inputs: inputs.len() }
            }
        }
    }

    /// The numbers of one output.
    pub fn widen(&self, output: usize, numbers: &mut [f32]) {
        match self {
            PackedPart::Rows(rows) => rows.row(output, numbers),
            PackedPart::Blocks { blocks, outputs, inputs } => {
                blocks.row(outputs.start + output, inputs.clone(), numbers);
            }
            PackedPart::Matrix { packed, outputs, inputs } => {
                packed.row(outputs.start + output, inputs.clone(), numbers);
            }
        }
    }
}
