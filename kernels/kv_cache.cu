// Writing K and V into the blocks of a paged cache, [blocks, kv_heads, block_size, head_dim] each.
#include "common.cuh"

// k, v: [rows, kv_heads * head_dim] go to `slots`, [rows]: block * block_size + place in the block. grid: rows.
// A row whose slot is the largest number is padding, and is written nowhere.
template <class T>
__device__ void write_kv(T* k_cache, T* v_cache, const float* k, const float* v, const unsigned* slots, unsigned kv_heads,
                         unsigned head_dim, unsigned block_size) {
  const unsigned slot = slots[blockIdx.x];
  if (slot == 0xffffffffu) return;
  const unsigned block = slot / block_size, place = slot % block_size, width = kv_heads * head_dim;
  for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
    const unsigned head = i / head_dim, d = i % head_dim;
    const size_t to = (((size_t)block * kv_heads + head) * block_size + place) * head_dim + d;
    store(k_cache + to, k[(size_t)blockIdx.x * width + i]);
    store(v_cache + to, v[(size_t)blockIdx.x * width + i]);
  }
}
#define WRITE_KV(suffix, T)                                                                                                       \
  GLOBAL void write_kv_##suffix(T* k_cache, T* v_cache, const float* k, const float* v, const unsigned* slots,     \
                                               unsigned kv_heads, unsigned head_dim, unsigned block_size) {                       \
    write_kv(k_cache, v_cache, k, v, slots, kv_heads, head_dim, block_size);                                                      \
  }
FOR_EACH_DTYPE(WRITE_KV)
