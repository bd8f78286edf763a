// Answers to exercise.cu.

// 1. The largest of the tile and of all before; nothing is rescaled with -INFINITY - -INFINITY, which is NaN.
__device__ float my_meet(float score, float& largest, float& total, float& correction) {
  float most = score;
  for (int flip = 16; flip > 0; flip /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, flip));
  most = fmaxf(most, largest);
  const float weight = score == -INFINITY ? 0.f : expf(score - most);
  correction = largest == -INFINITY ? 0.f : expf(largest - most);
  float sum = weight;
  for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
  total = total * correction + sum;
  largest = most;
  return weight;
}

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

// 2. Two barriers a tile: one before it is read, one before it is overwritten.
GLOBAL void tile_loop(float* out, const float* q, const float* k, const float* v, unsigned tokens) {
  SHARED(float, keys, [32][32]);
  SHARED(float, values, [32][32]);
  const unsigned lane = threadIdx.x, row = blockIdx.x * 32 + lane;
  float query[32] = {}, sum[32] = {}, largest = -INFINITY, total = 0.f;
  for (unsigned d = 0; d < 32 && row < tokens; d++) query[d] = q[row * 32 + d];
  for (unsigned tile = 0; tile <= blockIdx.x * 32; tile += 32) {
    for (unsigned i = 0; i < 32 && tile + i < tokens; i++) {
      keys[i][lane] = k[(tile + i) * 32 + lane];
      values[i][lane] = v[(tile + i) * 32 + lane];
    }
    __syncthreads();
    for (unsigned i = 0; i < 32 && tile + i <= row && row < tokens; i++) {
      float score = 0.f;
      for (unsigned d = 0; d < 32; d++) score += query[d] * keys[i][d];
      const float most = fmaxf(largest, score), correction = largest == -INFINITY ? 0.f : expf(largest - most), weight = expf(score - most);
      total = total * correction + weight;
      for (unsigned d = 0; d < 32; d++) sum[d] = sum[d] * correction + weight * values[i][d];
      largest = most;
    }
    __syncthreads();
  }
  for (unsigned d = 0; d < 32 && row < tokens; d++) out[row * 32 + d] = sum[d] / total;
}

// 3. XOR with the row: within a row all pieces have other places, and piece p of 8 rows too.
__device__ unsigned my_place(unsigned row, unsigned piece) { return 8 * row + (piece ^ (row % 8)); }

GLOBAL void swizzle(float* y, const float* x) {
  SHARED(float, tile, [64 * 8 * 4]);
  for (unsigned i = threadIdx.x; i < 64 * 8; i += 64)
    *reinterpret_cast<float4*>(tile + 4 * (my_place(i / 8, i % 8) % 512)) = *reinterpret_cast<const float4*>(x + 4 * i);
  __syncthreads();
  for (unsigned piece = 0; piece < 8; piece++)
    *reinterpret_cast<float4*>(y + 4 * (8 * threadIdx.x + piece)) = *reinterpret_cast<const float4*>(tile + 4 * (my_place(threadIdx.x, piece) % 512));
}

GLOBAL void flash_with_my_meet(FLASH_PARAMETERS(float)) { flash_by_meeting(FLASH_ARGUMENTS(float), my_meet); }
