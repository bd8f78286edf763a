// y = x W^T, with W as the checkpoint stores it.
//
//   v0   one thread for each number of y: reads a row of x and a row of W, both from global memory
//
// On a GPU linear layers are cuBLAS; this one is for the simulator, and the first step of a ladder.
#include "common.cuh"

// y[r, o] = sum over k of x[r, k] * W[o, k]. x: [rows, inputs]; W: [outputs, inputs], or [inputs, outputs] if `transposed`;
// y: [rows, y_cols], whose columns from `first_col` on are written. grid: (ceil(outputs / block), rows).
template <class X, class W>
__device__ void matmul_v0(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs, unsigned transposed, unsigned y_cols,
                          unsigned first_col) {
  const unsigned o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= outputs) return;
  const X* row = x + (size_t)blockIdx.y * inputs;
  const W* weights = w + (transposed ? o : (size_t)o * inputs);
  const size_t step = transposed ? outputs : 1;
  float sum = 0.f;
  for (unsigned k = 0; k < inputs; k++) sum += to_float(row[k]) * to_float(weights[k * step]);
  y[(size_t)blockIdx.y * y_cols + first_col + o] = sum;
}
// f32 activations with weights as stored, and both in one dtype of 16 bits.
#define MATMUL(suffix, X, W)                                                                                             \
  GLOBAL void matmul_v0_##suffix(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs,                    \
                                 unsigned transposed, unsigned y_cols, unsigned first_col) {                             \
    matmul_v0(y, x, w, inputs, outputs, transposed, y_cols, first_col);                                                  \
  }
MATMUL(f32, float, float)
MATMUL(bf16, float, bf16)
MATMUL(f16, float, f16)
MATMUL(bf16_bf16, bf16, bf16)
MATMUL(f16_f16, f16, f16)
