// Rows of a table, and rows of an activation.
#include "common.cuh"

// y[row] = table[ids[row] - first_row], and zeros for an id outside. table: [table_rows, hidden]; y: [rows, hidden].
// grid: rows; block: any number of threads.
template <class T>
__device__ void embed(float* y, const T* table, const unsigned* ids, unsigned first_row, unsigned table_rows, unsigned hidden) {
  const unsigned id = ids[blockIdx.x] - first_row;  // an id below first_row becomes a large number
  for (unsigned i = threadIdx.x; i < hidden; i += blockDim.x)
    y[(size_t)blockIdx.x * hidden + i] = id < table_rows ? to_float(table[(size_t)id * hidden + i]) : 0.f;
}
#define EMBED(suffix, T)                                                                                              \
  GLOBAL void embed_##suffix(float* y, const T* table, const unsigned* ids, unsigned first_row,        \
                                            unsigned table_rows, unsigned hidden) {                                   \
    embed(y, table, ids, first_row, table_rows, hidden);                                                              \
  }
FOR_EACH_DTYPE(EMBED)

// y[row] = x[ids[row]]. x: [.., cols]; y: [rows, cols]. grid: rows.
GLOBAL void take_rows(float* y, const float* x, const unsigned* ids, unsigned cols) {
  for (unsigned i = threadIdx.x; i < cols; i += blockDim.x)
    y[(size_t)blockIdx.x * cols + i] = x[(size_t)ids[blockIdx.x] * cols + i];
}

// y = x[:, first .. first + y_cols]. x: [rows, x_cols]; y: [rows, y_cols]. grid: rows.
GLOBAL void take_columns(float* y, const float* x, unsigned first, unsigned y_cols, unsigned x_cols) {
  for (unsigned i = threadIdx.x; i < y_cols; i += blockDim.x)
    y[(size_t)blockIdx.x * y_cols + i] = x[(size_t)blockIdx.x * x_cols + first + i];
}
