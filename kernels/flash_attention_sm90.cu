// Attention for the rows of prompts on a Hopper: the next version after those in flash_attention.cu, with the same parameters and the same results.
//
//   v4   a producer brings tiles, two warpgroups multiply them by wgmma, and mbarriers tell each what the other has done
//          predicted: of K and V half of v3's reads, since a tile has 128 packed rows. Counted at 512 tokens: 0.61 times v3's bytes, Q included.
//          wgmma takes K and V from shared memory by itself: no ldmatrix and no registers for them, and 64 rows use what was read once. While
//          one warpgroup is at its softmax, the other multiplies
//          loses: prompts of few rows, where a block of 128 is mostly empty; one block of 384 threads a multiprocessor; head_dim 64 and 128 alone;
//          a warpgroup waits for its own products, where FlashAttention-3 begins the next ones before the softmax
//
// It has not run on any GPU. The simulator runs its wrappers one warp at a time, and reads tiles through descriptor and swizzle (simulator/hopper.h).
//
// Why cp.async, and not the bulk copies of TMA: K and V lie in blocks, of 16 tokens mostly, anywhere in memory, and a block's size is not known when this is
// compiled. TMA would want a tensor map, and a copy for every block; a gather by cp.async takes any block size, puts each piece of 16 bytes
// at its swizzled place, and arrives at the mbarrier by itself. FlashAttention-3 does the same for small pages.
#include "flash_attention.cuh"
#include "hopper.cuh"

// ANCHOR: ring
constexpr unsigned V4_ROWS = 128, V4_KEYS = 64, V4_STAGES = 2, V4_CONSUMERS = 256, V4_THREADS = 384;
// A tile of K or V: panels of 64 numbers, 128 bytes, a key; of each 8 keys the pieces are swizzled.
template <unsigned D> constexpr unsigned V4_TILE = V4_KEYS * D;
constexpr unsigned PANEL_BYTES = V4_KEYS * 128, EIGHT_KEYS = 1024;

// Stage s of the ring is a tile of K and one of V. Dynamic shared memory: the stages, then the two barriers of each, 256 D V4_STAGES + 32 bytes.
//   full    the copies of all producer threads have landed
//   empty   all consumer warps have read the tiles
template <class T> struct Ring {
  T* tiles;
  Mbarrier *full, *empty;
};
template <unsigned D, class T> __device__ __forceinline__ T* k_tile(const Ring<T>& ring, unsigned turn) {
  return ring.tiles + turn % V4_STAGES * 2 * V4_TILE<D>;
}
template <unsigned D, class T> __device__ __forceinline__ T* v_tile(const Ring<T>& ring, unsigned turn) { return k_tile<D>(ring, turn) + V4_TILE<D>; }
// The phase of a barrier that belongs to a turn.
__device__ __forceinline__ unsigned phase_of(unsigned turn) { return turn / V4_STAGES % 2; }
// ANCHOR_END: ring

// One tile of K and one of V on their way: each of four warps brings a quarter of the keys, and asks the table once for each. Zeros for keys that no
// row sees.
template <unsigned D, class T>
__device__ __forceinline__ void gather(T* to_k, T* to_v, const Cache<T>& cache, const Share& share, unsigned tile) {
  constexpr unsigned MINE = V4_KEYS / 4, PIECES = D / 8;
  const unsigned lane = threadIdx.x % 32, begin = threadIdx.x / 32 % 4 * MINE, mine = tile + begin + lane % MINE;
  const size_t at = share.first <= mine && mine <= share.last ? place(cache, share.table, share.kv_head, mine) : 0;
#pragma unroll
  for (unsigned i = lane; i < MINE * PIECES; i += 32) {
    const unsigned key = begin + i / PIECES, piece = i % PIECES, t = tile + key;
    const size_t from = __shfl_sync(0xffffffffu, at, (int)(i / PIECES)) + 8 * piece;
    const bool seen = share.first <= t && t <= share.last;
    const unsigned to = piece / 8 * V4_KEYS * 64 + key * 64 + (piece % 8 ^ key % 8) * 8;
    cp_async(to_k + to, cache.k + from, seen);
    cp_async(to_v + to, cache.v + from, seen);
  }
}

// ANCHOR: produce
template <unsigned D, class T> __device__ __forceinline__ void produce(const Ring<T>& ring, const Cache<T>& cache, const Share& share) {
  unsigned turn = 0;
  for (unsigned tile = share.first / V4_KEYS * V4_KEYS; tile <= share.last; tile += V4_KEYS, turn++) {
    mbarrier_wait(ring.empty + turn % V4_STAGES, phase_of(turn) ^ 1);  // passes at once in the first round
    gather<D>(k_tile<D>(ring, turn), v_tile<D>(ring, turn), cache, share, tile);
    cp_async_arrive(ring.full + turn % V4_STAGES);
  }
  cp_async_commit();
  cp_async_wait<0>();  // nothing is on its way when a thread ends
}
// ANCHOR_END: produce

// A lane's part of its warp's 16 rows of Q, in 16 bits: where mma wants its first operand.
template <unsigned D, class T>
__device__ __forceinline__ void load_queries(unsigned (&queries)[D / 16][4], const float* q, const Share& share, unsigned heads) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned i = 0; i < 2; i++) {
    const unsigned packed = share.begin + threadIdx.x / 32 * 16 + lane / 4 + 8 * i;
    const float* row = q + (packed < share.end ? place_of(share, packed, heads) * D : 0) + lane % 4 * 2;
#pragma unroll
    for (unsigned k = 0; k < D / 8; k++) {
      const float2 two = packed < share.end ? load2(row + 8 * k) : make_float2(0.f, 0.f);
      queries[k / 2][k % 2 * 2 + i] = two_of(two.x, two.y, T());
    }
  }
}

// scores = queries keys^T: K lies along head_dim, K-major.
template <unsigned D, class T>
__device__ __forceinline__ void multiply_keys_async(Result<V4_KEYS / 8>& scores, const unsigned (&queries)[D / 16][4], const T* keys) {
  hold(scores);
  wgmma_fence();
#pragma unroll
  for (unsigned k = 0; k < D / 16; k++)
    wgmma<false>(scores, queries[k], swizzled(keys + k / 4 * V4_KEYS * 64 + k % 4 * 16, 0, EIGHT_KEYS), k > 0, T());
  wgmma_commit();
}

// sums += weights values: what is summed over are keys, and V lies along head_dim, so it is transposed.
template <unsigned D, class T>
__device__ __forceinline__ void multiply_values_async(Result<D / 8>& sums, const Result<V4_KEYS / 8>& weights, const T* values) {
  unsigned a[V4_KEYS / 16][4];
#pragma unroll
  for (unsigned k = 0; k < V4_KEYS / 16; k++)
#pragma unroll
    for (unsigned i = 0; i < 4; i++) a[k][i] = two_of(weights[2 * k + i / 2][i % 2 * 2], weights[2 * k + i / 2][i % 2 * 2 + 1], T());
  hold(a), hold(sums);
  wgmma_fence();
#pragma unroll
  for (unsigned k = 0; k < V4_KEYS / 16; k++) wgmma<true>(sums, a[k], swizzled(values + k * 16 * 64, PANEL_BYTES, EIGHT_KEYS), true, T());
  wgmma_commit();
}

// ANCHOR: consume
// A warpgroup has 64 packed rows: warps 0 to 7 of the block have 16 each, as in meet_scores.
template <unsigned D, class T>
__device__ __forceinline__ void consume(float* out, float* lse, const float* q, const Ring<T>& ring, const Cache<T>& cache, const Share& share,
                                        unsigned heads) {
  const unsigned begin = share.begin + threadIdx.x / 128 * 64, last = min(position_of(share, begin + 63), share.last);
  const unsigned last_first = first_seen(last, cache.window), sees_all_until = position_of(share, begin);
  unsigned queries[D / 16][4];
  load_queries<D, T>(queries, q, share, heads);
  hold(queries);
  Result<D / 8> sums = {};
  Result<V4_KEYS / 8> scores = {};
  Softmax state = {{-INFINITY, -INFINITY}, {0.f, 0.f}};
  unsigned turn = 0;
  for (unsigned tile = share.first / V4_KEYS * V4_KEYS; tile <= share.last; tile += V4_KEYS, turn++) {
    mbarrier_wait(ring.full + turn % V4_STAGES, phase_of(turn));
    fence_proxy_async();
    multiply_keys_async<D>(scores, queries, k_tile<D>(ring, turn));
    wgmma_wait<0>(scores);
    meet_scores(scores, sums, state, cache, share, tile, last_first <= tile && tile + V4_KEYS - 1 <= sees_all_until);
    multiply_values_async<D>(sums, scores, v_tile<D>(ring, turn));
    wgmma_wait<0>(sums);
    if (threadIdx.x % 32 == 0) mbarrier_arrive(ring.empty + turn % V4_STAGES);
  }
  write_sums(out, lse, sums, state, share, heads);
}
// ANCHOR_END: consume

// ANCHOR: v4
template <unsigned D, class T>
__device__ __forceinline__ void flash_attention_v4(float* out, float* lse, const float* q, const Cache<T>& cache, const unsigned* row_starts,
                                                   const unsigned* row_counts, unsigned heads) {
  SWIZZLED_SHARED(uint4, swizzled_tiles);
  Ring<T> ring;
  ring.tiles = reinterpret_cast<T*>(swizzled_tiles);
  ring.full = reinterpret_cast<Mbarrier*>(ring.tiles + V4_STAGES * 2 * V4_TILE<D>);
  ring.empty = ring.full + V4_STAGES;
  const Share share = share_of(cache, row_starts, row_counts, heads, V4_ROWS);
  if (share.begin >= share.end) return;
  if (threadIdx.x == 0) {
    for (unsigned stage = 0; stage < V4_STAGES; stage++) {
      mbarrier_init(ring.full + stage, V4_THREADS - V4_CONSUMERS);
      mbarrier_init(ring.empty + stage, V4_CONSUMERS / 32);
    }
  }
  __syncthreads();  // the last time that all meet
  // 384 threads begin with 168 registers each; a producer needs few, and a consumer many: 40 + 2 * 232 = 3 * 168.
  if (threadIdx.x >= V4_CONSUMERS) {
    registers_down<40>();
    produce<D>(ring, cache, share);
  } else {
    registers_up<232>();
    consume<D>(out, lse, q, ring, cache, share, heads);
  }
}
// ANCHOR_END: v4

#define FLASH_V4(D, suffix, T)                                                                                    \
  GLOBAL void __launch_bounds__(384, 1) flash_attention_v4_d##D##_##suffix(FLASH_PARAMETERS(T)) {                 \
    flash_attention_v4<D>(FLASH_ARGUMENTS(T));                                                                    \
  }
FLASH_V4(64, bf16, bf16)
FLASH_V4(128, bf16, bf16)
FLASH_V4(64, f16, f16)
FLASH_V4(128, f16, f16)
