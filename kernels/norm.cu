// RMSNorm and LayerNorm: a block for each group of numbers that is normalised together. Whoever normalises must first have added up the
// whole group, so this is the smallest kernel in which threads have to meet.
//
//   v0   a tree in shared memory: log2(threads) rounds, a barrier after each. x is read twice.
//   v1   lanes of a warp add up by shuffles, without memory and without barriers; warps meet once. Predicted: 2 barriers instead of 9, and
//        less shared memory; the traffic of global memory stays. Counted: so it is.
//   v2   16 bytes a read, and x stays in registers: it is read once. Predicted: two thirds of the reads, and a quarter of the requests.
//        Counted: so it is. Where it loses: n must be a multiple of 4 and at most 4096, since registers are few; what does not fit, v1 does.
//
// Counts: tests/suite/profile.rs. Nobody has timed them on a GPU yet.
#include "common.cuh"

// ANCHOR: by_warps
// The sum over a block of at most 128 threads, for all of them: by shuffles within warps, and then over the warps in their order.
// `partial` has a place for each warp.
__device__ __forceinline__ float block_sum_by_warps(float* partial, float x) {
  for (int flip = 16; flip > 0; flip /= 2) x += __shfl_xor_sync(0xffffffffu, x, flip);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.f;
  for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += partial[warp];
  __syncthreads();  // before anybody uses `partial` again
  return sum;
}
// ANCHOR_END: by_warps

// ANCHOR: v0
// RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich, arXiv:1910.07467). x, y: [groups, n]; weight: [n].
// grid: groups; block: 32, 64 or 128 threads.
GLOBAL void __launch_bounds__(128) rms_norm_v0(float* y, const float* x, const float* weight, unsigned n, float eps) {
  SHARED(float, partial, [128]);
  const size_t start = (size_t)blockIdx.x * n;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares += x[start + i] * x[start + i];
  const float scale = 1.f / sqrtf(block_sum(partial, squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) y[start + i] = x[start + i] * scale * weight[i];
}
// ANCHOR_END: v0

GLOBAL void __launch_bounds__(128) rms_norm_v1(float* y, const float* x, const float* weight, unsigned n, float eps) {
  SHARED(float, partial, [4]);
  const size_t start = (size_t)blockIdx.x * n;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares += x[start + i] * x[start + i];
  const float scale = 1.f / sqrtf(block_sum_by_warps(partial, squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) y[start + i] = x[start + i] * scale * weight[i];
}

// ANCHOR: v2
// n: a multiple of 4, and at most 32 * blockDim.x.
GLOBAL void __launch_bounds__(128) rms_norm_v2(float* y, const float* x, const float* weight, unsigned n, float eps) {
  SHARED(float, partial, [4]);
  const float4* row = reinterpret_cast<const float4*>(x + (size_t)blockIdx.x * n);
  const float4* weights = reinterpret_cast<const float4*>(weight);
  float4* out = reinterpret_cast<float4*>(y + (size_t)blockIdx.x * n);
  float4 kept[8];
  float squares = 0.f;
#pragma unroll
  for (unsigned k = 0; k < 8; k++) {
    const unsigned i = threadIdx.x + k * blockDim.x;
    if (i >= n / 4) break;
    const float4 v = kept[k] = row[i];
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = 1.f / sqrtf(block_sum_by_warps(partial, squares) / n + eps);
#pragma unroll
  for (unsigned k = 0; k < 8; k++) {
    const unsigned i = threadIdx.x + k * blockDim.x;
    if (i >= n / 4) break;
    const float4 v = kept[k], w = weights[i];
    out[i] = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
  }
}
// ANCHOR_END: v2

// The residual with it: x += add, y = rms_norm(x). The sum is not written, read and read again by kernels of its own.
GLOBAL void __launch_bounds__(128)
add_rms_norm(float* y, float* x, const float* add, const float* weight, unsigned n, float eps) {
  SHARED(float, partial, [4]);
  const size_t start = (size_t)blockIdx.x * n;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
    const float sum = x[start + i] + add[start + i];
    x[start + i] = sum;
    squares += sum * sum;
  }
  const float scale = 1.f / sqrtf(block_sum_by_warps(partial, squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) y[start + i] = x[start + i] * scale * weight[i];
}

// LayerNorm of row `start`, of numbers that this thread has read or written before: y = (x - mean) / sqrt(variance + eps) * weight + bias
// (Ba et al., arXiv:1607.06450). `sum` is this thread's share of the row's sum.
__device__ __forceinline__ void normalise(float* y, const float* x, const float* weight, const float* bias, unsigned n, float eps,
                                          float* partial, size_t start, float sum) {
  const float mean = block_sum_by_warps(partial, sum) / n;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares += (x[start + i] - mean) * (x[start + i] - mean);
  const float scale = 1.f / sqrtf(block_sum_by_warps(partial, squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
}

// x, y: [rows, n]; weight, bias: [n]. grid: rows; block: 32, 64 or 128 threads.
GLOBAL void __launch_bounds__(128)
layer_norm(float* y, const float* x, const float* weight, const float* bias, unsigned n, float eps) {
  SHARED(float, partial, [4]);
  const size_t start = (size_t)blockIdx.x * n;
  float sum = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += x[start + i];
  normalise(y, x, weight, bias, n, eps, partial, start, sum);
}

// The residual with it: x += add, y = layer_norm(x).
GLOBAL void __launch_bounds__(128)
add_layer_norm(float* y, float* x, const float* add, const float* weight, const float* bias, unsigned n, float eps) {
  SHARED(float, partial, [4]);
  const size_t start = (size_t)blockIdx.x * n;
  float sum = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += x[start + i] += add[start + i];
  normalise(y, x, weight, bias, n, eps, partial, start, sum);
}
