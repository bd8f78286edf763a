// Attention over a paged cache: softmax(q K^T * scale) V for each row and head, with K and V in blocks that a table names.
//
//   v0   a thread for each key, then for each number of the output. Any head_dim.
//          counted: 33.8 times the bytes of K and V in sectors; lanes ask for 4 times
//   v1   lanes read a key together, 16 bytes each
//          predicted: sectors used whole, so that what is left are 4 reads of K and V for 4 query heads. Counted: 4.3
//          loses: with one query head to a head of K and V it is the best that can be; with more it reads as often as v0
//   v2   a warp keeps a tile of keys for all query heads of the group
//          predicted: K and V once. Counted: 1.00
//          loses: one long sequence is kv_heads blocks, and a GPU has a hundred multiprocessors
//   v3   a block for each part of 512 keys, and a second kernel that merges
//          predicted: blocks times parts, for 0.8 % more bytes. Counted: 1.7 %, since each part reads its queries, too
//          loses: short contexts, where there is nothing to divide
//   v4   the next tile is on its way while one is used (cp.async)
//          predicted: the same bytes, and loads behind arithmetic. Counted: the same bytes; time was not measured
//          loses: twice the shared memory, so fewer blocks at a time, where other blocks hide the latency already
//
// Counted on 4 sequences of 512 tokens (v3: one of 1,024), 4 query heads to a head of K and V, head_dim 128, bf16: benches/results/step5.json. No
// version has run on a GPU.
// v1 to v4: head_dim is a multiple of a piece of 16 bytes (16 in fp8, 8 else), and at most 256.
//
// Rows of a prompt and rows that decode are the same to it. A row's result does not depend on who else is in the batch: tiles and parts begin
// at multiples of their size, and are merged in a fixed order.
#include "paged_cache.cuh"
#include "ptx.cuh"

// q, out: [rows, heads * head_dim]. grid: (heads, rows); block: TILE threads; dynamic shared memory: (2 * head_dim + 2 * TILE) floats.
constexpr unsigned TILE = 64;

// ANCHOR: v0
template <class T> __device__ void paged_attention_v0(float* out, const float* q, const Cache<T>& cache) {
  DYNAMIC_SHARED(float, query);
  const unsigned D = cache.head_dim, heads = gridDim.x, head = blockIdx.x, row = blockIdx.y, kv_head = head / (heads / cache.kv_heads);
  SHARED(size_t, places, [TILE]);
  float *sums = query + D, *weights = sums + D, *v_scales = weights + TILE;
  const unsigned* table = cache.tables + cache.table_starts[row];
  const unsigned position = cache.positions[row], first = first_seen(position, cache.window);
  const size_t start = ((size_t)row * heads + head) * D;
  for (unsigned d = threadIdx.x; d < D; d += TILE) {
    query[d] = q[start + d];
    sums[d] = 0.f;
  }
  __syncthreads();

  // Online softmax (Milakov & Gimelshein, arXiv:1805.02867): `largest` score and `total` weight so far, the same in every thread.
  float largest = -INFINITY, total = 0.f;
  for (unsigned tile = first / TILE * TILE; tile <= position; tile += TILE) {
    const unsigned t = tile + threadIdx.x;
    float score = -INFINITY;
    if (first <= t && t <= position) {
      const size_t at = place(cache, table, kv_head, t);
      const float2 scales = vector_scales(cache, table, kv_head, t);
      score = 0.f;
      for (unsigned d = 0; d < D; d++) score += query[d] * to_float(cache.k[at + d]);
      score *= cache.scale * scales.x;
      places[threadIdx.x] = at;
      v_scales[threadIdx.x] = scales.y;
    }
    weights[threadIdx.x] = score;
    __syncthreads();
    float new_largest = largest;
    for (unsigned i = 0; i < TILE; i++) new_largest = fmaxf(new_largest, weights[i]);
    const float correction = weight_of(largest, new_largest);
    __syncthreads();
    weights[threadIdx.x] = weight_of(score, new_largest);
    __syncthreads();
    total *= correction;
    for (unsigned i = 0; i < TILE; i++) total += weights[i];
    largest = new_largest;
    for (unsigned d = threadIdx.x; d < D; d += TILE) {
      float sum = sums[d] * correction;
      for (unsigned i = max(tile, first) - tile; i < TILE && tile + i <= position; i++)
        sum += weights[i] * v_scales[i] * to_float(cache.v[places[i] + d]);
      sums[d] = sum;
    }
    __syncthreads();
  }
  for (unsigned d = threadIdx.x; d < D; d += TILE) out[start + d] = sums[d] / total;
}
// ANCHOR_END: v0

// v1: head_dim / 8 lanes read a key, 8 numbers each, and every such group of lanes has a softmax of its own; they are merged at the end.
// grid: (heads, rows); block: V1_THREADS; dynamic shared memory: 4 * (head_dim + 2) floats.
constexpr unsigned V1_THREADS = 128;

template <class T> __device__ void paged_attention_v1(float* out, const float* q, const Cache<T>& cache) {
  DYNAMIC_SHARED(float, merged);
  const unsigned heads = gridDim.x, head = blockIdx.x, row = blockIdx.y, kv_head = head / (heads / cache.kv_heads);
  const unsigned* table = cache.tables + cache.table_starts[row];
  const unsigned position = cache.positions[row], first = first_seen(position, cache.window);
  const unsigned pieces = cache.head_dim / 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned width = 1;  // lanes of a group: a power of two, so that they can add up by shuffles
  while (width < pieces) width *= 2;
  const unsigned piece = lane % width, group = threadIdx.x / width, groups = V1_THREADS / width;
  const size_t start = ((size_t)row * heads + head) * cache.head_dim + piece * 8;
  float mine[8], sums[8];
  for (unsigned i = 0; i < 8; i++) {
    mine[i] = piece < pieces ? q[start + i] : 0.f;
    sums[i] = 0.f;
  }
  float largest = -INFINITY, total = 0.f;
  // ANCHOR: v1
  for (unsigned t0 = first / groups * groups; t0 <= position; t0 += groups) {  // as often for every lane: they meet in shuffles
    const unsigned t = t0 + group;
    const bool seen = first <= t && t <= position, reads = seen && piece < pieces;
    const size_t at = seen ? place(cache, table, kv_head, t) + piece * 8 : 0;
    float score = 0.f;
    float2 eight[4];
    if (reads) {
      load8(eight, cache.k + at);
      for (unsigned i = 0; i < 4; i++) score += mine[2 * i] * eight[i].x + mine[2 * i + 1] * eight[i].y;
    }
    for (unsigned flip = width / 2; flip > 0; flip /= 2) score += __shfl_xor_sync(0xffffffffu, score, flip);
    if (!seen) continue;
    const float2 scales = vector_scales(cache, table, kv_head, t);
    score *= cache.scale * scales.x;
    const float new_largest = fmaxf(largest, score), correction = weight_of(largest, new_largest);
    float weight = expf(score - new_largest);
    total = total * correction + weight;
    largest = new_largest;
    if (!reads) continue;
    load8(eight, cache.v + at);
    weight *= scales.y;
    for (unsigned i = 0; i < 4; i++) {
      sums[2 * i] = sums[2 * i] * correction + weight * eight[i].x;
      sums[2 * i + 1] = sums[2 * i + 1] * correction + weight * eight[i].y;
    }
  }
  // ANCHOR_END: v1
  // The groups of a warp, then the warps, in a fixed order.
  for (unsigned flip = width; flip < 32; flip *= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, flip), both = fmaxf(largest, other);
    const float here = weight_of(largest, both), there = weight_of(other, both);
    total = total * here + __shfl_xor_sync(0xffffffffu, total, flip) * there;
    for (unsigned i = 0; i < 8; i++) sums[i] = sums[i] * here + __shfl_xor_sync(0xffffffffu, sums[i], flip) * there;
    largest = both;
  }
  float* share_of_warp = merged + warp * (cache.head_dim + 2);
  if (lane < pieces)
    for (unsigned i = 0; i < 8; i++) share_of_warp[lane * 8 + i] = sums[i];
  if (lane == 0) share_of_warp[cache.head_dim] = largest, share_of_warp[cache.head_dim + 1] = total;
  __syncthreads();
  for (unsigned d = threadIdx.x; d < cache.head_dim; d += V1_THREADS) {
    float all = -INFINITY, sum = 0.f, divisor = 0.f;
    for (unsigned w = 0; w < 4; w++) all = fmaxf(all, merged[w * (cache.head_dim + 2) + cache.head_dim]);
    for (unsigned w = 0; w < 4; w++) {
      const float* from = merged + w * (cache.head_dim + 2);
      const float share = weight_of(from[cache.head_dim], all);
      sum += share * from[d];
      divisor += share * from[cache.head_dim + 1];
    }
    out[((size_t)row * heads + head) * cache.head_dim + d] = sum / divisor;
  }
}

// v2 to v4. Each warp has tiles of its own in shared memory, KEYS vectors of K and as many of V, and takes every blockDim.x / 32 th tile. So
// warps wait for each other only at the end. A vector has 16 bytes more than it needs: 8 lanes that read the same piece of 8 vectors meet 8
// groups of 4 banks.
constexpr unsigned KEYS = 16;
// Query heads that are served by one read of a tile.
constexpr unsigned AT_A_TIME = 4;

// Numbers from one vector of a tile to the next.
template <class T> __device__ __forceinline__ unsigned tile_width(const Cache<T>& cache) { return cache.head_dim + PIECE<T>; }

// Brings a tile, 16 bytes a lane at a time: at once, or on its way. Zeros for keys that the row does not see.
// ANCHOR: bring_tile
template <bool ASYNC, class T>
__device__ __forceinline__ void bring_tile(T* k_tile, T* v_tile, const Cache<T>& cache, const unsigned* table, unsigned kv_head, unsigned tile,
                                           unsigned first, unsigned end) {
  const unsigned pieces = cache.head_dim / PIECE<T>, lane = threadIdx.x % 32;
  unsigned lanes = 1;  // of a vector
  while (lanes < pieces && lanes < 32) lanes *= 2;
  const bool one_block = cache.block_size >= KEYS && max(tile, first) < min(tile + KEYS, end);  // then the table is asked once
  const size_t begin = one_block ? place(cache, table, kv_head, tile) : 0;
#pragma unroll 2
  for (unsigned key = lane / lanes; key < KEYS; key += 32 / lanes) {
    const unsigned t = tile + key;
    const bool seen = first <= t && t < end;
    const size_t from = !seen ? 0 : one_block ? begin + (size_t)key * cache.head_dim : place(cache, table, kv_head, t);
    for (unsigned piece = lane % lanes; piece < pieces; piece += lanes) {
      const unsigned to = key * tile_width(cache) + piece * PIECE<T>, at = piece * PIECE<T>;
      if (ASYNC) {
        cp_async(k_tile + to, cache.k + from + at, seen);
        cp_async(v_tile + to, cache.v + from + at, seen);
      } else {
        const uint4 zero = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(k_tile + to) = seen ? *reinterpret_cast<const uint4*>(cache.k + from + at) : zero;
        *reinterpret_cast<uint4*>(v_tile + to) = seen ? *reinterpret_cast<const uint4*>(cache.v + from + at) : zero;
      }
    }
  }
}
// ANCHOR_END: bring_tile

// Some query heads against a tile, by one warp: two lanes take the score of a key, then each lane two numbers of the output. Of each head `states`
// has the largest score so far and the total weight, `sums` the output. `weights`: [KEYS][AT_A_TIME]. seen, scales: of key lane % KEYS.
template <class T>
__device__ __forceinline__ void meet_tile(float* sums, float* states, float* weights, const float* queries, unsigned heads, const T* k_tile,
                                          const T* v_tile, const Cache<T>& cache, bool seen, float2 scales) {
  const unsigned lane = threadIdx.x % 32, key = lane % KEYS, width = tile_width(cache), D = cache.head_dim;
  float scores[AT_A_TIME] = {}, correction[AT_A_TIME];
  float2 after[AT_A_TIME];
  // ANCHOR: scores
#pragma unroll 2
  for (unsigned d = lane / KEYS * 8; d < D; d += 16) {
    float2 eight[4];
    load8(eight, k_tile + key * width + d);
#pragma unroll
    for (unsigned h = 0; h < AT_A_TIME; h++) {
      if (h >= heads) break;
      float2 query[4];
      load8(query, queries + h * D + d);
      for (unsigned i = 0; i < 4; i++) scores[h] += query[i].x * eight[i].x + query[i].y * eight[i].y;
    }
  }
  // ANCHOR_END: scores
#pragma unroll
  for (unsigned h = 0; h < AT_A_TIME; h++) {
    if (h >= heads) break;
    float score = scores[h] + __shfl_xor_sync(0xffffffffu, scores[h], KEYS);
    score = seen ? score * cache.scale * scales.x : -INFINITY;
    float largest = score;
    for (int flip = KEYS / 2; flip > 0; flip /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, flip));
    const float2 before = load2(states + 2 * h);
    largest = fmaxf(largest, before.x);
    correction[h] = weight_of(before.x, largest);
    const float weight = weight_of(score, largest);
    float sum = weight;
    for (int flip = KEYS / 2; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
    if (lane < KEYS) weights[key * AT_A_TIME + h] = weight * scales.y;
    after[h] = make_float2(largest, before.y * correction[h] + sum);
  }
  __syncwarp();  // all have read the states, and the weights are there
#pragma unroll
  for (unsigned h = 0; h < AT_A_TIME; h++)
    if (h < heads && lane == 0) *reinterpret_cast<float2*>(states + 2 * h) = after[h];
  // ANCHOR: output
  for (unsigned d = 2 * lane; d < D; d += 64) {
    float2 sum[AT_A_TIME];
#pragma unroll
    for (unsigned h = 0; h < AT_A_TIME; h++)
      if (h < heads) sum[h] = load2(sums + h * D + d), sum[h].x *= correction[h], sum[h].y *= correction[h];
#pragma unroll 4
    for (unsigned i = 0; i < KEYS; i++) {
      const float2 two = load2(v_tile + i * width + d);
#pragma unroll
      for (unsigned h = 0; h < AT_A_TIME; h++)
        if (h < heads) sum[h].x += weights[i * AT_A_TIME + h] * two.x, sum[h].y += weights[i * AT_A_TIME + h] * two.y;
    }
#pragma unroll
    for (unsigned h = 0; h < AT_A_TIME; h++)
      if (h < heads) *reinterpret_cast<float2*>(sums + h * D + d) = sum[h];
  }
  // ANCHOR_END: output
  __syncwarp();  // before the next tile, states and weights
}

// All query heads of one head of K and V, over the keys from `part` times blockIdx.z on, `part` of them.
// grid: (kv_heads, rows, parts); block: 1, 2 or 4 warps. Dynamic shared memory: a query for each head of the group; a vector of sums and 2 floats for
// each head and warp; KEYS * AT_A_TIME floats a warp; then at a multiple of 16 bytes 1 (v2, v3) or 2 (v4) times 2 tiles a warp.
// With more than one part `partial` gets the sums, [rows, heads, parts, head_dim], then the largest scores and the totals, [rows, heads, parts, 2].
template <bool ASYNC, class T>
__device__ void paged_attention_tiles(float* out, float* partial, const float* q, const Cache<T>& cache, unsigned heads, unsigned part) {
  DYNAMIC_SHARED(float, queries);
  const unsigned D = cache.head_dim, kv_head = blockIdx.x, row = blockIdx.y, group = heads / cache.kv_heads;
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const unsigned* table = cache.tables + cache.table_starts[row];
  const unsigned position = cache.positions[row];
  const unsigned first = max(first_seen(position, cache.window), blockIdx.z * part), end = min(position + 1, blockIdx.z * part + part);
  if (first >= end) return;  // the whole block: nothing of this part is seen
  float *all_sums = queries + group * D, *all_states = all_sums + warps * group * D, *all_weights = all_states + (2 * warps * group + 3) / 4 * 4;
  float *sums = all_sums + warp * group * D, *states = all_states + 2 * warp * group, *weights = all_weights + warp * KEYS * AT_A_TIME;
  const unsigned tile_numbers = KEYS * tile_width(cache), stages = ASYNC ? 2 : 1;
  T* tiles = reinterpret_cast<T*>(all_weights + warps * KEYS * AT_A_TIME) + warp * stages * 2 * tile_numbers;
  const size_t start = ((size_t)row * heads + (size_t)kv_head * group) * D;
  for (unsigned i = threadIdx.x; i < group * D; i += blockDim.x) queries[i] = q[start + i];
  for (unsigned i = lane; i < group * D; i += 32) sums[i] = 0.f;
  for (unsigned i = lane; i < group; i += 32) states[2 * i] = -INFINITY, states[2 * i + 1] = 0.f;
  __syncthreads();

  // ANCHOR: tiles
  const unsigned stride = KEYS * warps, begin = first / stride * stride + warp * KEYS;
  if (ASYNC) {
    bring_tile<true>(tiles, tiles + tile_numbers, cache, table, kv_head, begin, first, end);
    cp_async_commit();
  }
  for (unsigned tile = begin, turn = 0; tile < end; tile += stride, turn ^= ASYNC) {
    T* k_tile = tiles + turn * 2 * tile_numbers;
    T* v_tile = k_tile + tile_numbers;
    if (ASYNC) {
      T* next = tiles + (turn ^ 1) * 2 * tile_numbers;
      if (tile + stride < end) bring_tile<true>(next, next + tile_numbers, cache, table, kv_head, tile + stride, first, end);
      cp_async_commit();  // a group for every tile, empty at the end
      cp_async_wait<1>();
    } else {
      bring_tile<false>(k_tile, v_tile, cache, table, kv_head, tile, first, end);
    }
    __syncwarp();
    const unsigned t = tile + lane % KEYS;
    const bool seen = first <= t && t < end;
    const float2 scales = seen ? vector_scales(cache, table, kv_head, t) : make_float2(0.f, 0.f);
    for (unsigned h = 0; h < group; h += AT_A_TIME)
      meet_tile(sums + h * D, states + 2 * h, weights, queries + h * D, min(group - h, AT_A_TIME), k_tile, v_tile, cache, seen, scales);
  }
  // ANCHOR_END: tiles
  cp_async_wait<0>();
  __syncthreads();
  // The warps' softmaxes into one, in a fixed order.
  for (unsigned i = threadIdx.x; i < group * D; i += blockDim.x) {
    const unsigned h = i / D;
    float largest = -INFINITY, sum = 0.f, total = 0.f;
    for (unsigned w = 0; w < warps; w++) largest = fmaxf(largest, all_states[2 * (w * group + h)]);
    for (unsigned w = 0; w < warps; w++) {
      const float share = weight_of(all_states[2 * (w * group + h)], largest);
      sum += share * all_sums[w * group * D + i];
      total += share * all_states[2 * (w * group + h) + 1];
    }
    if (gridDim.z == 1) {
      out[start + i] = sum / total;
    } else {
      const size_t at = ((size_t)row * heads + kv_head * group + h) * gridDim.z + blockIdx.z;
      partial[at * D + i % D] = sum;
      float2* states = reinterpret_cast<float2*>(partial + (size_t)gridDim.y * heads * gridDim.z * D);
      if (i % D == 0) states[at] = make_float2(largest, total);
    }
  }
}

// ANCHOR: combine
// Merges the parts of each row and head. grid: (heads, rows); block: any number of threads.
GLOBAL void paged_attention_combine(float* out, const float* partial, const unsigned* positions, unsigned head_dim, unsigned window, unsigned part,
                                    unsigned parts) {
  const unsigned heads = gridDim.x, row = blockIdx.y, position = positions[row];
  const size_t at = (size_t)row * heads + blockIdx.x;
  const float* sums = partial + at * parts * head_dim;
  const float2* states = reinterpret_cast<const float2*>(partial + (size_t)gridDim.y * heads * parts * head_dim) + at * parts;
  const unsigned first = first_seen(position, window) / part, last = position / part;
  for (unsigned d = threadIdx.x; d < head_dim; d += blockDim.x) {
    float largest = -INFINITY, sum = 0.f, total = 0.f;
    for (unsigned p = first; p <= last; p++) largest = fmaxf(largest, states[p].x);
    for (unsigned p = first; p <= last; p++) {
      const float2 state = states[p];
      const float share = weight_of(state.x, largest);
      sum += share * sums[p * head_dim + d];
      total += share * state.y;
    }
    out[at * head_dim + d] = sum / total;
  }
}
// ANCHOR_END: combine

#define PAGED_ATTENTION(suffix, T)                                                                                                 \
  GLOBAL void __launch_bounds__(64) paged_attention_v0_##suffix(float* out, const float* q, CACHE_PARAMETERS(T)) {                 \
    paged_attention_v0(out, q, CACHE(T));                                                                                          \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128) paged_attention_v1_##suffix(float* out, const float* q, CACHE_PARAMETERS(T)) {                \
    paged_attention_v1(out, q, CACHE(T));                                                                                          \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128, 4) paged_attention_v2_##suffix(float* out, const float* q, CACHE_PARAMETERS(T), unsigned heads) {  \
    paged_attention_tiles<false>(out, nullptr, q, CACHE(T), heads, 0x80000000u);                                                   \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128, 4) paged_attention_v3_##suffix(float* out, const float* q, CACHE_PARAMETERS(T), unsigned heads,  \
                                                                 float* partial, unsigned part) {                                  \
    paged_attention_tiles<false>(out, partial, q, CACHE(T), heads, part);                                                          \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128, 4) paged_attention_v4_##suffix(float* out, const float* q, CACHE_PARAMETERS(T), unsigned heads,  \
                                                                 float* partial, unsigned part) {                                  \
    paged_attention_tiles<true>(out, partial, q, CACHE(T), heads, part);                                                           \
  }
FOR_EACH_KV_DTYPE(PAGED_ATTENTION)
