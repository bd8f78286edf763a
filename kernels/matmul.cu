// y = x W^T, with W as the checkpoint stores it.
//
//        idea                                           predicted reads of global memory             where it loses
//   v0   a thread for each number of y                  each number of x and W once for each          -
//                                                       output that it is part of
//   v1   tiles of 32 x 32 in shared memory              1/32 of that: a tile serves 32 rows of y      one row: 31 of 32 rows of a tile are zeros
//   v2   tiles of 64 x 64; a thread has 4 x 4 sums      half of v1's; 8 reads of shared memory for    few rows, and more
//        in registers                                   16 products, where v1 has 5 for 4
//   v3   tensor cores: both operands in 16 bits, tiles  as v2 in half the bytes; no turns lost to     few rows; x must be cast first
//        swizzled, the next ones on their way           banks
//
// On a GPU linear layers are cuBLAS. These are for the simulator (v0: it has no caches and few rows, where tiles gain nothing), for the counters, and
// for whoever asks what cuBLAS does. v3 without its swizzle is there to be counted too. No version has run on a GPU.
//
// y[r, o] = sum over k of x[r, k] * W[o, k]. x: [rows, inputs]; W: [outputs, inputs], or [inputs, outputs] if `transposed`;
// y: [rows, y_cols], whose columns from `first_col` on are written.
#include "ptx.cuh"

// ANCHOR: v0
// grid: (ceil(outputs / block), rows).
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
// ANCHOR_END: v0

// One number of an operand, 0 behind its edge. Neighbouring lanes ask for neighbouring k, or for neighbouring o if `transposed`.
template <class T>
__device__ __forceinline__ float number(const T* from, unsigned row, unsigned rows, unsigned k, unsigned inputs, bool transposed) {
  if (row >= rows || k >= inputs) return 0.f;
  return to_float(from[transposed ? (size_t)k * rows + row : (size_t)row * inputs + k]);
}

// ANCHOR: v1
// grid: (ceil(outputs / 32), ceil(rows / 32)); block: 256.
template <class X, class W>
__device__ void matmul_v1(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs, unsigned transposed, unsigned y_cols,
                          unsigned first_col, unsigned rows) {
  SHARED(float, x_tile, [32][33]);  // a 33rd number in each row: a column has all banks
  SHARED(float, w_tile, [32][33]);
  const unsigned column = threadIdx.x % 32, line = threadIdx.x / 32, row = blockIdx.y * 32, o = blockIdx.x * 32;
  float sums[4] = {};
  for (unsigned k = 0; k < inputs; k += 32) {
    for (unsigned i = line; i < 32; i += 8) {
      x_tile[i][column] = number(x, row + i, rows, k + column, inputs, false);
      if (transposed) w_tile[column][i] = number(w, o + column, outputs, k + i, inputs, true);
      else w_tile[i][column] = number(w, o + i, outputs, k + column, inputs, false);
    }
    __syncthreads();
#pragma unroll 8
    for (unsigned j = 0; j < 32; j++)
      for (unsigned i = 0; i < 4; i++) sums[i] += x_tile[line + 8 * i][j] * w_tile[column][j];
    __syncthreads();  // before the tiles are overwritten
  }
  for (unsigned i = 0; i < 4; i++) {
    const unsigned r = row + line + 8 * i;
    if (r < rows && o + column < outputs) y[(size_t)r * y_cols + first_col + o + column] = sums[i];
  }
}
// ANCHOR_END: v1

// ANCHOR: v2
// grid: (ceil(outputs / 64), ceil(rows / 64)); block: 256, of which each has 4 x 4 numbers of y.
template <class X, class W>
__device__ void matmul_v2(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs, unsigned transposed, unsigned y_cols,
                          unsigned first_col, unsigned rows) {
  SHARED(float, x_tile, [16][68]);  // by k, so that a thread's four rows, and its four outputs, are one read of 16 bytes
  SHARED(float, w_tile, [16][68]);
  const unsigned row = blockIdx.y * 64, o = blockIdx.x * 64, down = threadIdx.x / 16 * 4, across = threadIdx.x % 16 * 4;
  float sums[4][4] = {};
  for (unsigned k = 0; k < inputs; k += 16) {
    for (unsigned i = threadIdx.x; i < 16 * 64; i += 256) {
      x_tile[i % 16][i / 16] = number(x, row + i / 16, rows, k + i % 16, inputs, false);
      if (transposed) w_tile[i / 64][i % 64] = number(w, o + i % 64, outputs, k + i / 64, inputs, true);
      else w_tile[i % 16][i / 16] = number(w, o + i / 16, outputs, k + i % 16, inputs, false);
    }
    __syncthreads();
    for (unsigned j = 0; j < 16; j++) {
      const float4 a = *reinterpret_cast<const float4*>(&x_tile[j][down]), b = *reinterpret_cast<const float4*>(&w_tile[j][across]);
      const float xs[4] = {a.x, a.y, a.z, a.w}, ws[4] = {b.x, b.y, b.z, b.w};
      for (unsigned i = 0; i < 4; i++)
        for (unsigned n = 0; n < 4; n++) sums[i][n] += xs[i] * ws[n];
    }
    __syncthreads();
  }
  for (unsigned i = 0; i < 4; i++)
    for (unsigned n = 0; n < 4; n++)
      if (row + down + i < rows && o + across + n < outputs)
        y[(size_t)(row + down + i) * y_cols + first_col + o + across + n] = sums[i][n];
}
// ANCHOR_END: v2

// v3. A tile of an operand: 64 rows of 64 numbers of 16 bits, 8 pieces of 16 bytes each, which is once through all banks. ldmatrix reads the same
// piece of 8 rows; they would all lie in the same 4 banks. So row r has its piece p at place p XOR r % 8.
// ANCHOR: swizzle
template <bool SWIZZLE> __device__ __forceinline__ unsigned tile_place(unsigned row, unsigned piece) {
  return row * 64 + (SWIZZLE ? piece ^ (row % 8) : piece) * 8;
}
// ANCHOR_END: swizzle

// Begins to bring a tile of an operand: zeros behind its edges.
template <bool SWIZZLE, class T>
__device__ __forceinline__ void bring_operand(T* tile, const T* from, unsigned row, unsigned rows, unsigned k, unsigned inputs) {
  for (unsigned i = threadIdx.x; i < 64 * 8; i += 128) {
    const unsigned r = i / 8, piece = i % 8;
    const bool real = row + r < rows && k + 8 * piece < inputs;
    cp_async(tile + tile_place<SWIZZLE>(r, piece), real ? from + (size_t)(row + r) * inputs + k + 8 * piece : from, real);
  }
}

// ANCHOR: v3
// x and W in 16 bits; inputs: a multiple of 8; W not transposed. grid: (ceil(outputs / 64), ceil(rows / 64)); block: 4 warps, each with 32 x 32
// numbers of y.
template <bool SWIZZLE, class T>
__device__ void matmul_v3(float* y, const T* x, const T* w, unsigned inputs, unsigned outputs, unsigned y_cols, unsigned first_col, unsigned rows) {
  SHARED(T, tiles, [2][2][64 * 64]);  // two stages of x and W
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y * 64, o = blockIdx.x * 64;
  const unsigned down = warp / 2 * 32, across = warp % 2 * 32;
  float c[2][4][4] = {};  // 2 x 4 results of mma, 16 x 8 each
  bring_operand<SWIZZLE>(tiles[0][0], x, row, rows, 0, inputs);
  bring_operand<SWIZZLE>(tiles[0][1], w, o, outputs, 0, inputs);
  cp_async_commit();
  for (unsigned k = 0, stage = 0; k < inputs; k += 64, stage ^= 1) {
    if (k + 64 < inputs) {
      bring_operand<SWIZZLE>(tiles[stage ^ 1][0], x, row, rows, k + 64, inputs);
      bring_operand<SWIZZLE>(tiles[stage ^ 1][1], w, o, outputs, k + 64, inputs);
    }
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const T *x_tile = tiles[stage][0], *w_tile = tiles[stage][1];
    for (unsigned piece = 0; piece < 8; piece += 2) {
      unsigned a[2][4], b[2][4];
      for (unsigned i = 0; i < 2; i++) {
        ldmatrix(a[i], x_tile + tile_place<SWIZZLE>(down + 16 * i + lane % 16, piece + lane / 16));
        ldmatrix(b[i], w_tile + tile_place<SWIZZLE>(across + 16 * i + lane / 16 * 8 + lane % 8, piece + lane / 8 % 2));
      }
      for (unsigned i = 0; i < 2; i++)
        for (unsigned n = 0; n < 4; n++) mma(c[i][n], a[i], {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]}, T());
    }
    __syncthreads();  // before the tiles are overwritten
  }
  for (unsigned i = 0; i < 2; i++)
    for (unsigned n = 0; n < 4; n++)
      for (unsigned h = 0; h < 4; h++) {
        const unsigned r = row + down + 16 * i + lane / 4 + h / 2 * 8, col = o + across + 8 * n + lane % 4 * 2 + h % 2;
        if (r < rows && col < outputs) y[(size_t)r * y_cols + first_col + col] = c[i][n][h];
      }
}
// ANCHOR_END: v3

// f32 activations with weights as stored, and both in one dtype of 16 bits.
#define MATMUL(suffix, X, W)                                                                                                       \
  GLOBAL void matmul_v0_##suffix(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs, unsigned transposed,         \
                                 unsigned y_cols, unsigned first_col) {                                                            \
    matmul_v0(y, x, w, inputs, outputs, transposed, y_cols, first_col);                                                            \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(256, 2) matmul_v1_##suffix(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs,       \
                                                        unsigned transposed, unsigned y_cols, unsigned first_col, unsigned rows) { \
    matmul_v1(y, x, w, inputs, outputs, transposed, y_cols, first_col, rows);                                                      \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(256, 2) matmul_v2_##suffix(float* y, const X* x, const W* w, unsigned inputs, unsigned outputs,       \
                                                        unsigned transposed, unsigned y_cols, unsigned first_col, unsigned rows) { \
    matmul_v2(y, x, w, inputs, outputs, transposed, y_cols, first_col, rows);                                                      \
  }
MATMUL(f32, float, float)
MATMUL(bf16, float, bf16)
MATMUL(f16, float, f16)
MATMUL(bf16_bf16, bf16, bf16)
MATMUL(f16_f16, f16, f16)

#define MATMUL_V3(name, suffix, T, SWIZZLE)                                                                                        \
  GLOBAL void __launch_bounds__(128) name##_##suffix(float* y, const T* x, const T* w, unsigned inputs, unsigned outputs,          \
                                                     unsigned y_cols, unsigned first_col, unsigned rows) {                         \
    matmul_v3<SWIZZLE>(y, x, w, inputs, outputs, y_cols, first_col, rows);                                                         \
  }
MATMUL_V3(matmul_v3, bf16_bf16, bf16, true)
MATMUL_V3(matmul_v3, f16_f16, f16, true)
MATMUL_V3(matmul_v3_unswizzled, bf16_bf16, bf16, false)
