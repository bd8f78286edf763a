// Wrong answers to exercise.cu, which the contracts must find.

// 1. Nothing is corrected; the largest of the tile alone; a tile that nobody sees makes NaN.
enum MeetMistake { NoCorrection, OwnLargest, MaskedTile };
template <MeetMistake MISTAKE> __device__ float meet_wrongly(float score, float& largest, float& total, float& correction) {
  float most = score;
  for (int flip = 16; flip > 0; flip /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, flip));
  if (MISTAKE != OwnLargest) most = fmaxf(most, largest);
  const bool careful = MISTAKE != MaskedTile;
  const float weight = careful && score == -INFINITY ? 0.f : expf(score - most);
  correction = MISTAKE != MaskedTile && (MISTAKE == NoCorrection || largest == -INFINITY) ? 1.f : MISTAKE == OwnLargest ? 1.f : expf(largest - most);
  float sum = weight;
  for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
  total = total * correction + sum;
  largest = most;
  return weight;
}
template <MeetMistake MISTAKE> __device__ void meet_of(float* out, const float* scores, const float* values, unsigned tiles) {
  const unsigned lane = threadIdx.x;
  float largest = -INFINITY, total = 0.f, sum = 0.f;
  for (unsigned tile = 0; tile < tiles; tile++) {
    float correction = 1.f;
    const float weight = meet_wrongly<MISTAKE>(scores[((size_t)blockIdx.x * tiles + tile) * 32 + lane], largest, total, correction);
    sum *= correction;
    for (unsigned i = 0; i < 32; i++) sum += __shfl_sync(0xffffffffu, weight, i) * values[(tile * 32 + i) * 32 + lane];
  }
  out[blockIdx.x * 32 + lane] = sum / total;
}
GLOBAL void meet_without_correction(float* out, const float* scores, const float* values, unsigned tiles) {
  meet_of<NoCorrection>(out, scores, values, tiles);
}
GLOBAL void meet_by_tile(float* out, const float* scores, const float* values, unsigned tiles) { meet_of<OwnLargest>(out, scores, values, tiles); }
GLOBAL void meet_masked(float* out, const float* scores, const float* values, unsigned tiles) { meet_of<MaskedTile>(out, scores, values, tiles); }
GLOBAL void flash_without_correction(FLASH_PARAMETERS(float)) { flash_by_meeting(FLASH_ARGUMENTS(float), meet_wrongly<NoCorrection>); }

// 2. No barrier before a tile is overwritten; no mask on the diagonal; tiles that nobody sees; K and V once for each row.
enum LoopMistake { NoBarrier, NoMask, AllTiles, NoTile };
template <LoopMistake MISTAKE> __device__ void loop_wrongly(float* out, const float* q, const float* k, const float* v, unsigned tokens) {
  SHARED(float, keys, [32][32]);
  SHARED(float, values, [32][32]);
  const unsigned lane = threadIdx.x, row = blockIdx.x * 32 + lane, last = MISTAKE == AllTiles ? tokens - 1 : blockIdx.x * 32;
  float query[32] = {}, sum[32] = {}, largest = -INFINITY, total = 0.f;
  for (unsigned d = 0; d < 32 && row < tokens; d++) query[d] = q[row * 32 + d];
  for (unsigned tile = 0; tile <= last; tile += 32) {
    for (unsigned i = 0; i < 32 && tile + i < tokens && MISTAKE != NoTile; i++) {
      keys[i][lane] = k[(tile + i) * 32 + lane];
      values[i][lane] = v[(tile + i) * 32 + lane];
    }
    __syncthreads();
    for (unsigned i = 0; i < 32 && tile + i < tokens && (MISTAKE == NoMask || tile + i <= row) && row < tokens; i++) {
      float score = 0.f;
      for (unsigned d = 0; d < 32; d++) score += query[d] * (MISTAKE == NoTile ? k[(tile + i) * 32 + d] : keys[i][d]);
      const float most = fmaxf(largest, score), correction = expf(largest - most), weight = expf(score - most);
      total = total * correction + weight;
      for (unsigned d = 0; d < 32; d++) sum[d] = sum[d] * correction + weight * (MISTAKE == NoTile ? v[(tile + i) * 32 + d] : values[i][d]);
      largest = most;
    }
    if (MISTAKE != NoBarrier) __syncthreads();
  }
  for (unsigned d = 0; d < 32 && row < tokens; d++) out[row * 32 + d] = sum[d] / total;
}
#define LOOP(name, MISTAKE) \
  GLOBAL void name(float* out, const float* q, const float* k, const float* v, unsigned tokens) { loop_wrongly<MISTAKE>(out, q, k, v, tokens); }
LOOP(loop_without_barrier, NoBarrier)
LOOP(loop_without_mask, NoMask)
LOOP(loop_over_all_tiles, AllTiles)
LOOP(loop_without_tiles, NoTile)

// 3. As they come; with half of the row; two pieces in one place.
template <class F> __device__ void swizzle_by(float* y, const float* x, F place) {
  SHARED(float, tile, [64 * 8 * 4]);
  for (unsigned i = threadIdx.x; i < 64 * 8; i += 64)
    *reinterpret_cast<float4*>(tile + 4 * (place(i / 8, i % 8) % 512)) = *reinterpret_cast<const float4*>(x + 4 * i);
  __syncthreads();
  for (unsigned piece = 0; piece < 8; piece++)
    *reinterpret_cast<float4*>(y + 4 * (8 * threadIdx.x + piece)) = *reinterpret_cast<const float4*>(tile + 4 * (place(threadIdx.x, piece) % 512));
}
GLOBAL void unswizzled(float* y, const float* x) {
  swizzle_by(y, x, [](unsigned row, unsigned piece) { return 8 * row + piece; });
}
GLOBAL void half_swizzled(float* y, const float* x) {
  swizzle_by(y, x, [](unsigned row, unsigned piece) { return 8 * row + (piece ^ (row % 4)); });
}
GLOBAL void shared_place(float* y, const float* x) {
  swizzle_by(y, x, [](unsigned row, unsigned piece) { return 8 * row + (piece & (row % 8)); });
}
