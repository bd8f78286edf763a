//! A model's collectives: by way of host memory, for every backend and every communicator; sums where the numbers are, if the machine can.

use super::Communicator;
use super::communicator::{bytes, numbers};
use crate::backend::{Backend, Shaped};
use crate::machine::{Machine, Sums};
use crate::model::{Collective, Rank};
use crate::{engine::Traffic, error::Result};
use std::sync::Arc;

/// See the module's documentation.
pub struct ThroughHost<B: Backend> {
    line: Arc<dyn Communicator>,
    /// The machine's own means for sums.
    sums: Option<Sums<B>>,
}

impl<B: Machine> ThroughHost<B> {
    /// For a rank's machine, and its line to the ranks that have the other slices.
    ///
    /// # Errors
    /// Those of the machine's own means.
    pub fn new(machine: &B, line: Arc<dyn Communicator>) -> Result<ThroughHost<B>> {
        let sums = match line.rank() {
            Rank::ALONE => None,
            rank => machine.sums(rank, &mut |mine| line.all_gather(mine))?,
        };
        Ok(ThroughHost { line, sums })
    }
}

impl<B: Backend> Collective<B> for ThroughHost<B> {
    fn name(&self) -> &'static str {
        self.sums.as_ref().map_or("host", |sums| sums.name)
    }

    // ANCHOR: reduce
    fn reduce(&self, backend: &B, mut x: B::Tensor) -> Result<B::Tensor> {
        if self.line.rank() == Rank::ALONE {
            return Ok(x);
        }
        if let Some(sums) = &self.sums {
            (sums.all_reduce)(&mut x)?;
            self.line.count(Traffic::all_reduce(size_of::<f32>() * x.rows() * x.cols()));
            return Ok(x);
        }
        let mut numbers = backend.download(&x)?;
        self.line.all_reduce(&mut numbers)?;
        backend.upload(&numbers, x.rows(), x.cols())
    }
    // ANCHOR_END: reduce

    // ANCHOR: gather
    fn gather(&self, backend: &B, x: B::Tensor, cols: usize) -> Result<B::Tensor> {
        if self.line.rank() == Rank::ALONE {
            return Ok(x);
        }
        let (rows, parts) = (x.rows(), self.line.all_gather(&bytes(&backend.download(&x)?))?);
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
