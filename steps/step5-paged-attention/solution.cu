// Answers to the exercises of chapter 5 in CUDA.

// 1. Every lane adds what the lane has whose number differs in one bit, bit by bit: after five rounds all have all.
__device__ float my_warp_sum(float x) {
  for (int flip = 16; flip > 0; flip /= 2) x += __shfl_xor_sync(0xffffffffu, x, flip);
  return x;
}

GLOBAL void warp_sum(float* y, const float* x) {
  const size_t i = thread_number();
  y[i] = my_warp_sum(x[i]);
}

GLOBAL void rms_norm(float* y, const float* x, const float* weight, unsigned n, float eps) {
  const size_t start = (size_t)blockIdx.x * n;
  if (threadIdx.x >= 32) return;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += 32) squares += x[start + i] * x[start + i];
  const float scale = 1.f / sqrtf(my_warp_sum(squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += 32) y[start + i] = x[start + i] * scale * weight[i];
}

// 2. A warp reads a row of the tile, and writes a row of the turned one. In between it reads a column of shared memory: with rows of 33 numbers
// the 32 numbers of a column lie in 32 banks.
GLOBAL void transpose(float* y, const float* x, unsigned rows, unsigned cols) {
  SHARED(float, tile, [32][33]);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const unsigned first_row = blockIdx.y * 32, first_col = blockIdx.x * 32;
  for (unsigned r = warp; r < 32; r += warps)
    if (first_row + r < rows && first_col + lane < cols) tile[r][lane] = x[(size_t)(first_row + r) * cols + first_col + lane];
  __syncthreads();
  for (unsigned c = warp; c < 32; c += warps)
    if (first_col + c < cols && first_row + lane < rows) y[(size_t)(first_col + c) * rows + first_row + lane] = tile[lane][c];
}

// 3. A barrier between the write and the read of another thread's number.
GLOBAL void turn_round(float* y, const float* x) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = x[thread_number()];
  __syncthreads();
  y[thread_number()] = numbers[127 - threadIdx.x];
}

// The last one has no next one.
GLOBAL void difference(float* y, const float* x, unsigned n) {
  const size_t i = thread_number();
  if (i < n) y[i] = i + 1 < n ? x[i + 1] - x[i] : 0.f;
}

// All lanes that the mask names come to the shuffle.
GLOBAL void sum_of_twenty(float* y, const float* x) {
  float sum = threadIdx.x % 32 < 20 ? x[thread_number()] : 0.f;
  for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
  if (threadIdx.x % 32 == 0) y[thread_number() / 32] = sum;
}

// 4. When a larger score comes, everything so far is worth less: it is multiplied with e^(largest so far - new largest).
GLOBAL void paged_walk(float* out, const float* q, const float* k, const float* v, const unsigned* table, unsigned tokens, unsigned block_size) {
  const unsigned head = blockIdx.x, heads = gridDim.x, d = threadIdx.x;
  float largest = -INFINITY, total = 0.f, sum = 0.f;
  for (unsigned t = 0; t < tokens; t++) {
    const size_t at = (((size_t)table[t / block_size] * heads + head) * block_size + t % block_size) * 32 + d;
    const float score = my_warp_sum(q[head * 32 + d] * k[at]), new_largest = fmaxf(largest, score);
    const float correction = expf(largest - new_largest), weight = expf(score - new_largest);
    total = total * correction + weight;
    sum = sum * correction + weight * v[at];
    largest = new_largest;
  }
  out[head * 32 + d] = sum / total;
}

// 5. The same rule, part by part: each is scaled from its own largest score to the largest of all.
GLOBAL void combine(float* out, const float* sums, const float* states, unsigned parts) {
  const float *sum_of = sums + (size_t)blockIdx.x * parts * 32 + threadIdx.x, *state_of = states + (size_t)blockIdx.x * parts * 2;
  float largest = -INFINITY, total = 0.f, sum = 0.f;
  for (unsigned p = 0; p < parts; p++) largest = fmaxf(largest, state_of[2 * p]);
  for (unsigned p = 0; p < parts; p++) {
    const float share = expf(state_of[2 * p] - largest);  // 0 for a part that saw nothing
    total += share * state_of[2 * p + 1];
    sum += share * sum_of[p * 32];
  }
  out[blockIdx.x * 32 + threadIdx.x] = sum / total;
}
