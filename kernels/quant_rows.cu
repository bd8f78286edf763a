// y = x W^T for every packed format that quant_matmul.cu has no version for: act-order, 8 bits, int8, floats of 8 bits in other groups, tables,
// numbers beside the codes. (Step 9.)
//
// It is the CPU's layout (src/quant/rows.rs), in which W[o, k] is a code's number times the scale of its group, plus an offset. Scales and offsets are
// f32, so that 4 bits in groups of 128 are 4 + 64/128 = 4.5 bits a weight, each read once for every 4 rows. A warp has an output, and its lanes read
// neighbouring words. Where it loses: x is read for every output, and no tensor core helps. It has not run on a GPU.
//
// x: [rows, inputs], f32; y: [rows, y_cols], whose columns from `first_col` on are written.
#include "common.cuh"

// Rows of codes as src/quant/rows.rs has them: columns are inputs in the order of their groups, and every 32 of them are of one group. A chunk of 64
// columns of 4 bits is eight words: bits 4 j of word l are column 8 j + l. Codes of 8 bits lie side by side.
struct Rows {
  const unsigned* codes;            // [outputs, words]
  const float *scales, *offsets;    // [outputs, groups]; null if there are no offsets; scales of fp8 are 2^120 times as large
  const float* tables;              // [outputs, 16], for codes that choose from a table
  const unsigned *group_of, *gather;  // of each 32 columns; of each column its input, or none (~0), or null if they are the same
  const unsigned *sparse_starts, *sparse_inputs;  // numbers beside the codes, [outputs + 1] and as many as there are; null if there are none
  const float* sparse;
  unsigned inputs, outputs, columns, words, groups;
};
enum Kind { AFFINE4, TABLE, AFFINE8, INT8, FP8 };

// The number that a code stands for; `at`: its output's group.
template <Kind KIND> __device__ __forceinline__ float number_of(const Rows& w, unsigned code, unsigned o, size_t at) {
  if (KIND == TABLE) return w.tables[16 * (size_t)o + code] * w.scales[at];
  if (KIND == INT8) return (float)(signed char)code * w.scales[at];
  if (KIND == FP8) return __uint_as_float((code & 0x7f) << 20 | (code & 0x80) << 24) * w.scales[at];
  return (float)code * w.scales[at] + w.offsets[at];
}

// ANCHOR: rows
// grid: (ceil(outputs / 4), ceil(rows / 4)); block: 4 warps, each with one output.
template <Kind KIND> __device__ void quant_matmul_rows(float* y, const float* x, Rows w, unsigned y_cols, unsigned first_col, unsigned rows) {
  const unsigned lane = threadIdx.x % 32, row = blockIdx.y * 4, o = blockIdx.x * 4 + threadIdx.x / 32;
  if (o >= w.outputs) return;
  float sums[4] = {};  // of four rows
  auto add = [&](unsigned input, float number) {
    for (unsigned r = 0; r < 4; r++)
      if (row + r < rows) sums[r] += x[(size_t)(row + r) * w.inputs + input] * number;
  };
  constexpr bool NIBBLES = KIND == AFFINE4 || KIND == TABLE;
  for (unsigned i = lane; i < w.words; i += 32) {
    const unsigned word = w.codes[(size_t)o * w.words + i];
    for (unsigned j = 0; j < (NIBBLES ? 8 : 4); j++) {
      const unsigned column = NIBBLES ? i / 8 * 64 + 8 * j + i % 8 : 4 * i + j;
      if (column >= w.columns) continue;
      const unsigned input = w.gather ? w.gather[column] : column;
      const unsigned code = NIBBLES ? word >> 4 * j & 15 : word >> 8 * j & 255;
      if (input != ~0u) add(input, number_of<KIND>(w, code, o, (size_t)o * w.groups + w.group_of[column / 32]));
    }
  }
  if (w.sparse_starts)
    for (unsigned i = w.sparse_starts[o] + lane; i < w.sparse_starts[o + 1]; i += 32) add(w.sparse_inputs[i], w.sparse[i]);
  for (unsigned r = 0; r < 4 && row + r < rows; r++) {
    const float sum = warp_sum(sums[r]);
    if (lane == 0) y[(size_t)(row + r) * y_cols + first_col + o] = sum;
  }
}
// ANCHOR_END: rows

#define QUANT_MATMUL_ROWS(suffix, KIND)                                                                                              \
  GLOBAL void __launch_bounds__(128, 8) quant_matmul_rows_##suffix(                                                                    \
      float* y, const float* x, const unsigned* codes, const float* scales, const float* offsets, const float* tables,               \
      const unsigned* group_of, const unsigned* gather, const unsigned* sparse_starts, const unsigned* sparse_inputs,                \
      const float* sparse, unsigned inputs, unsigned outputs, unsigned columns, unsigned words, unsigned groups, unsigned y_cols,    \
      unsigned first_col, unsigned rows) {                                                                                           \
    const Rows w = {codes,  scales, offsets, tables,  group_of, gather, sparse_starts, sparse_inputs,                                \
                    sparse, inputs, outputs, columns, words,    groups};                                                             \
    quant_matmul_rows<KIND>(y, x, w, y_cols, first_col, rows);                                                                       \
  }
QUANT_MATMUL_ROWS(affine4, AFFINE4)
QUANT_MATMUL_ROWS(table, TABLE)
QUANT_MATMUL_ROWS(affine8, AFFINE8)
QUANT_MATMUL_ROWS(int8, INT8)
QUANT_MATMUL_ROWS(fp8, FP8)
