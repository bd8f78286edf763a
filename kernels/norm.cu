// RMSNorm and LayerNorm: a block for each group of numbers that is normalised together.
#include "common.cuh"

// y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich, arXiv:1910.07467). x, y: [groups, n]; weight: [n].
// grid: groups; block: a power of two up to 128.
GLOBAL void __launch_bounds__(128) rms_norm(float* y, const float* x, const float* weight, unsigned n, float eps) {
  SHARED(float, partial, [128]);
  const size_t start = (size_t)blockIdx.x * n;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares += x[start + i] * x[start + i];
  const float scale = 1.f / sqrtf(block_sum(partial, squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) y[start + i] = x[start + i] * scale * weight[i];
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias (Ba et al., arXiv:1607.06450). x, y: [rows, n]; weight, bias: [n].
// grid: rows; block: a power of two up to 128.
GLOBAL void __launch_bounds__(128)
layer_norm(float* y, const float* x, const float* weight, const float* bias, unsigned n, float eps) {
  SHARED(float, partial, [128]);
  const size_t start = (size_t)blockIdx.x * n;
  float sum = 0.f, squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += x[start + i];
  const float mean = block_sum(partial, sum) / n;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares += (x[start + i] - mean) * (x[start + i] - mean);
  const float scale = 1.f / sqrtf(block_sum(partial, squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
}
