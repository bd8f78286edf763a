//! Linear layers by cuBLAS.

use super::driver::Failed;
use crate::error::{Error, Result};
use crate::{backend::cuda::device::Matmul, tensor::DType};
use cudarc::cublas::{result, sys};
use cudarc::{driver, driver::CudaStream};
use std::ffi::c_void;

/// Bytes that the library computes in: what NVIDIA recommends for a Hopper ("cublasSetWorkspace()" in cuBLAS's documentation). Memory of
/// its own would have to be allocated while a graph is recorded.
const WORKSPACE: usize = 32 << 20;

/// A handle of the library, bound to a stream.
pub(super) struct Blas {
    handle: sys::cublasHandle_t,
    workspace: driver::sys::CUdeviceptr,
}

// SAFETY: cuBLAS allows a handle on any thread where its context is current, which `Gpu` sees to.
unsafe impl Send for Blas {}
// SAFETY: cuBLAS locks its handles; all calls go to one stream.
unsafe impl Sync for Blas {}

impl Blas {
    /// For a stream.
    ///
    /// # Errors
    /// Without the library, or memory for it.
    pub fn new(stream: &CudaStream) -> Result<Blas> {
        // SAFETY: loads NVIDIA's library, which is made to be loaded.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device(
                "cuBLAS, which computes linear layers on a GPU, was not found (libcublas); install the CUDA toolkit, or `pip install \
                 nvidia-cublas` and name its lib folder in LD_LIBRARY_PATH"
                    .into(),
            ));
        }
        let handle = result::create_handle().map_err(|e| failed("starting", e))?;
        // SAFETY: the stream is one of the current context, as the handle is.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(|e| failed("taking a stream", e))?;
        // SAFETY: the library alone writes to this memory, as long as the handle lives.
        let workspace =
            unsafe { driver::result::malloc_sync(WORKSPACE) }.or_say("allocating cuBLAS's workspace")?;
        // SAFETY: as above.
        let taken = unsafe { sys::cublasSetWorkspace_v2(handle, workspace as *mut c_void, WORKSPACE) };
        taken.result().map_err(|e| failed("taking a workspace", e))?;
        Ok(Blas { handle, workspace })
    }

    /// y = x Wᵀ. cuBLAS counts columns first: what is [rows, outputs] to us is a matrix of `outputs` × `rows` to it, and it computes
    /// yᵀ = W xᵀ.
    ///
    /// # Errors
    /// Those of the library.
    pub fn matmul(&self, m: &Matmul) -> Result<()> {
        let (w_op, w_stride) = match m.transposed {
            false => (sys::cublasOperation_t::CUBLAS_OP_T, m.inputs),
            true => (sys::cublasOperation_t::CUBLAS_OP_N, m.outputs),
        };
        let dtype = match m.dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let pointer = |address: u64| address as *const c_void;
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the addresses hold matrices of these extents: `Matmul` says so. f32 is computed in f32, not in TF32.
        let done = unsafe {
            result::gemm_ex(
                self.handle,
                w_op,
                sys::cublasOperation_t::CUBLAS_OP_N,
                m.outputs as i32,
                m.rows as i32,
                m.inputs as i32,
                (&raw const one).cast(),
                pointer(m.w.0),
                dtype,
                w_stride as i32,
                pointer(m.x.0),
                dtype,
                m.inputs as i32,
                (&raw const zero).cast(),
                m.y.0 as *mut c_void,
                sys::cudaDataType_t::CUDA_R_32F,
                m.y_cols as i32,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|e| failed("a linear layer", e))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: nobody uses the handle any more, nor its workspace.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            let _ = driver::result::free_sync(self.workspace);
        }
    }
}

fn failed(what: &str, error: result::CublasError) -> Error {
    Error::Device(format!("cuBLAS failed in {what}: {:?}", error.0))
}
