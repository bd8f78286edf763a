// Solutions of chapter 5's exercises that are wrong. Each contract must say what is the matter: tests/exercises/chapter5.rs.

// 1. Sums over a warp. Lanes move numbers down: the first lane gets the sum, and the others get parts of it.
GLOBAL void first_lane_only(float* y, const float* x) {
  float sum = x[thread_number()];
  for (int down = 16; down > 0; down /= 2) sum += __shfl_down_sync(0xffffffffu, sum, down);
  y[thread_number()] = sum;
}
// Four rounds instead of five.
GLOBAL void half_a_warp(float* y, const float* x) {
  float sum = x[thread_number()];
  for (int flip = 8; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
  y[thread_number()] = sum;
}
// Right, and by way of memory.
GLOBAL void through_memory(float* y, const float* x) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = x[thread_number()];
  __syncthreads();
  float sum = 0.f;
  for (unsigned lane = 0; lane < 32; lane++) sum += numbers[threadIdx.x / 32 * 32 + lane];
  y[thread_number()] = sum;
}
// RMSNorm with the sum of half a warp.
GLOBAL void rms_norm_of_half(float* y, const float* x, const float* weight, unsigned n, float eps) {
  const size_t start = (size_t)blockIdx.x * n;
  if (threadIdx.x >= 32) return;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += 32) squares += x[start + i] * x[start + i];
  for (int flip = 8; flip > 0; flip /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, flip);
  const float scale = 1.f / sqrtf(squares / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += 32) y[start + i] = x[start + i] * scale * weight[i];
}

// 2. Transposes. Without shared memory: a warp reads a row, and writes a column.
GLOBAL void writes_columns(float* y, const float* x, unsigned rows, unsigned cols) {
  const unsigned col = blockIdx.x * 32 + threadIdx.x % 32;
  for (unsigned r = threadIdx.x / 32; r < 32; r += blockDim.x / 32) {
    const unsigned row = blockIdx.y * 32 + r;
    if (row < rows && col < cols) y[(size_t)col * rows + row] = x[(size_t)row * cols + col];
  }
}
// A tile whose columns lie in one bank.
template <unsigned WIDTH, bool BARRIER, bool EDGES>
__device__ void transpose_by_tiles(float* y, const float* x, unsigned rows, unsigned cols) {
  SHARED(float, tile, [32][WIDTH]);
  const unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32, first_row = blockIdx.y * 32, first_col = blockIdx.x * 32;
  for (unsigned r = threadIdx.x / 32; r < 32; r += warps)
    if (first_row + r < rows && first_col + lane < cols) tile[r][lane] = x[(size_t)(first_row + r) * cols + first_col + lane];
  if (BARRIER) __syncthreads();
  if (!EDGES && (first_row + 32 > rows || first_col + 32 > cols)) return;
  for (unsigned c = threadIdx.x / 32; c < 32; c += warps)
    if (first_col + c < cols && first_row + lane < rows) y[(size_t)(first_col + c) * rows + first_row + lane] = tile[lane][c];
}
GLOBAL void one_bank(float* y, const float* x, unsigned rows, unsigned cols) { transpose_by_tiles<32, true, true>(y, x, rows, cols); }
GLOBAL void no_barrier(float* y, const float* x, unsigned rows, unsigned cols) { transpose_by_tiles<33, false, true>(y, x, rows, cols); }
GLOBAL void whole_tiles(float* y, const float* x, unsigned rows, unsigned cols) { transpose_by_tiles<33, true, false>(y, x, rows, cols); }

// 3. Bugs that are not mended. A barrier for a warp, where four warps exchange numbers.
GLOBAL void barrier_of_a_warp(float* y, const float* x) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = x[thread_number()];
  __syncwarp();
  y[thread_number()] = numbers[127 - threadIdx.x];
}
// Inside the bounds, and the last number is left out.
GLOBAL void last_left_out(float* y, const float* x, unsigned n) {
  const size_t i = thread_number();
  if (i + 1 < n) y[i] = x[i + 1] - x[i];
}
// A mask of those that come; their partners are not all among them.
GLOBAL void mask_of_twenty(float* y, const float* x) {
  float sum = threadIdx.x % 32 < 20 ? x[thread_number()] : 0.f;
  if (threadIdx.x % 32 < 20)
    for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xfffffu, sum, flip);
  if (threadIdx.x % 32 == 0) y[thread_number() / 32] = sum;
}

// 4. Walks. What goes wrong: nothing is rescaled; the table is not followed; a key too many; no largest score.
enum Mistake { NoRescale, NoTable, OneTooMany, NoLargest };
template <Mistake MISTAKE>
__device__ void walk(float* out, const float* q, const float* k, const float* v, const unsigned* table, unsigned tokens, unsigned block_size) {
  const unsigned head = blockIdx.x, heads = gridDim.x, d = threadIdx.x;
  float largest = MISTAKE == NoLargest ? 0.f : -INFINITY, total = 0.f, sum = 0.f;
  for (unsigned t = 0; t < tokens + (MISTAKE == OneTooMany); t++) {
    const size_t block = MISTAKE == NoTable ? t / block_size : table[t / block_size];
    const size_t at = ((block * heads + head) * block_size + t % block_size) * 32 + d;
    float score = q[head * 32 + d] * k[at];
    for (int flip = 16; flip > 0; flip /= 2) score += __shfl_xor_sync(0xffffffffu, score, flip);
    const float new_largest = MISTAKE == NoLargest ? 0.f : fmaxf(largest, score);
    const float correction = MISTAKE == NoRescale ? 1.f : expf(largest - new_largest), weight = expf(score - new_largest);
    total = total * correction + weight;
    sum = sum * correction + weight * v[at];
    largest = new_largest;
  }
  out[head * 32 + d] = sum / total;
}
#define WALK(name, MISTAKE)                                                                                                        \
  GLOBAL void name(float* out, const float* q, const float* k, const float* v, const unsigned* table, unsigned tokens,             \
                   unsigned block_size) {                                                                                          \
    walk<MISTAKE>(out, q, k, v, table, tokens, block_size);                                                                        \
  }
WALK(walk_without_rescale, NoRescale)
WALK(walk_without_table, NoTable)
WALK(walk_too_far, OneTooMany)
WALK(walk_without_largest, NoLargest)

// 5. Merges. Parts are added as if they had one largest score; each part counts the same, whatever its weight.
GLOBAL void combine_without_largest(float* out, const float* sums, const float* states, unsigned parts) {
  const float *sum_of = sums + (size_t)blockIdx.x * parts * 32 + threadIdx.x, *state_of = states + (size_t)blockIdx.x * parts * 2;
  float total = 0.f, sum = 0.f;
  for (unsigned p = 0; p < parts; p++) total += state_of[2 * p + 1], sum += sum_of[p * 32];
  out[blockIdx.x * 32 + threadIdx.x] = sum / total;
}
GLOBAL void combine_by_average(float* out, const float* sums, const float* states, unsigned parts) {
  const float *sum_of = sums + (size_t)blockIdx.x * parts * 32 + threadIdx.x, *state_of = states + (size_t)blockIdx.x * parts * 2;
  float sum = 0.f, seen = 0.f;
  for (unsigned p = 0; p < parts; p++)
    if (state_of[2 * p + 1] > 0.f) sum += sum_of[p * 32] / state_of[2 * p + 1], seen += 1.f;
  out[blockIdx.x * 32 + threadIdx.x] = sum / seen;
}
