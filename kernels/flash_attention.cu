// Attention for the rows of prompts: many queries of a sequence meet the same keys, so a tile of K and V that was read once serves a tile of queries.
//
//   v0   the scores in memory: a product, a softmax, a product
//          counted at 512 tokens: 2.2 times the bytes that v1 reads and writes, and memory for all scores
//   v1   scores stay in shared memory, softmax is online. On CUDA cores, in f32, for any dtype of K and V
//          predicted: Q once, K and V once for each tile of queries. Counted: so
//          loses: 32 products for 6 reads of shared memory, where tensor cores do 2,048 for 4
//   v2   tensor cores; tiles swizzled; weights go from one product into the next in registers
//          predicted: no turns lost to banks, and half the reads of K and V, since a tile has 64 queries. Counted: so
//          loses: fewer than 64 rows leave tensor cores idle; weights are rounded to 16 bits
//   v3   the next tile is on its way while one is used (cp.async)
//          predicted: the same bytes, and loads behind arithmetic. Counted: the same bytes; time was not measured
//          loses: twice the shared memory for K and V
//
// Counted: benches/results/step6.json. No version has run on a GPU. v4, for a Hopper, is in flash_attention_sm90.cu.
//
// All read K and V from blocks, so a prompt in chunks or behind a cached prefix needs no gather. Query heads that share a head of K and V are packed:
// row p of a tile is query row p / group, head p % group. Tiles of keys begin at multiples of their size, so a row's bits depend neither on the
// batch nor on how its prompt was divided. What no row of a tile sees is not read.
#include "flash_attention.cuh"
#include "ptx.cuh"

// v0 and v1: 32 packed rows and 32 keys; 8 lanes have two rows. Everything is f32 in shared memory, and a vector is 4 numbers longer than it needs to
// be, so that reads of 8 vectors meet all banks.
constexpr unsigned ROWS = 32, TILE_KEYS = 32, FLASH_THREADS = 128;
__device__ __forceinline__ unsigned vector_stride(unsigned head_dim) { return max(head_dim, 32u) + 4; }

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
__device__ __forceinline__ void add_times(float4& sum, float w, float4 v) { sum.x += w * v.x, sum.y += w * v.y, sum.z += w * v.z, sum.w += w * v.w; }

template <class T> __device__ __forceinline__ void bring_queries(float* to, const float* q, const Cache<T>& cache, const Share& share, unsigned heads) {
  const unsigned D = cache.head_dim, stride = vector_stride(D);
  for (unsigned i = threadIdx.x; i < ROWS * D / 4; i += FLASH_THREADS) {
    const unsigned row = i / (D / 4), d = i % (D / 4) * 4, packed = share.begin + row;
    const bool real = packed < share.end;
    *reinterpret_cast<float4*>(to + row * stride + d) =
        real ? load4(q + place_of(share, packed, heads) * D + d) : make_float4(0.f, 0.f, 0.f, 0.f);
  }
}

// A tile of K or of V: zeros for keys that no row sees. Each warp brings a quarter of the keys, and asks the table once for each.
template <bool VALUES, class T> __device__ __forceinline__ void bring_keys(float* to, const Cache<T>& cache, const Share& share, unsigned tile) {
  SHARED(size_t, places, [TILE_KEYS]);
  SHARED(float, scales, [TILE_KEYS]);
  const unsigned D = cache.head_dim, stride = vector_stride(D), lane = threadIdx.x % 32, mine = threadIdx.x / 32 * (TILE_KEYS / 4);
  const unsigned t = tile + mine + lane;
  if (lane < TILE_KEYS / 4 && share.first <= t && t <= share.last) {
    const float2 both = vector_scales(cache, share.table, share.kv_head, t);
    places[mine + lane] = place(cache, share.table, share.kv_head, t);
    scales[mine + lane] = VALUES ? both.y : both.x;
  }
  __syncwarp();
  for (unsigned i = lane; i < TILE_KEYS / 4 * D / 4; i += 32) {
    const unsigned key = mine + i / (D / 4), d = i % (D / 4) * 4, t = tile + key;
    float4 four = make_float4(0.f, 0.f, 0.f, 0.f);
    if (share.first <= t && t <= share.last) {
      four = load4((VALUES ? cache.v : cache.k) + places[key] + d);
      const float scale = scales[key];
      four = make_float4(four.x * scale, four.y * scale, four.z * scale, four.w * scale);
    }
    *reinterpret_cast<float4*>(to + key * stride + d) = four;
  }
}

// A thread's scores: two rows, every eighth key. -inf for what a row does not see.
template <class T>
__device__ __forceinline__ void tile_scores(float (&scores)[2][4], const float* queries, const float* keys, const Cache<T>& cache, const Share& share,
                                            unsigned tile) {
  const unsigned D = cache.head_dim, stride = vector_stride(D), pair = threadIdx.x / 8 * 2, lane = threadIdx.x % 8;
  for (unsigned i = 0; i < 2; i++)
    for (unsigned j = 0; j < 4; j++) scores[i][j] = 0.f;
  // ANCHOR: scores
  for (unsigned d = 0; d < D; d += 4) {
    const float4 a = load4(queries + pair * stride + d), b = load4(queries + (pair + 1) * stride + d);
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
      const float4 key = load4(keys + (lane + 8 * j) * stride + d);
      scores[0][j] += dot(a, key);
      scores[1][j] += dot(b, key);
    }
  }
  // ANCHOR_END: scores
#pragma unroll
  for (unsigned i = 0; i < 2; i++) {
    const unsigned packed = share.begin + pair + i, position = position_of(share, packed), first = first_seen(position, cache.window);
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
      const unsigned t = tile + lane + 8 * j;
      scores[i][j] = packed < share.end && first <= t && t <= position ? scores[i][j] * cache.scale : -INFINITY;
    }
  }
}

// sums += weights V: a thread has two rows, and of each every eighth piece of 4 numbers.
__device__ __forceinline__ void add_values(float4 (&sums)[2][8], const float* weights, unsigned weight_stride, const float* values, unsigned D) {
  const unsigned stride = vector_stride(D), pair = threadIdx.x / 8 * 2, lane = threadIdx.x % 8;
  for (unsigned key = 0; key < TILE_KEYS; key++) {
    const float a = weights[pair * weight_stride + key], b = weights[(pair + 1) * weight_stride + key];
#pragma unroll
    for (unsigned c = 0; c < 8; c++) {
      const unsigned d = 4 * (lane + 8 * c);
      if (d >= D) break;
      const float4 v = load4(values + key * stride + d);
      add_times(sums[0][c], a, v);
      add_times(sums[1][c], b, v);
    }
  }
}

// Writes a thread's sums, divided.
__device__ __forceinline__ void write_out(float* out, const float4 (&sums)[2][8], const float (&totals)[2], const Share& share, unsigned heads, unsigned D) {
  const unsigned pair = threadIdx.x / 8 * 2, lane = threadIdx.x % 8;
#pragma unroll
  for (unsigned i = 0; i < 2; i++) {
    const unsigned packed = share.begin + pair + i;
    if (packed >= share.end) continue;
    float* to = out + place_of(share, packed, heads) * D;
#pragma unroll
    for (unsigned c = 0; c < 8; c++) {
      const unsigned d = 4 * (lane + 8 * c);
      const float4 sum = sums[i][c];
      if (d < D) *reinterpret_cast<float4*>(to + d) = make_float4(sum.x / totals[i], sum.y / totals[i], sum.z / totals[i], sum.w / totals[i]);
    }
  }
}

// ANCHOR: v0
// scores: [rows, heads, stride]; stride: at least the longest context, a multiple of 32. Dynamic shared memory: queries and keys.
template <class T>
__device__ void flash_attention_v0_scores(float* scores, unsigned stride, const float* q, const Cache<T>& cache, const unsigned* row_starts,
                                          const unsigned* row_counts, unsigned heads) {
  DYNAMIC_SHARED(float, queries);
  float* keys = queries + ROWS * vector_stride(cache.head_dim);
  const Share share = share_of(cache, row_starts, row_counts, heads, ROWS);
  const unsigned pair = threadIdx.x / 8 * 2, lane = threadIdx.x % 8;
  bring_queries(queries, q, cache, share, heads);
  for (unsigned tile = share.first / TILE_KEYS * TILE_KEYS; tile <= share.last; tile += TILE_KEYS) {
    bring_keys<false>(keys, cache, share, tile);
    __syncthreads();
    float mine[2][4];
    tile_scores(mine, queries, keys, cache, share, tile);
    for (unsigned i = 0; i < 2 && share.begin + pair + i < share.end; i++)
      for (unsigned j = 0; j < 4; j++) scores[place_of(share, share.begin + pair + i, heads) * stride + tile + lane + 8 * j] = mine[i][j];
    __syncthreads();
  }
}
// ANCHOR_END: v0

// Scores become weights. The same grid; a warp has a row at a time.
template <class T>
__device__ void flash_attention_v0_softmax(float* scores, unsigned stride, float* lse, const Cache<T>& cache, const unsigned* row_starts,
                                           const unsigned* row_counts, unsigned heads) {
  const Share share = share_of(cache, row_starts, row_counts, heads, ROWS);
  const unsigned lane = threadIdx.x % 32, from = share.first / TILE_KEYS * TILE_KEYS + lane;
  for (unsigned packed = share.begin + threadIdx.x / 32; packed < share.end; packed += FLASH_THREADS / 32) {
    float* row = scores + place_of(share, packed, heads) * stride;
    float largest = -INFINITY, total = 0.f;
    for (unsigned t = from; t <= share.last; t += 32) largest = fmaxf(largest, row[t]);
    for (unsigned flip = 16; flip > 0; flip /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, flip));
    for (unsigned t = from; t <= share.last; t += 32) total += expf(row[t] - largest);
    for (unsigned flip = 16; flip > 0; flip /= 2) total += __shfl_xor_sync(0xffffffffu, total, flip);
    for (unsigned t = from; t <= share.last; t += 32) row[t] = expf(row[t] - largest) / total;
    if (lse && lane == 0) lse[place_of(share, packed, heads)] = largest + logf(total);
  }
}

// Weights times V. Dynamic shared memory: values and weights.
template <class T>
__device__ void flash_attention_v0_output(float* out, const float* scores, unsigned stride, const Cache<T>& cache, const unsigned* row_starts,
                                          const unsigned* row_counts, unsigned heads) {
  DYNAMIC_SHARED(float, values);
  float* weights = values + TILE_KEYS * vector_stride(cache.head_dim);
  const Share share = share_of(cache, row_starts, row_counts, heads, ROWS);
  float4 sums[2][8] = {};
  for (unsigned tile = share.first / TILE_KEYS * TILE_KEYS; tile <= share.last; tile += TILE_KEYS) {
    bring_keys<true>(values, cache, share, tile);
    for (unsigned i = threadIdx.x; i < ROWS * TILE_KEYS; i += FLASH_THREADS) {
      const unsigned packed = share.begin + i / 32, t = tile + i % 32;
      weights[i / 32 * 36 + i % 32] = packed < share.end && t <= share.last ? scores[place_of(share, packed, heads) * stride + t] : 0.f;
    }
    __syncthreads();
    add_values(sums, weights, 36, values, cache.head_dim);
    __syncthreads();
  }
  const float totals[2] = {1.f, 1.f};
  write_out(out, sums, totals, share, heads, cache.head_dim);
}

// Dynamic shared memory: queries, keys, values: 3 * 32 * vector_stride(head_dim) floats. The weights take the place of the keys, which nobody
// needs any more.
template <class T>
__device__ void flash_attention_v1(float* out, float* lse, const float* q, const Cache<T>& cache, const unsigned* row_starts,
                                   const unsigned* row_counts, unsigned heads) {
  DYNAMIC_SHARED(float, queries);
  const unsigned D = cache.head_dim, stride = vector_stride(D), pair = threadIdx.x / 8 * 2, lane = threadIdx.x % 8;
  float *keys = queries + ROWS * stride, *values = keys + TILE_KEYS * stride, *weights = keys;
  const Share share = share_of(cache, row_starts, row_counts, heads, ROWS);
  float4 sums[2][8] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  bring_queries(queries, q, cache, share, heads);
  // ANCHOR: v1
  for (unsigned tile = share.first / TILE_KEYS * TILE_KEYS; tile <= share.last; tile += TILE_KEYS) {
    bring_keys<false>(keys, cache, share, tile);
    bring_keys<true>(values, cache, share, tile);
    __syncthreads();
    float scores[2][4];
    tile_scores(scores, queries, keys, cache, share, tile);
    __syncthreads();  // all have read the keys
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
      float most = fmaxf(fmaxf(scores[i][0], scores[i][1]), fmaxf(scores[i][2], scores[i][3]));
      for (unsigned flip = 4; flip > 0; flip /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, flip));
      most = fmaxf(most, largest[i]);
      const float correction = weight_of(largest[i], most);
      float sum = 0.f;
#pragma unroll
      for (unsigned j = 0; j < 4; j++) {
        const float weight = weight_of(scores[i][j], most);
        weights[(pair + i) * 36 + lane + 8 * j] = weight;
        sum += weight;
      }
      for (unsigned flip = 4; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, flip);
      total[i] = total[i] * correction + sum;
      largest[i] = most;
#pragma unroll
      for (unsigned c = 0; c < 8; c++) {
        float4& four = sums[i][c];
        four = make_float4(four.x * correction, four.y * correction, four.z * correction, four.w * correction);
      }
    }
    __syncwarp();  // a row's weights are there: its 8 lanes are of one warp
    add_values(sums, weights, 36, values, D);
    __syncthreads();  // before the tiles are overwritten
  }
  // ANCHOR_END: v1
  write_out(out, sums, total, share, heads, D);
  for (unsigned i = 0; i < 2; i++)
    if (lse && lane == 0 && share.begin + pair + i < share.end)
      lse[place_of(share, share.begin + pair + i, heads)] = largest[i] + logf(total[i]);
}

// v2 and v3: 4 warps, each with 16 packed rows; `keys` keys a tile; both products on tensor cores.
constexpr unsigned MMA_ROWS = 64, MMA_THREADS = 128;
template <unsigned D> constexpr unsigned MMA_KEYS = D <= 128 ? 64 : 32;

// Where piece `piece` (16 bytes) of vector `row` lies in a tile. ldmatrix reads the same piece of 8 vectors, which must meet 8 groups of 4
// banks. With 8, 16 or 32 pieces a vector they are found by XOR; 10 and 12 become 11 and 13, odd, and then they are apart as they lie.
// ANCHOR: swizzle
template <unsigned D> constexpr unsigned VECTOR = D % 64 == 0 ? D : (D / 8 | 1) * 8;
template <unsigned D, bool SWIZZLE> __device__ __forceinline__ unsigned piece_place(unsigned row, unsigned piece) {
  return row * VECTOR<D> + (SWIZZLE && D % 64 == 0 ? piece ^ (row % 8) : piece) * 8;
}
// ANCHOR_END: swizzle

// Queries in 16 bits.
template <unsigned D, bool SWIZZLE, class T>
__device__ __forceinline__ void bring_query_tile(T* to, const float* q, const Share& share, unsigned heads) {
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < MMA_ROWS * D / 4; i += MMA_THREADS) {
    const unsigned row = i / (D / 4), d = i % (D / 4) * 4, packed = share.begin + row;
    const float4 four = packed < share.end ? load4(q + place_of(share, packed, heads) * D + d) : make_float4(0.f, 0.f, 0.f, 0.f);
    const uint2 bits = make_uint2(two_of(four.x, four.y, T()), two_of(four.z, four.w, T()));
    *reinterpret_cast<uint2*>(to + piece_place<D, SWIZZLE>(row, d / 8) + d % 8) = bits;
  }
}

// A tile of K and one of V: at once, or on their way. Zeros for keys that no row sees. Each warp brings a quarter of the keys, and asks the table
// once for each; a barrier comes before it does so again.
template <unsigned D, bool SWIZZLE, bool ASYNC, class T>
__device__ __forceinline__ void bring_tiles(T* k_tile, T* v_tile, const Cache<T>& cache, const Share& share, unsigned tile) {
  constexpr unsigned KEYS = MMA_KEYS<D>;
  SHARED(size_t, places, [KEYS]);
  const unsigned lane = threadIdx.x % 32, mine = threadIdx.x / 32 * (KEYS / 4), t = tile + mine + lane;
  if (lane < KEYS / 4 && share.first <= t && t <= share.last) places[mine + lane] = place(cache, share.table, share.kv_head, t);
  __syncwarp();
#pragma unroll 4
  for (unsigned i = lane; i < KEYS / 4 * D / 8; i += 32) {
    const unsigned key = mine + i / (D / 8), piece = i % (D / 8), t = tile + key, to = piece_place<D, SWIZZLE>(key, piece);
    const bool seen = share.first <= t && t <= share.last;
    const size_t from = seen ? places[key] + 8 * piece : 0;
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

// scores = queries keys^T. With wide heads the queries are read again for every tile: registers are full of sums.
template <unsigned D, bool SWIZZLE, class T>
__device__ __forceinline__ void multiply_keys(Result<MMA_KEYS<D> / 8>& scores, const unsigned (&queries)[D / 16][4], const T* query_tile,
                                              const T* k_tile) {
  const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll
  for (unsigned k = 0; k < D / 16; k++) {
    unsigned a[4];
    if (D > 128) ldmatrix(a, query_tile + piece_place<D, SWIZZLE>(row, 2 * k + lane / 16));
    else for (unsigned i = 0; i < 4; i++) a[i] = queries[k][i];
#pragma unroll
    for (unsigned n = 0; n < MMA_KEYS<D> / 16; n++) {
      unsigned b[4];
      ldmatrix(b, k_tile + piece_place<D, SWIZZLE>(16 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
      mma(scores[2 * n], a, {b[0], b[1]}, T());
      mma(scores[2 * n + 1], a, {b[2], b[3]}, T());
    }
  }
}

// sums += weights values. A result of mma has its numbers where the next mma wants its first operand: weights never leave the registers.
// ANCHOR: multiply_values
template <unsigned D, bool SWIZZLE, class T>
__device__ __forceinline__ void multiply_values(Result<D / 8>& sums, const Result<MMA_KEYS<D> / 8>& weights, const T* v_tile) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned k = 0; k < MMA_KEYS<D> / 16; k++) {
    const float(&left)[4] = weights[2 * k], (&right)[4] = weights[2 * k + 1];
    const unsigned a[4] = {two_of(left[0], left[1], T()), two_of(left[2], left[3], T()), two_of(right[0], right[1], T()),
                           two_of(right[2], right[3], T())};
#pragma unroll
    for (unsigned n = 0; n < D / 16; n++) {
      unsigned b[4];
      ldmatrix_transposed(b, v_tile + piece_place<D, SWIZZLE>(16 * k + lane % 16, 2 * n + lane / 16));
      mma(sums[2 * n], a, {b[0], b[1]}, T());
      mma(sums[2 * n + 1], a, {b[2], b[3]}, T());
    }
  }
}
// ANCHOR_END: multiply_values

// Dynamic shared memory: a tile of queries, then 1 (v2) or 2 (v3) times a tile of K and one of V, vectors of VECTOR<D>.
template <unsigned D, bool SWIZZLE, bool ASYNC, class T>
__device__ void flash_attention_mma(float* out, float* lse, const float* q, const Cache<T>& cache, const unsigned* row_starts,
                                    const unsigned* row_counts, unsigned heads) {
  DYNAMIC_SHARED(uint4, shared);
  constexpr unsigned KEYS = MMA_KEYS<D>, TILE_NUMBERS = KEYS * VECTOR<D>;
  T *query_tile = reinterpret_cast<T*>(shared), *tiles = query_tile + MMA_ROWS * VECTOR<D>;
  const Share share = share_of(cache, row_starts, row_counts, heads, MMA_ROWS);
  if (share.begin >= share.end) return;
  const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16, start = share.first / KEYS * KEYS;
  const unsigned last_first = first_seen(share.last, cache.window), sees_all_until = position_of(share, share.begin);
  if (ASYNC) {
    bring_tiles<D, SWIZZLE, true>(tiles, tiles + TILE_NUMBERS, cache, share, start);
    cp_async_commit();
  }
  bring_query_tile<D, SWIZZLE>(query_tile, q, share, heads);
  __syncthreads();
  unsigned queries[D / 16][4];
  for (unsigned k = 0; k < D / 16 && D <= 128; k++)
    ldmatrix(queries[k], query_tile + piece_place<D, SWIZZLE>(row + lane % 16, 2 * k + lane / 16));

  Result<D / 8> sums = {};
  Softmax state = {{-INFINITY, -INFINITY}, {0.f, 0.f}};
  // ANCHOR: v3
  for (unsigned tile = start, stage = 0; tile <= share.last; tile += KEYS, stage ^= ASYNC) {
    T *k_tile = tiles + stage * 2 * TILE_NUMBERS, *v_tile = k_tile + TILE_NUMBERS;
    if (ASYNC) {
      T* next = tiles + (stage ^ 1) * 2 * TILE_NUMBERS;
      if (tile + KEYS <= share.last) bring_tiles<D, SWIZZLE, true>(next, next + TILE_NUMBERS, cache, share, tile + KEYS);
      cp_async_commit();  // a group for every tile, empty at the end
      cp_async_wait<1>();
    } else {
      bring_tiles<D, SWIZZLE, false>(k_tile, v_tile, cache, share, tile);
    }
    __syncthreads();
    Result<KEYS / 8> scores = {};
    multiply_keys<D, SWIZZLE>(scores, queries, query_tile, k_tile);
    meet_scores(scores, sums, state, cache, share, tile, last_first <= tile && tile + KEYS - 1 <= sees_all_until);
    multiply_values<D, SWIZZLE>(sums, scores, v_tile);
    __syncthreads();  // before the tiles are overwritten
  }
  // ANCHOR_END: v3
  cp_async_wait<0>();
  write_sums(out, lse, sums, state, share, heads);
}

#define FLASH_ATTENTION(suffix, T)                                                                                                            \
  GLOBAL void __launch_bounds__(128) flash_attention_v0_scores_##suffix(float* scores, unsigned stride, FLASH_PARAMETERS(T)) {               \
    (void)out, (void)lse;                                                                                                                    \
    flash_attention_v0_scores(scores, stride, q, CACHE(T), row_starts, row_counts, heads);                                                  \
  }                                                                                                                                          \
  GLOBAL void __launch_bounds__(128) flash_attention_v0_softmax_##suffix(float* scores, unsigned stride, FLASH_PARAMETERS(T)) {              \
    (void)out, (void)q;                                                                                                                      \
    flash_attention_v0_softmax(scores, stride, lse, CACHE(T), row_starts, row_counts, heads);                                               \
  }                                                                                                                                          \
  GLOBAL void __launch_bounds__(128) flash_attention_v0_output_##suffix(float* scores, unsigned stride, FLASH_PARAMETERS(T)) {               \
    (void)lse, (void)q;                                                                                                                      \
    flash_attention_v0_output(out, scores, stride, CACHE(T), row_starts, row_counts, heads);                                                \
  }                                                                                                                                          \
  GLOBAL void __launch_bounds__(128) flash_attention_v1_##suffix(FLASH_PARAMETERS(T)) { flash_attention_v1(FLASH_ARGUMENTS(T)); }
FOR_EACH_KV_DTYPE(FLASH_ATTENTION)

// At least two blocks a multiprocessor where registers allow it.
#define FLASH_MMA(name, D, suffix, T, SWIZZLE, ASYNC)                                                                             \
  GLOBAL void __launch_bounds__(128, D > 128 ? 1 : 2) name##_d##D##_##suffix(FLASH_PARAMETERS(T)) {                               \
    flash_attention_mma<D, SWIZZLE, ASYNC>(FLASH_ARGUMENTS(T));                                                                   \
  }
#define FLASH_WIDTHS(suffix, T)                                                                                                   \
  FLASH_MMA(flash_attention_v2, 64, suffix, T, true, false)                                                                      \
  FLASH_MMA(flash_attention_v2, 80, suffix, T, true, false)                                                                      \
  FLASH_MMA(flash_attention_v2, 96, suffix, T, true, false)                                                                      \
  FLASH_MMA(flash_attention_v2, 128, suffix, T, true, false)                                                                     \
  FLASH_MMA(flash_attention_v2, 256, suffix, T, true, false)                                                                     \
  FLASH_MMA(flash_attention_v3, 64, suffix, T, true, true)                                                                       \
  FLASH_MMA(flash_attention_v3, 80, suffix, T, true, true)                                                                       \
  FLASH_MMA(flash_attention_v3, 96, suffix, T, true, true)                                                                       \
  FLASH_MMA(flash_attention_v3, 128, suffix, T, true, true)                                                                      \
  FLASH_MMA(flash_attention_v3, 256, suffix, T, true, true)
FLASH_WIDTHS(bf16, bf16)
FLASH_WIDTHS(f16, f16)
// To be counted beside v2.
FLASH_MMA(flash_attention_v2_unswizzled, 64, bf16, bf16, false, false)
FLASH_MMA(flash_attention_v2_unswizzled, 128, bf16, bf16, false, false)
