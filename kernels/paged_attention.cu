// Attention over a paged cache: softmax(q K^T * scale) V, with K and V in blocks that a table names.
//
//   v0   a thread block for each row and query head. Keys in tiles of 64: a thread takes the score of one key, then the numbers of
//        the output are divided among the threads. Reads K and V once for each query head. Any head_dim, f32, bf16 and f16.
//   v1   lanes read a key together, 16 bytes each, and every group of lanes has a running softmax of its own; they are merged at the end.
//        K and V stream by once, coalesced, for each query head. head_dim a multiple of 8 up to 256 (v1 to v4).
//   v2   a block for each row and head of K and V: a tile of 32 keys in shared memory serves all query heads of the group. K and V are
//        read once.
//   v3   v2 over a part of the context; parts are merged by a second kernel. One long sequence keeps many multiprocessors busy.
//   v4   v3 with two tiles: while one is used the next is on its way (cp.async).
//
// Rows of a prompt and rows that decode are the same to it: a row sees the keys up to its own position.
#include "ptx.cuh"

constexpr unsigned TILE = 64;

// q, out: [rows, heads * head_dim]; caches: [blocks, kv_heads, block_size, head_dim]; row r's block table begins at
// tables[table_starts[r]]; it sees the `window` keys up to positions[r].
// grid: (heads, rows); block: TILE threads; dynamic shared memory: (2 * head_dim + TILE) floats.
template <class T>
__device__ void paged_attention_v0(float* out, const float* q, const T* k_cache, const T* v_cache, const unsigned* tables,
                                   const unsigned* table_starts, const unsigned* positions, unsigned kv_heads, unsigned head_dim,
                                   unsigned block_size, unsigned window, float scale) {
  DYNAMIC_SHARED(float, shared);
  float *query = shared, *sums = shared + head_dim, *weights = shared + 2 * head_dim;
  const unsigned heads = gridDim.x, head = blockIdx.x, row = blockIdx.y, kv_head = head / (heads / kv_heads);
  const unsigned* table = tables + table_starts[row];
  const unsigned position = positions[row], first = position + 1 > window ? position + 1 - window : 0;
  const size_t start = ((size_t)row * heads + head) * head_dim;
  for (unsigned d = threadIdx.x; d < head_dim; d += TILE) {
    query[d] = q[start + d];
    sums[d] = 0.f;
  }
  __syncthreads();

  // Online softmax (Milakov & Gimelshein, arXiv:1805.02867): `largest` score and `total` weight so far, the same in every thread.
  // Tiles begin at multiples of TILE whatever the row, so a token's bits depend neither on the batch nor on chunks.
  float largest = -INFINITY, total = 0.f;
  for (unsigned tile = first / TILE * TILE; tile <= position; tile += TILE) {
    const unsigned t = tile + threadIdx.x;
    float score = -INFINITY;
    if (first <= t && t <= position) {
      const T* key = k_cache + (((size_t)table[t / block_size] * kv_heads + kv_head) * block_size + t % block_size) * head_dim;
      score = 0.f;
      for (unsigned d = 0; d < head_dim; d++) score += query[d] * to_float(key[d]);
      score *= scale;
    }
    weights[threadIdx.x] = score;
    __syncthreads();
    float new_largest = largest;
    for (unsigned i = 0; i < TILE; i++) new_largest = fmaxf(new_largest, weights[i]);
    const float correction = expf(largest - new_largest);
    __syncthreads();
    weights[threadIdx.x] = expf(score - new_largest);
    __syncthreads();
    total *= correction;
    for (unsigned i = 0; i < TILE; i++) total += weights[i];
    largest = new_largest;
    for (unsigned d = threadIdx.x; d < head_dim; d += TILE) {
      float sum = sums[d] * correction;
      for (unsigned i = tile < first ? first - tile : 0; i < TILE && tile + i <= position; i++) {
        const unsigned u = tile + i;
        const size_t at = (((size_t)table[u / block_size] * kv_heads + kv_head) * block_size + u % block_size) * head_dim;
        sum += weights[i] * to_float(v_cache[at + d]);
      }
      sums[d] = sum;
    }
    __syncthreads();
  }
  for (unsigned d = threadIdx.x; d < head_dim; d += TILE) out[start + d] = sums[d] / total;
}
#define PAGED_ATTENTION(suffix, T)                                                                                                 \
  GLOBAL void __launch_bounds__(64) paged_attention_v0_##suffix(                                                    \
      float* out, const float* q, const T* k_cache, const T* v_cache, const unsigned* tables, const unsigned* table_starts,        \
      const unsigned* positions, unsigned kv_heads, unsigned head_dim, unsigned block_size, unsigned window, float scale) {        \
    paged_attention_v0(out, q, k_cache, v_cache, tables, table_starts, positions, kv_heads, head_dim, block_size, window, scale);  \
  }
FOR_EACH_DTYPE(PAGED_ATTENTION)

// What versions 1 to 4 are told of the cache: see v0.
template <class T> struct Cache {
  const T *k, *v;
  const unsigned *tables, *table_starts, *positions;
  unsigned kv_heads, head_dim, block_size, window;
  float scale;
};

// Where a token's vector of K or V begins.
template <class T>
__device__ __forceinline__ size_t place(const Cache<T>& cache, const unsigned* table, unsigned kv_head, unsigned t) {
  const size_t head = (size_t)table[t / cache.block_size] * cache.kv_heads + kv_head;
  return (head * cache.block_size + t % cache.block_size) * cache.head_dim;
}

// Two numbers that lie side by side, and eight of them, by reads of 16 bytes.
__device__ __forceinline__ float2 load2(const float* from) { return *reinterpret_cast<const float2*>(from); }
__device__ __forceinline__ float2 load2(const bf16* from) {
  const unsigned bits = *reinterpret_cast<const unsigned*>(from);
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
__device__ __forceinline__ float2 load2(const f16* from) { return __half22float2(*reinterpret_cast<const __half2*>(from)); }

__device__ __forceinline__ void load8(float2 (&to)[4], const float* from) {
  const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
  to[0] = make_float2(a.x, a.y), to[1] = make_float2(a.z, a.w), to[2] = make_float2(b.x, b.y), to[3] = make_float2(b.z, b.w);
}
template <class T> __device__ __forceinline__ void load8(float2 (&to)[4], const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const unsigned each[4] = {bits.x, bits.y, bits.z, bits.w};
  for (unsigned i = 0; i < 4; i++) to[i] = load2(reinterpret_cast<const T*>(&each[i]));
}

// e^(x - largest), and 0 for what was never seen, also if nothing was.
__device__ __forceinline__ float weight_of(float x, float largest) { return x == -INFINITY ? 0.f : expf(x - largest); }

// v1: head_dim / 8 lanes read a key. grid: (heads, rows); block: V1_THREADS; dynamic shared memory: 4 * (head_dim + 2) floats.
constexpr unsigned V1_THREADS = 128;

template <class T> __device__ void paged_attention_v1(float* out, const float* q, const Cache<T>& cache) {
  DYNAMIC_SHARED(float, merged);
  const unsigned heads = gridDim.x, head = blockIdx.x, row = blockIdx.y, kv_head = head / (heads / cache.kv_heads);
  const unsigned* table = cache.tables + cache.table_starts[row];
  const unsigned position = cache.positions[row], first = position + 1 > cache.window ? position + 1 - cache.window : 0;
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
  for (unsigned t0 = first; t0 <= position; t0 += groups) {  // as often for every lane: they meet in shuffles
    const unsigned t = t0 + group;
    const bool reads = t <= position && piece < pieces;
    const size_t at = reads ? place(cache, table, kv_head, t) + piece * 8 : 0;
    float score = 0.f;
    float2 eight[4];
    if (reads) {
      load8(eight, cache.k + at);
      for (unsigned i = 0; i < 4; i++) score += mine[2 * i] * eight[i].x + mine[2 * i + 1] * eight[i].y;
    }
    for (unsigned flip = width / 2; flip > 0; flip /= 2) score += __shfl_xor_sync(0xffffffffu, score, flip);
    if (t > position) continue;
    score *= cache.scale;
    const float new_largest = fmaxf(largest, score), correction = weight_of(largest, new_largest);
    const float weight = expf(score - new_largest);
    total = total * correction + weight;
    largest = new_largest;
    if (!reads) continue;
    load8(eight, cache.v + at);
    for (unsigned i = 0; i < 4; i++) {
      sums[2 * i] = sums[2 * i] * correction + weight * eight[i].x;
      sums[2 * i + 1] = sums[2 * i + 1] * correction + weight * eight[i].y;
    }
  }
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

// v2 to v4. A tile of K and one of V in shared memory, KEYS vectors each. A vector has 16 bytes more than it needs: lanes that read the same
// piece of 8 vectors meet 8 groups of 4 banks.
constexpr unsigned KEYS = 32;

// Numbers in 16 bytes, and from one vector of a tile to the next.
template <class T> constexpr unsigned PIECE = 16 / sizeof(T);
template <class T> __device__ __forceinline__ unsigned tile_width(const Cache<T>& cache) { return cache.head_dim + PIECE<T>; }

// Brings a tile, 16 bytes a thread at a time: at once, or on its way. Zeros for keys that the row does not see.
template <bool ASYNC, class T>
__device__ __forceinline__ void bring_tile(T* k_tile, T* v_tile, const Cache<T>& cache, const unsigned* table, unsigned kv_head, unsigned tile,
                                           unsigned first, unsigned end) {
  const unsigned pieces = cache.head_dim / PIECE<T>;
  for (unsigned i = threadIdx.x; i < KEYS * pieces; i += blockDim.x) {
    const unsigned key = i / pieces, t = tile + key, to = key * tile_width(cache) + i % pieces * PIECE<T>;
    const bool seen = first <= t && t < end;
    const size_t from = seen ? place(cache, table, kv_head, t) + i % pieces * PIECE<T> : 0;
    if (ASYNC) {
      cp_async(k_tile + to, cache.k + from, seen);
      cp_async(v_tile + to, cache.v + from, seen);
    } else {
      const uint4 zero = make_uint4(0, 0, 0, 0);
      *reinterpret_cast<uint4*>(k_tile + to) = seen ? *reinterpret_cast<const uint4*>(cache.k + from) : zero;
      *reinterpret_cast<uint4*>(v_tile + to) = seen ? *reinterpret_cast<const uint4*>(cache.v + from) : zero;
    }
  }
}

// One query head against a tile, by one warp: a lane takes a key's score, then two numbers of the output. `state` has the largest score so far
// and the total weight, `sums` the output.
template <class T>
__device__ __forceinline__ void meet_tile(float* sums, float* state, float* weights, const float* query, const T* k_tile, const T* v_tile,
                                          const Cache<T>& cache, bool seen) {
  const unsigned lane = threadIdx.x % 32, width = tile_width(cache);
  float score = -INFINITY;
  if (seen) {
    score = 0.f;
    for (unsigned d = 0; d < cache.head_dim; d += 8) {
      float2 eight[4];
      load8(eight, k_tile + lane * width + d);
      for (unsigned i = 0; i < 4; i++) score += query[d + 2 * i] * eight[i].x + query[d + 2 * i + 1] * eight[i].y;
    }
    score *= cache.scale;
  }
  float largest = score;
  for (int flip = 16; flip > 0; flip /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, flip));
  const float before = state[0], total = state[1];
  largest = fmaxf(largest, before);
  const float correction = weight_of(before, largest), weight = weight_of(score, largest);
  float sum = weight;
  for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
  weights[lane] = weight;
  __syncwarp();
  if (lane == 0) state[0] = largest, state[1] = total * correction + sum;
  for (unsigned d = 2 * lane; d < cache.head_dim; d += 64) {
    float x = sums[d] * correction, y = sums[d + 1] * correction;
    for (unsigned key = 0; key < KEYS; key++) {
      const float2 two = load2(v_tile + key * width + d);
      x += weights[key] * two.x;
      y += weights[key] * two.y;
    }
    sums[d] = x, sums[d + 1] = y;
  }
  __syncwarp();  // before the next head's weights
}

// All query heads of one head of K and V, over the keys from `part` times blockIdx.z on, `part` of them.
// grid: (kv_heads, rows, parts); block: a warp for each query head of the group, 4 at most. Dynamic shared memory: of each query head of the group the
// query, the sums and 2 floats; 32 floats a warp; then 1 (v2, v3) or 2 (v4) times 2 tiles.
// With more than one part `partial` gets the sums, the largest score and the total: [rows, heads, parts, head_dim + 2].
template <bool ASYNC, class T>
__device__ void paged_attention_tiles(float* out, float* partial, const float* q, const Cache<T>& cache, unsigned heads, unsigned part) {
  DYNAMIC_SHARED(float, shared);
  const unsigned D = cache.head_dim, kv_head = blockIdx.x, row = blockIdx.y, group = heads / cache.kv_heads;
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const unsigned* table = cache.tables + cache.table_starts[row];
  const unsigned position = cache.positions[row], seen_from = position + 1 > cache.window ? position + 1 - cache.window : 0;
  const unsigned first = max(seen_from, blockIdx.z * part), end = min(position + 1, blockIdx.z * part + part);
  if (first >= end) return;  // the whole block: nothing of this part is seen
  float *queries = shared, *sums = queries + group * D, *states = sums + group * D, *weights = states + 2 * group;
  T* tiles = reinterpret_cast<T*>(weights + 32 * warps + (4 - (2 * group) % 4) % 4);  // at a multiple of 16 bytes
  const unsigned tile_numbers = KEYS * tile_width(cache);
  const size_t start = ((size_t)row * heads + (size_t)kv_head * group) * D;
  for (unsigned i = threadIdx.x; i < group * D; i += blockDim.x) queries[i] = q[start + i], sums[i] = 0.f;
  for (unsigned i = threadIdx.x; i < group; i += blockDim.x) states[2 * i] = -INFINITY, states[2 * i + 1] = 0.f;

  // Tiles begin at multiples of KEYS whatever the row, so a token's bits do not depend on chunks.
  const unsigned begin = first / KEYS * KEYS;
  if (ASYNC) {
    bring_tile<true>(tiles, tiles + tile_numbers, cache, table, kv_head, begin, first, end);
    cp_async_commit();
  }
  for (unsigned tile = begin, turn = 0; tile < end; tile += KEYS, turn ^= ASYNC) {
    T* k_tile = tiles + turn * 2 * tile_numbers;
    T* v_tile = k_tile + tile_numbers;
    if (ASYNC) {
      if (tile + KEYS < end) {
        T* next = tiles + (turn ^ 1) * 2 * tile_numbers;
        bring_tile<true>(next, next + tile_numbers, cache, table, kv_head, tile + KEYS, first, end);
      }
      cp_async_commit();  // a group for every tile, empty at the end
      cp_async_wait<1>();
    } else {
      bring_tile<false>(k_tile, v_tile, cache, table, kv_head, tile, first, end);
    }
    __syncthreads();
    const bool seen = first <= tile + lane && tile + lane < end;
    for (unsigned h = warp; h < group; h += warps)
      meet_tile(sums + h * D, states + 2 * h, weights + 32 * warp, queries + h * D, k_tile, v_tile, cache, seen);
    __syncthreads();  // before the tile is overwritten
  }
  for (unsigned i = threadIdx.x; i < group * D; i += blockDim.x) {
    const unsigned h = i / D;
    if (gridDim.z == 1) {
      out[start + i] = sums[i] / states[2 * h + 1];
    } else {
      float* to = partial + (((size_t)row * heads + kv_head * group + h) * gridDim.z + blockIdx.z) * (D + 2);
      to[i % D] = sums[i];
      if (i % D == 0) to[D] = states[2 * h], to[D + 1] = states[2 * h + 1];
    }
  }
}

// Merges the parts of each row and head. grid: (heads, rows); block: any number of threads.
GLOBAL void paged_attention_combine(float* out, const float* partial, const unsigned* positions, unsigned head_dim, unsigned window, unsigned part,
                                    unsigned parts) {
  const unsigned heads = gridDim.x, row = blockIdx.y, position = positions[row];
  const unsigned seen_from = position + 1 > window ? position + 1 - window : 0;
  const size_t at = (size_t)row * heads + blockIdx.x;
  const float* from = partial + at * parts * (head_dim + 2);
  for (unsigned d = threadIdx.x; d < head_dim; d += blockDim.x) {
    float all = -INFINITY, sum = 0.f, total = 0.f;
    for (unsigned p = seen_from / part; p <= position / part; p++) all = fmaxf(all, from[p * (head_dim + 2) + head_dim]);
    for (unsigned p = seen_from / part; p <= position / part; p++) {
      const float share = weight_of(from[p * (head_dim + 2) + head_dim], all);
      sum += share * from[p * (head_dim + 2) + d];
      total += share * from[p * (head_dim + 2) + head_dim + 1];
    }
    out[at * head_dim + d] = sum / total;
  }
}

#define CACHE(T) \
  const Cache<T> cache = {k_cache, v_cache, tables, table_starts, positions, kv_heads, head_dim, block_size, window, scale};
#define FASTER(suffix, T)                                                                                                          \
  GLOBAL void __launch_bounds__(128) paged_attention_v1_##suffix(                                                                  \
      float* out, const float* q, const T* k_cache, const T* v_cache, const unsigned* tables, const unsigned* table_starts,        \
      const unsigned* positions, unsigned kv_heads, unsigned head_dim, unsigned block_size, unsigned window, float scale) {        \
    CACHE(T) paged_attention_v1(out, q, cache);                                                                                    \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128) paged_attention_v2_##suffix(                                                                  \
      float* out, const float* q, const T* k_cache, const T* v_cache, const unsigned* tables, const unsigned* table_starts,        \
      const unsigned* positions, unsigned kv_heads, unsigned head_dim, unsigned block_size, unsigned window, float scale,          \
      unsigned heads) {                                                                                                            \
    CACHE(T) paged_attention_tiles<false>(out, nullptr, q, cache, heads, 0x80000000u);                                             \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128) paged_attention_v3_##suffix(                                                                  \
      float* out, const float* q, const T* k_cache, const T* v_cache, const unsigned* tables, const unsigned* table_starts,        \
      const unsigned* positions, unsigned kv_heads, unsigned head_dim, unsigned block_size, unsigned window, float scale,          \
      unsigned heads, float* partial, unsigned part) {                                                                             \
    CACHE(T) paged_attention_tiles<false>(out, partial, q, cache, heads, part);                                                    \
  }                                                                                                                                \
  GLOBAL void __launch_bounds__(128) paged_attention_v4_##suffix(                                                                  \
      float* out, const float* q, const T* k_cache, const T* v_cache, const unsigned* tables, const unsigned* table_starts,        \
      const unsigned* positions, unsigned kv_heads, unsigned head_dim, unsigned block_size, unsigned window, float scale,          \
      unsigned heads, float* partial, unsigned part) {                                                                             \
    CACHE(T) paged_attention_tiles<true>(out, partial, q, cache, heads, part);                                                     \
  }
FOR_EACH_DTYPE(FASTER)
