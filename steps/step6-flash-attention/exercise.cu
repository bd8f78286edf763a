// The exercises of chapter 6. Write what says `stub`, then run
//
//     cargo test --features step6 --test exercise6           all of them
//     cargo test --features step6 --test exercise6 meet      one of them
//
// The simulator compiles this file, and the tests launch its kernels. What the compiler says of it comes as warnings of the build, with the
// line. Answers: solution.cu, beside this file.

// 1. A tile of scores meets a softmax ------------------------------------------------------------------------------------

// A warp has a row of scores, 32 at a time, one a lane. `largest` and `total` are those of all tiles before, the same in every lane: -INFINITY and 0 at
// the beginning. Make them those of this tile too. `correction` becomes what everything that was summed before must be multiplied with; what comes
// back is this lane's weight. A score of -INFINITY is of a key that the row does not see, and a tile can be full of them.
__device__ float my_meet(float score, float& largest, float& total, float& correction) {
  return stub("let a tile of 32 scores meet what was seen before; read \"A tile meets a row\" in steps/step6-flash-attention/README.md");
}

// Softmax over `tiles` tiles of scores, times values. scores: [rows, tiles * 32]; values: [tiles * 32, 32]; out: [rows, 32]. grid: rows; block: 32.
GLOBAL void meet(float* out, const float* scores, const float* values, unsigned tiles) {
  const unsigned lane = threadIdx.x;
  float largest = -INFINITY, total = 0.f, sum = 0.f;
  for (unsigned tile = 0; tile < tiles; tile++) {
    float correction = 1.f;
    const float weight = my_meet(scores[((size_t)blockIdx.x * tiles + tile) * 32 + lane], largest, total, correction);
    sum *= correction;
    for (unsigned i = 0; i < 32; i++) sum += __shfl_sync(0xffffffffu, weight, i) * values[(tile * 32 + i) * 32 + lane];
  }
  out[blockIdx.x * 32 + lane] = sum / total;
}

// 2. The loop over tiles -------------------------------------------------------------------------------------------------

// Causal attention of one head: out[i] = softmax(q[i] k[0..i]^T) v[0..i]. q, k, v, out: [tokens, 32]. grid: ceil(tokens / 32); block: 32 threads, of which each
// has a row of queries. Bring K and V to shared memory in tiles of 32 keys, read each number once, and no tile that no row of the block sees.
GLOBAL void tile_loop(float* out, const float* q, const float* k, const float* v, unsigned tokens) {
  stub("loop over tiles of keys in shared memory; read \"v1: scores stay\" in steps/step6-flash-attention/README.md");
}

// 3. A swizzle -----------------------------------------------------------------------------------------------------------

// Where piece `piece` (0 to 7) of row `row` (0 to 63) lies among the 512 places of 16 bytes of a tile. 8 lanes that write the pieces of a row must meet all
// banks, and 8 lanes that read the same piece of 8 rows too.
__device__ unsigned my_place(unsigned row, unsigned piece) {
  return (unsigned)stub("find each piece a place; read \"Banks, again\" in steps/step6-flash-attention/README.md");
}

// A tile of 64 rows of 8 pieces, written row by row, and read piece by piece as ldmatrix does. y = x: [64, 32]. block: 64.
GLOBAL void swizzle(float* y, const float* x) {
  SHARED(float, tile, [64 * 8 * 4]);
  for (unsigned i = threadIdx.x; i < 64 * 8; i += 64)
    *reinterpret_cast<float4*>(tile + 4 * (my_place(i / 8, i % 8) % 512)) = *reinterpret_cast<const float4*>(x + 4 * i);
  __syncthreads();
  for (unsigned piece = 0; piece < 8; piece++)
    *reinterpret_cast<float4*>(y + 4 * (8 * threadIdx.x + piece)) = *reinterpret_cast<const float4*>(tile + 4 * (my_place(threadIdx.x, piece) % 512));
}

// Attention over prompts with your `my_meet`, in the place of flash_attention_v1_f32: when it is written, the engine tells its story with it.
GLOBAL void flash_with_my_meet(FLASH_PARAMETERS(float)) { flash_by_meeting(FLASH_ARGUMENTS(float), my_meet); }
