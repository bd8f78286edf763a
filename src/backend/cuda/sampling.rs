//! Tokens drawn on the device: kernels/sampling.cu.

use super::{Cuda, CudaTensor, Ids, device::Arg, device::Grid};
use crate::backend::{Drawn, Shaped};
use crate::error::Result;
use crate::sampling::{Draw, SamplingError};

/// SAMPLERS in the kernel.
const THREADS: u32 = 256;

/// The kernel's codes for a row without a token.
const NAN_AT: u32 = 1 << 31;
const INFINITE_AT: u32 = 1 << 30;
const NOTHING_LEFT: u32 = u32::MAX;

impl Cuda {
    /// A token for each of the first rows of logits, [rows, vocabulary].
    ///
    /// # Errors
    /// Those of the device; in the list, logits that no token can be drawn from.
    pub fn sample(&self, logits: &CudaTensor, draws: &[Draw]) -> Result<Drawn> {
        let (rows, vocab) = (draws.len(), logits.cols());
        assert!(rows <= logits.rows() && vocab < 1 << 30, "sample");
        let mut kept = self.draws.lock();
        let knobs = match &mut *kept {
            Some(knobs) => knobs,
            none => none.insert(Ids::new(self.device(), 6 * rows)?),
        };
        knobs.write(&draws.iter().flat_map(words).collect::<Vec<_>>())?;
        let (tokens, scratch) = (self.take(1, rows)?, self.take(rows, 2 * vocab)?);
        let pointers = [tokens.address(), logits.address(), knobs.address(), scratch.address()];
        self.launch("sample", Grid::rows(rows, THREADS), &pointers, &[Arg::extent(vocab)])?;
        let mut codes = vec![0u32; rows];
        self.device().download(tokens.address(), bytemuck::cast_slice_mut(&mut codes))?;
        Ok(codes.into_iter().map(token).collect())
    }
}

/// A row of the kernel's `draws`.
fn words(draw: &Draw) -> [u32; 6] {
    let (top_k, u) = (u32::try_from(draw.top_k).unwrap_or(0), draw.u.to_bits());
    let [temperature, top_p, min_p] = [draw.temperature, draw.top_p, draw.min_p].map(f32::to_bits);
    [temperature, top_p, min_p, top_k, u as u32, (u >> 32) as u32]
}

fn token(code: u32) -> Result<u32, SamplingError> {
    match code {
        NOTHING_LEFT => Err(SamplingError::NothingLeft),
        code if code & NAN_AT != 0 => Err(SamplingError::NanLogit { token: (code & !NAN_AT) as usize }),
        code if code & INFINITE_AT != 0 => {
            Err(SamplingError::InfiniteLogit { token: (code & !INFINITE_AT) as usize })
        }
        token => Ok(token),
    }
}
