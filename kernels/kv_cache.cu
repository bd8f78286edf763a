// Writing K and V into the blocks of a paged cache (see paged_cache.cuh), alone and together with the rotation of q and k.
#include "paged_cache.cuh"

// Writes one vector, by a warp; number d of it is value(d). `vector` counts the vectors of the block. The last argument is a scale of fp8.
template <class T, class F>
__device__ __forceinline__ void write_vector(T* block, unsigned vector, size_t, unsigned head_dim, F value, float) {
  for (unsigned d = threadIdx.x % 32; d < head_dim; d += 32) store(block + (size_t)vector * head_dim + d, value(d));
}

// In fp8 the scale goes behind the block's numbers. It is the one that is given, or, for 0, makes the vector's largest number 448.
template <class F>
__device__ __forceinline__ void write_vector(fp8* block, unsigned vector, size_t scales, unsigned head_dim, F value, float given) {
  float largest = 0.f;
  for (unsigned d = threadIdx.x % 32; d < head_dim; d += 32) largest = fmaxf(largest, fabsf(value(d)));
  for (int flip = 16; flip > 0; flip /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, flip));
  const float scale = given > 0.f ? given : fmaxf(largest / 448.f, 1.17549435e-38f);
  for (unsigned d = threadIdx.x % 32; d < head_dim; d += 32) store(block + (size_t)vector * head_dim + d, value(d) / scale);
  if (threadIdx.x % 32 == 0) reinterpret_cast<float*>(block + scales)[vector] = scale;
}

// Writes the K and V of a row to its slot, a warp for each head in turn. key(head, d): number d of a head of K.
template <class T, class F>
__device__ void write_row(T* k_cache, T* v_cache, const float* v, unsigned slot, unsigned kv_heads, unsigned head_dim, unsigned block_size,
                          float k_scale, float v_scale, F key) {
  const size_t block = slot / block_size * block_numbers(T(), kv_heads, block_size, head_dim);
  const size_t scales = block_scales(kv_heads, block_size, head_dim);
  for (unsigned head = threadIdx.x / 32; head < kv_heads; head += blockDim.x / 32) {
    const unsigned vector = head * block_size + slot % block_size;
    const float* values = v + ((size_t)blockIdx.x * kv_heads + head) * head_dim;
    write_vector(k_cache + block, vector, scales, head_dim, [&](unsigned d) { return key(head, d); }, k_scale);
    write_vector(v_cache + block, vector, scales, head_dim, [&](unsigned d) { return values[d]; }, v_scale);
  }
}

// The scales are those of all K and all V of the layer in fp8, or 0.
// k, v: [rows, kv_heads * head_dim] go to `slots`, [rows]: block * block_size + place in the block. grid: rows; block: whole warps.
// A row whose slot is the largest number is padding, and is written nowhere.
template <class T>
__device__ void write_kv(T* k_cache, T* v_cache, const float* k, const float* v, const unsigned* slots, unsigned kv_heads, unsigned head_dim,
                         unsigned block_size, float k_scale, float v_scale) {
  const unsigned slot = slots[blockIdx.x];
  if (slot == 0xffffffffu) return;
  const float* row = k + (size_t)blockIdx.x * kv_heads * head_dim;
  write_row(k_cache, v_cache, v, slot, kv_heads, head_dim, block_size, k_scale, v_scale,
            [&](unsigned head, unsigned d) { return row[head * head_dim + d]; });
}

// ANCHOR: rope_write_kv
// The same, and before it q and k are rotated to their row's position (see `rope` in elementwise.cu): k on its way into the cache, q in its place,
// [rows, heads * head_dim]. The angles are the same for all heads, and so are worked out once a row.
// grid: rows; block: whole warps; dynamic shared memory: head_dim floats.
template <class T>
__device__ void rope_write_kv(T* k_cache, T* v_cache, float* q, const float* k, const float* v, const unsigned* slots,
                              const unsigned* positions, const float* frequencies, float scaling, unsigned heads, unsigned kv_heads,
                              unsigned head_dim, unsigned block_size, float k_scale, float v_scale) {
  DYNAMIC_SHARED(float, cosines);
  const unsigned half = head_dim / 2, slot = slots[blockIdx.x];
  float* sines = cosines + half;
  if (slot == 0xffffffffu) return;
  for (unsigned j = threadIdx.x; j < half; j += blockDim.x) {
    const float angle = positions[blockIdx.x] * frequencies[j];
    cosines[j] = cosf(angle) * scaling;
    sines[j] = sinf(angle) * scaling;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < heads * half; i += blockDim.x) {
    const unsigned j = i % half;
    float* first = q + ((size_t)blockIdx.x * heads + i / half) * head_dim + j;
    const float a = first[0], b = first[half];
    first[0] = a * cosines[j] - b * sines[j];
    first[half] = b * cosines[j] + a * sines[j];
  }
  const float* row = k + (size_t)blockIdx.x * kv_heads * head_dim;
  write_row(k_cache, v_cache, v, slot, kv_heads, head_dim, block_size, k_scale, v_scale, [&](unsigned head, unsigned d) {
    const float* x = row + head * head_dim;
    return d < half ? x[d] * cosines[d] - x[d + half] * sines[d] : x[d] * cosines[d - half] + x[d - half] * sines[d - half];
  });
}
// ANCHOR_END: rope_write_kv

#define WRITE_KV(suffix, T)                                                                                                        \
  GLOBAL void write_kv_##suffix(T* k_cache, T* v_cache, const float* k, const float* v, const unsigned* slots, unsigned kv_heads,  \
                                unsigned head_dim, unsigned block_size, float k_scale, float v_scale) {                            \
    write_kv(k_cache, v_cache, k, v, slots, kv_heads, head_dim, block_size, k_scale, v_scale);                                     \
  }                                                                                                                                \
  GLOBAL void rope_write_kv_##suffix(T* k_cache, T* v_cache, float* q, const float* k, const float* v, const unsigned* slots,      \
                                     const unsigned* positions, const float* frequencies, float scaling, unsigned heads,           \
                                     unsigned kv_heads, unsigned head_dim, unsigned block_size, float k_scale, float v_scale) {    \
    rope_write_kv(k_cache, v_cache, q, k, v, slots, positions, frequencies, scaling, heads, kv_heads, head_dim, block_size,        \
                  k_scale, v_scale);                                                                                               \
  }
FOR_EACH_KV_DTYPE(WRITE_KV)
