// The exercises of chapter 5; the last one is in exercise.rs. Write what says `stub`, mend what is broken, then run
//
//     cargo test --features step5 --test exercise5            all of them
//     cargo test --features step5 --test exercise5 warp_sum   one of them
//
// The simulator compiles this file, and the tests launch its kernels. What the compiler says of it comes as warnings of the build, with the
// line. Answers: solution.cu, beside this file.

// 1. A sum over a warp ---------------------------------------------------------------------------------------------------

// The sum of `x` over the 32 lanes of the warp, for every lane. No shared memory, no barrier.
__device__ float my_warp_sum(float x) {
  return stub("add up the numbers of 32 lanes; read \"Lanes that talk\" in steps/step5-paged-attention/README.md");
}

GLOBAL void warp_sum(float* y, const float* x) {
  const size_t i = thread_number();
  y[i] = my_warp_sum(x[i]);
}

// RMSNorm with your sum, one warp a group: when the sum is written, the engine tells its story with this kernel.
GLOBAL void rms_norm(float* y, const float* x, const float* weight, unsigned n, float eps) {
  const size_t start = (size_t)blockIdx.x * n;
  if (threadIdx.x >= 32) return;
  float squares = 0.f;
  for (unsigned i = threadIdx.x; i < n; i += 32) squares += x[start + i] * x[start + i];
  const float scale = 1.f / sqrtf(my_warp_sum(squares) / n + eps);
  for (unsigned i = threadIdx.x; i < n; i += 32) y[start + i] = x[start + i] * scale * weight[i];
}

// 2. A copy that turns a matrix ------------------------------------------------------------------------------------------

// y = x transposed: y[c, r] = x[r, c]. x: [rows, cols]. grid: (ceil(cols / 32), ceil(rows / 32)); block: 32 x 8 = 256 threads in one
// dimension, of which a warp is 32 in a row. Both the reads and the writes of a warp should touch as few sectors as can be, and no lane
// should wait for a bank.
GLOBAL void transpose(float* y, const float* x, unsigned rows, unsigned cols) {
  stub("turn a tile of 32 x 32 in shared memory; read \"Sectors\" and \"Banks\" in steps/step5-paged-attention/README.md");
}

// 3. Three kernels with one bug each -------------------------------------------------------------------------------------

// Each block of 128 turns its numbers round: y[b, i] = x[b, 127 - i].
GLOBAL void turn_round(float* y, const float* x) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = x[thread_number()];
  y[thread_number()] = numbers[127 - threadIdx.x];
}

// The difference to the next number: y[i] = x[i + 1] - x[i], and y[n - 1] = 0.
GLOBAL void difference(float* y, const float* x, unsigned n) {
  const size_t i = thread_number();
  if (i < n) y[i] = x[i + 1] - x[i];
}

// The sum of the first 20 lanes of each warp, in y[warp]. x: [.., 32].
GLOBAL void sum_of_twenty(float* y, const float* x) {
  float sum = threadIdx.x % 32 < 20 ? x[thread_number()] : 0.f;
  if (threadIdx.x % 32 < 20)
    for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
  if (threadIdx.x % 32 == 0) y[thread_number() / 32] = sum;
}

// 4. A walk through a block table ----------------------------------------------------------------------------------------

// Attention of one token over a paged cache: out = softmax(q K^T) V, for each head. head_dim is 32, a warp has a head, and a lane one number of the
// head. q, out: [heads, 32]; k, v: [blocks, heads, block_size, 32]; token t is in block table[t / block_size]. grid: heads; block: 32.
// Walk once: keep the largest score so far, the total of the weights, and the sum of the weighted V.
GLOBAL void paged_walk(float* out, const float* q, const float* k, const float* v, const unsigned* table, unsigned tokens, unsigned block_size) {
  stub("walk through the block table with an online softmax; read \"Online softmax\" in steps/step5-paged-attention/README.md");
}

// 5. Parts, merged ------------------------------------------------------------------------------------------------------

// What attention over parts of a context has left: the sums of weighted V, not divided by anything, [heads, parts, 32], and for each part its largest
// score and its total weight, [heads, parts, 2]. A part that saw no key has -INFINITY and 0. out: [heads, 32]. grid: heads; block: 32.
GLOBAL void combine(float* out, const float* sums, const float* states, unsigned parts) {
  stub("merge the parts by their largest scores and totals; read \"v3: a part for each block\" in steps/step5-paged-attention/README.md");
}
