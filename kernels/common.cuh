// What every kernel file needs. nvcc and NVRTC compile these files for a GPU; a host compiler compiles the same files against
// simulator/cuda.h.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#ifdef __CUDACC_RTC__  // NVRTC has no <math.h>
#define INFINITY __int_as_float(0x7f800000)
#endif
// Shared memory is declared by these, since the simulator has to give each block a new one.
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(128) type name[]
// A kernel that a driver finds by its name.
#define GLOBAL extern "C" __global__
#else
#include "simulator/cuda.h"
#endif

typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }

__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(bf16* to, float x) { *to = __float2bfloat16(x); }
__device__ __forceinline__ void store(f16* to, float x) { *to = __float2half(x); }

// Defines a kernel for each dtype that a checkpoint or a cache can have: KERNEL(suffix, type).
#define FOR_EACH_DTYPE(KERNEL) \
  KERNEL(f32, float)           \
  KERNEL(bf16, bf16)           \
  KERNEL(f16, f16)

// The number of this thread in a one-dimensional grid.
__device__ __forceinline__ size_t thread_number() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }

// ANCHOR: block_reduce
// What f makes of the numbers of a block of at most 1024 threads, two by two in a tree, for all of them. `partial` has a place for each thread.
template <class T, class F> __device__ __forceinline__ T block_reduce(T* partial, T x, F f) {
  partial[threadIdx.x] = x;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {  // blockDim.x is a power of two
    if (threadIdx.x < half) partial[threadIdx.x] = f(partial[threadIdx.x], partial[threadIdx.x + half]);
    __syncthreads();
  }
  const T all = partial[0];
  __syncthreads();  // before anybody uses `partial` again
  return all;
}
// ANCHOR_END: block_reduce

// The sum over a block, for all of them.
template <class T> __device__ __forceinline__ T block_sum(T* partial, T x) {
  return block_reduce(partial, x, [](T a, T b) { return a + b; });
}

// Sums over a warp, in a tree; all lanes have it.
__device__ __forceinline__ float warp_sum(float x) {
  for (unsigned flip = 16; flip > 0; flip /= 2) x += __shfl_xor_sync(0xffffffffu, x, flip);
  return x;
}
