// What both files of attention over prompts share: a block's share of the work, and the softmax between two products on tensor cores.
#pragma once
#include "paged_cache.cuh"

// ANCHOR: share
// row_starts, row_counts: [sequences], rows of q. Of a sequence's rows the first's `positions` and `table_starts` count.
// q, out: [rows, heads * head_dim]; lse: [rows, heads], or null. grid: (tiles of packed rows, kv_heads, sequences).
#define FLASH_PARAMETERS(T) \
  float *out, float *lse, const float *q, CACHE_PARAMETERS(T), const unsigned *row_starts, const unsigned *row_counts, unsigned heads

// What a block works on: packed rows [begin, end) of a sequence, and the keys [first, last] that any of them sees.
struct Share {
  const unsigned* table;
  unsigned kv_head, group, row_start, position, begin, end, first, last;
};
__device__ __forceinline__ unsigned position_of(const Share& share, unsigned packed) { return share.position + packed / share.group; }
// The number of a packed row among [rows, heads].
__device__ __forceinline__ size_t place_of(const Share& share, unsigned packed, unsigned heads) {
  return (size_t)(share.row_start + packed / share.group) * heads + share.kv_head * share.group + packed % share.group;
}
// ANCHOR_END: share

// Longest first: the last tiles of a prompt see most keys, and a GPU begins blocks in their order.
template <class T>
__device__ __forceinline__ Share share_of(const Cache<T>& cache, const unsigned* row_starts, const unsigned* row_counts, unsigned heads,
                                          unsigned rows_of_tile) {
  const unsigned sequence = blockIdx.z, kv_head = blockIdx.y, group = heads / cache.kv_heads, row_start = row_starts[sequence];
  const unsigned begin = (gridDim.x - 1 - blockIdx.x) * rows_of_tile, end = min(begin + rows_of_tile, row_counts[sequence] * group);
  const unsigned position = cache.positions[row_start];
  const unsigned* table = cache.tables + cache.table_starts[row_start];
  if (begin >= end) return {table, kv_head, group, row_start, position, 1, 0, 1, 0};
  return {table, kv_head,
          group, row_start,
          position, begin,
          end, first_seen(position + begin / group, cache.window),
          position + (end - 1) / group};
}

__device__ __forceinline__ unsigned two_of(float a, float b, bf16) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&two);
}
__device__ __forceinline__ unsigned two_of(float a, float b, f16) {
  const __half2 two = __floats2half2_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&two);
}

// One warp's 16 rows of a result, 16 x (8 N): lane has of each 16 x 8 the numbers (lane / 4, lane % 4 * 2), the one after it, and the two 8 rows below.
template <unsigned N> using Result = float[N][4];

// The softmax of a lane's two rows, online: `largest` so far, in powers of two, `total` of this lane's weights.
struct Softmax {
  float largest[2], total[2];
};

// Scores become weights, and what was summed is corrected. `whole`: every row sees every key of the tile.
template <unsigned N, unsigned M, class T>
__device__ __forceinline__ void meet_scores(Result<N>& scores, Result<M>& sums, Softmax& state, const Cache<T>& cache, const Share& share,
                                            unsigned tile, bool whole) {
  const unsigned lane = threadIdx.x % 32;
  const float to_powers = cache.scale * 1.44269504f;  // e^x = 2^(x log2(e))
#pragma unroll
  for (unsigned i = 0; i < 2; i++) {
    const unsigned position = position_of(share, share.begin + threadIdx.x / 32 * 16 + lane / 4 + 8 * i);
    const unsigned first = first_seen(position, cache.window);
    float most = state.largest[i];
#pragma unroll
    for (unsigned n = 0; n < N; n++)
#pragma unroll
      for (unsigned h = 2 * i; h < 2 * i + 2; h++) {
        const unsigned t = tile + 8 * n + lane % 4 * 2 + h % 2;
        scores[n][h] = whole || (first <= t && t <= position) ? scores[n][h] * to_powers : -INFINITY;
        most = fmaxf(most, scores[n][h]);
      }
    for (unsigned flip = 2; flip > 0; flip /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, flip));
    const float from = most == -INFINITY ? 0.f : most;  // nothing seen yet: weights of 0, not of NaN
    const float correction = exp2f(state.largest[i] - from);
    state.largest[i] = most;
    state.total[i] *= correction;
#pragma unroll
    for (unsigned n = 0; n < N; n++)
#pragma unroll
      for (unsigned h = 2 * i; h < 2 * i + 2; h++) {
        scores[n][h] = exp2f(scores[n][h] - from);
        state.total[i] += scores[n][h];
      }
#pragma unroll
    for (unsigned n = 0; n < M; n++) sums[n][2 * i] *= correction, sums[n][2 * i + 1] *= correction;
  }
}

// Writes a lane's two rows.
template <unsigned M>
__device__ __forceinline__ void write_sums(float* out, float* lse, const Result<M>& sums, const Softmax& state, const Share& share, unsigned heads) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned i = 0; i < 2; i++) {
    const unsigned packed = share.begin + threadIdx.x / 32 * 16 + lane / 4 + 8 * i;
    float total = state.total[i];
    for (unsigned flip = 2; flip > 0; flip /= 2) total += __shfl_xor_sync(0xffffffffu, total, flip);
    if (packed >= share.end) continue;
    const size_t at = place_of(share, packed, heads);
#pragma unroll
    for (unsigned n = 0; n < M; n++)
      *reinterpret_cast<float2*>(out + at * 8 * M + 8 * n + lane % 4 * 2) = make_float2(sums[n][2 * i] / total, sums[n][2 * i + 1] / total);
    if (lse && lane % 4 == 0) lse[at] = (state.largest[i] + log2f(total)) * 0.69314718f;
  }
}

#define FLASH_ARGUMENTS(T) out, lse, q, CACHE(T), row_starts, row_counts, heads
