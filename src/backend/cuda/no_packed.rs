//! Below step 9 no packed matrix is ever loaded.

use super::device::{Address, Device, Launch};
use super::weight::Output;
use crate::backend::PartShape;
use crate::{error::Result, packed::Packed, tensor::DType};
use std::{ops::Range, sync::Arc};

/// A packed matrix in device memory: there is none.
pub enum PackedPart {}

impl PackedPart {
    pub fn load(
        _: &Arc<dyn Device>,
        _: &dyn Packed,
        _: Range<usize>,
        _: Range<usize>,
        _: DType,
    ) -> Result<Option<PackedPart>> {
        Ok(None)
    }

    pub fn shape(&self) -> PartShape {
        match *self {}
    }

    pub fn dtype(&self) -> DType {
        match *self {}
    }

    pub fn launch(&self, _: &Output, _: Address) -> Launch {
        match *self {}
    }
}
