//! [`Machine`] for the CUDA backend, and which device a run gets.

use super::{DeviceKind, Machine, MachineReport, MakeMachine, Sums};
use crate::attention::cuda::OnDevice;
use crate::attention::{AttentionKind, KvBudget, KvOptions, KvSwap};
use crate::backend::cuda::{
    Cuda, CudaOptions, CudaTensor, Device, DeviceGroup, DeviceMemory, Gpu, Simulated,
};
use crate::backend::{Backend, Shaped};
use crate::error::{Error, Result};
use crate::model::{Attention, Inputs, Model, Pass, Rank, Share};
use crate::{batch::Batch, tensor::DType, words::field};
use std::sync::Arc;

/// The device that is asked for, `None` for the CPU. If nobody asks, it is a GPU if there is one.
///
/// # Errors
/// If it is not there, with the reason.
pub fn open(asked: Option<DeviceKind>, options: CudaOptions) -> Result<Option<Cuda>> {
    match asked {
        Some(DeviceKind::Cpu) => Ok(None),
        Some(DeviceKind::Sim) => {
            // Nobody waits for speed there: f32, which is compared with Hugging Face's.
            let options = CudaOptions { dtype: options.dtype.or(Some(DType::F32)), ..options };
            Ok(Some(Cuda::with_options(Arc::new(Simulated::default()), options)))
        }
        None if !Gpu::is_there() => Ok(None),
        Some(DeviceKind::Cuda) | None => Ok(Some(Cuda::with_options(Arc::new(Gpu::open(0)?), options))),
    }
}

impl Machine for Cuda {
    fn attention(&self, model: &dyn Model<Cuda>, options: &KvOptions) -> Result<Box<dyn Attention<Cuda>>> {
        if let Some(other) = options.attention.filter(|kind| *kind != AttentionKind::Paged) {
            let device = self.device().name();
            let why = format!("on {} {device} K and V are in blocks; leave the flag out", field("device"));
            return Err(Error::Parameter { field: "attention", value: other.name().into(), why: why.into() });
        }
        let activations = profile(self, model, options)?;
        let (memory, utilization) = (self.device().memory(), self.options().utilization);
        let room = room(memory, utilization, activations);
        if room == 0 {
            let [used, total] =
                [memory.total - memory.free + activations, memory.total].map(|b| b as f64 / 1e9);
            let [may_be, smaller] = ["gpu_memory_utilization", "max_batched_tokens"].map(field);
            let why = format!(
                "there is no memory for K and V: weights, activations and other programs take {used:.3} GB, and {may_be} {utilization} of \
                 {total:.3} GB may be used; give more, or a smaller {smaller}"
            );
            return Err(Error::Limit(why.into()));
        }
        Ok(Box::new(OnDevice::new(self.device(), model.attention_shape(), options, room)?))
    }

    fn for_rank(&self, rank: usize) -> MakeMachine<Cuda> {
        let (options, real) = (self.options(), self.device().name() == DeviceKind::Cuda.name());
        Box::new(move || {
            let device: Arc<dyn Device> =
                if real { Arc::new(Gpu::open(rank)?) } else { Arc::new(Simulated::default()) };
            Ok(Cuda::with_options(device, options))
        })
    }

    fn sums(&self, rank: Rank, share: Share) -> Result<Option<Sums<Cuda>>> {
        let group = self.device().join(rank, share)?;
        let sums = |group: Box<dyn DeviceGroup>| Sums {
            name: "nccl",
            all_reduce: Box::new(move |x: &mut CudaTensor| {
                group.all_reduce(x.address(), x.rows() * x.cols())
            }),
        };
        Ok(group.map(sums))
    }

    fn room(&self) -> u64 {
        room(self.device().memory(), self.options().utilization, 0)
    }

    fn report(&self) -> MachineReport {
        MachineReport {
            device: self.device().name().to_owned(),
            dtype: self.dtype().to_string().to_lowercase(),
            isa: None,
            kernel_launches: Some(self.launches()),
            graph_replays: Some(self.replays()),
        }
    }
}

/// Bytes for K and V: the part of the device that this process may use, less what is in use now (weights, and other processes), less
/// what a forward pass needs that is not allocated yet.
fn room(memory: DeviceMemory, utilization: f64, activations: u64) -> u64 {
    let DeviceMemory { free, total } = memory;
    let budget = (total as f64 * utilization) as u64;
    budget.saturating_sub(total - free).saturating_sub(activations).min(free)
}

/// Goes through the largest step that the options allow, without its launches, so that its activations are allocated. Recorded passes
/// compute in memory of their own; they are smaller, and as much again is left for them. Returns the bytes of that.
fn profile(cuda: &Cuda, model: &dyn Model<Cuda>, options: &KvOptions) -> Result<u64> {
    let shape = model.attention_shape();
    let rows = options.max_chunk.or(options.max_model_len).unwrap_or(shape.context).min(LARGEST_STEP);
    let tiny = KvOptions {
        budget: Some(KvBudget::Tokens(1)),
        block_size: Some(1),
        swap: KvSwap::None,
        max_model_len: None,
        max_num_seqs: Some(1),
        ..options.clone()
    };
    let mut attention = OnDevice::new(cuda.device(), shape, &tiny, u64::MAX)?;
    let mut batch = Batch::default().padded(rows);
    batch.logit_rows.truncate(options.max_num_seqs.unwrap_or(1));
    let [mut tokens, mut positions, mut logit_rows] = [cuda.ids(0)?, cuda.ids(0)?, cuda.ids(0)?];
    cuda.write(&mut tokens, &batch.tokens)?;
    cuda.write(&mut positions, &batch.positions)?;
    cuda.write(&mut logit_rows, &batch.logit_rows)?;
    attention.begin(cuda, &batch)?;
    let inputs = Inputs { tokens, positions, logit_rows };
    let pass = &mut Pass { backend: cuda, inputs: &inputs, attention: &mut attention, observer: None };
    let hidden_states = || cuda.take(rows, model.hidden_size());
    let x = (!model.attention_shape().stage().is_first()).then(hidden_states).transpose()?;
    cuda.dry_run(|| model.forward_stage(pass, x))?;
    Ok(cuda.activation_bytes())
}

/// Rows of such a step at most: a single request computes its prompt in one step, and may never come to its context.
const LARGEST_STEP: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kv_gets_what_is_left_of_the_part_that_may_be_used() {
        let memory = DeviceMemory { free: 70, total: 100 };
        assert_eq!(room(memory, 0.9, 10), 50);
        assert_eq!(room(memory, 1.0, 0), 70);
        assert_eq!(room(memory, 0.3, 0), 0);
        assert_eq!(room(memory, 0.9, 1000), 0);
    }
}
