// Operations on single numbers: a thread each, and whoever is behind the end does nothing.
#include "common.cuh"

// x += y.
GLOBAL void add(float* x, const float* y, size_t n) {
  const size_t i = thread_number();
  if (i < n) x[i] += y[i];
}

// y = x, rounded to the nearest.
GLOBAL void cast_bf16(bf16* y, const float* x, size_t n) {
  const size_t i = thread_number();
  if (i < n) store(y + i, x[i]);
}
GLOBAL void cast_f16(f16* y, const float* x, size_t n) {
  const size_t i = thread_number();
  if (i < n) store(y + i, x[i]);
}

// x += bias on every row. x: [.., cols].
GLOBAL void add_bias(float* x, const float* bias, unsigned cols, size_t n) {
  const size_t i = thread_number();
  if (i < n) x[i] += bias[i % cols];
}

// gate = silu(gate) * up, silu(x) = x / (1 + e^-x) (Shazeer, arXiv:2002.05202).
GLOBAL void silu_mul(float* gate, const float* up, size_t n) {
  const size_t i = thread_number();
  if (i < n) gate[i] = gate[i] / (1.f + expf(-gate[i])) * up[i];
}

// GELU by tanh (Hendrycks & Gimpel, arXiv:1606.08415).
GLOBAL void gelu(float* x, size_t n) {
  const size_t i = thread_number();
  if (i < n) x[i] = 0.5f * x[i] * (1.f + tanhf(0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

// Rotates every head to its row's position, halves together (rotate-half; Su et al., arXiv:2104.09864).
// x: [rows, heads * head_dim]; positions: [rows]; frequencies: [head_dim / 2]. grid: rows.
GLOBAL void rope(float* x, const unsigned* positions, const float* frequencies, unsigned heads, unsigned head_dim,
                                float scaling) {
  const unsigned half = head_dim / 2;
  for (unsigned i = threadIdx.x; i < heads * half; i += blockDim.x) {
    const unsigned head = i / half, j = i % half;
    const float angle = positions[blockIdx.x] * frequencies[j];
    const float c = cosf(angle) * scaling, s = sinf(angle) * scaling;
    float* first = x + ((size_t)blockIdx.x * heads + head) * head_dim + j;
    const float a = first[0], b = first[half];
    first[0] = a * c - b * s;
    first[half] = b * c + a * s;
  }
}
