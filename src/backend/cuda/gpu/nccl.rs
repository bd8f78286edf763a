//! Sums over several GPUs by NCCL, NVIDIA's library for that: they are taken on the devices, by NVLink or PCIe, without the host.
//!
//! cudarc looks for `libnccl.so`; where only `libnccl.so.2` is installed, a link of that name does. Without it sums go by way of the host, and the stats say so.
//! It was run against a library that stands in for it (tests/suite/gpu.rs), and on no GPU so far, let alone on two.

use super::enter;
use crate::backend::cuda::device::{Address, DeviceGroup};
use crate::error::{Error, Result};
use crate::model::{Rank, Share};
use cudarc::driver::CudaStream;
use cudarc::nccl::{result, sys};
use std::{ffi::c_char, ptr, sync::Arc};

/// A rank's part of a group of GPUs.
pub(super) struct Group {
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
}

// SAFETY: NCCL allows one thread at a time; the runner that holds the group has it to itself.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Group {
    /// Meets the other ranks; `None` where the library is not installed.
    ///
    /// # Errors
    /// Those of the library, and of `share`, which gives every rank what the first one has.
    pub fn join(stream: &Arc<CudaStream>, rank: Rank, share: Share) -> Result<Option<Group>> {
        // SAFETY: loads NVIDIA's library, which is made to be loaded.
        let there = unsafe { sys::is_culib_present() };
        // All of them, or none: a machine may lack it.
        if share(&[u8::from(there)])?.iter().any(|there| there[..] != [1]) {
            return Ok(None);
        }
        let mine = match rank.rank {
            0 => {
                let id = result::get_uniqueid().map_err(|e| failed("making an id", e))?;
                id.internal.map(|c| c as u8).to_vec()
            }
            _ => Vec::new(),
        };
        let id = &share(&mine)?[0];
        let mut unique = sys::ncclUniqueId { internal: [0; 128] };
        unique.internal.iter_mut().zip(id).for_each(|(to, from)| *to = *from as c_char);
        enter(stream)?;
        let mut comm = ptr::null_mut();
        let (ranks, number) = (rank.world_size as i32, rank.rank as i32);
        // SAFETY: the context is current, and every rank comes here with the same id.
        unsafe { result::comm_init_rank(&mut comm, ranks, unique, number) }
            .map_err(|e| failed("starting", e))?;
        Ok(Some(Group { comm, stream: stream.clone() }))
    }
}

impl DeviceGroup for Group {
    fn all_reduce(&self, at: Address, numbers: usize) -> Result<()> {
        enter(&self.stream)?;
        let (send, recv) = (at.0 as *const _, at.0 as *mut _);
        let (dtype, sum) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclSum);
        // SAFETY: the address holds so many f32; the stream puts the sum behind what was launched before, and what follows behind it.
        let done = unsafe {
            result::all_reduce(send, recv, numbers, dtype, sum, self.comm, self.stream.cu_stream().cast())
        };
        done.map(drop).map_err(|e| failed("adding up", e))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if enter(&self.stream).is_ok() {
            // SAFETY: made by `join`, and nobody else has it. Others may be gone: nothing is waited for.
            let _ = unsafe { result::comm_abort(self.comm) };
        }
    }
}

fn failed(what: &str, error: result::NcclError) -> Error {
    Error::Device(format!("NCCL failed in {what}: {:?}; NCCL_DEBUG=INFO says more", error.0))
}
