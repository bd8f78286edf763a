//! A model's collectives by way of host memory: for every backend and every communicator.

use super::{
    Communicator,
    communicator::{bytes, numbers},
};
use crate::{
    backend::{Backend, Shaped},
    error::Result,
    model::Collective,
};
use std::sync::Arc;

/// See the module's documentation.
pub struct ThroughHost(pub Arc<dyn Communicator>);

impl<B: Backend> Collective<B> for ThroughHost {
    fn reduce(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let mut numbers = backend.download(&x)?;
        self.0.all_reduce(&mut numbers)?;
        backend.upload(&numbers, x.rows(), x.cols())
    }

    // ANCHOR: gather
    fn gather(&self, backend: &B, x: B::Tensor, cols: usize) -> Result<B::Tensor> {
        let (rows, parts) = (x.rows(), self.0.all_gather(&bytes(&backend.download(&x)?))?);
        let parts: Vec<Vec<f32>> = parts.iter().map(|part| numbers(part)).collect();
        let mut all = Vec::with_capacity(rows * cols);
        for row in 0..rows {
            for part in &parts {
                let width = part.len() / rows;
                all.extend(&part[row * width..(row + 1) * width]);
            }
            all.truncate((row + 1) * cols); // what the last parts have more is padding
        }
        backend.upload(&all, rows, cols)
    }
    // ANCHOR_END: gather
}
