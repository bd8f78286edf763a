// Attention over a paged cache: softmax(q K^T * scale) V, with K and V in blocks that a table names.
//
//   v0   a thread block for each row and query head. Keys in tiles of 64: a thread takes the score of one key, then the numbers of
//        the output are divided among the threads. Reads K and V once for each query head. Any head_dim, f32, bf16 and f16.
//
// Rows of a prompt and rows that decode are the same to it: a row sees the keys up to its own position.
#include "common.cuh"

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
