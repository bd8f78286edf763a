// K and V in blocks: where a token's vector lies, in which dtypes, and how whole pieces of it are read.
#pragma once
#include "common.cuh"

// A number of 8 bits, e4m3: sign, 4 bits of exponent (bias 7), 3 of mantissa; 448 is the largest, and S.1111.111 is NaN (Micikevicius et al.,
// arXiv:2209.05433). A vector of K or V has a scale of its own: value = number * scale.
struct fp8 {
  unsigned char bits;
};

__device__ __forceinline__ float to_float(fp8 x) {
  const unsigned magnitude = x.bits & 0x7f, sign = (x.bits & 0x80u) << 24;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  // The exponent and mantissa of an f32 that is 2^120 times too small, subnormals included.
  return __uint_as_float(sign | magnitude << 20) * 0x1p120f;
}

// To the nearest, ties to even; what is larger than 448 becomes 448.
__device__ __forceinline__ void store(fp8* to, float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  unsigned code;
  if (magnitude > 0x7f800000) code = 0x7f;
  else if (magnitude < 0x3c800000) code = (unsigned)rintf(__uint_as_float(magnitude) * 512.f);  // below 2^-6 in units of 2^-9
  else code = min((magnitude + 0x7ffff + (magnitude >> 20 & 1)) / (1u << 20) - (120u << 3), 0x7eu);
  to->bits = (unsigned char)(sign | code);
}

// ANCHOR: cache
// What attention is told of a cache: k and v are [blocks, kv_heads, block_size, head_dim]; row r's block table begins at
// tables[table_starts[r]]; it sees the `window` keys up to positions[r]; scores are multiplied with `scale`. block_size is a power of two.
#define CACHE_PARAMETERS(T)                                                                                                        \
  const T *k, const T *v, const unsigned *tables, const unsigned *table_starts, const unsigned *positions, unsigned kv_heads,      \
      unsigned head_dim, unsigned block_size, unsigned window, float scale
#define CACHE(T) (Cache<T>{k, v, tables, table_starts, positions, kv_heads, head_dim, block_size, window, scale})
template <class T> struct Cache {
  const T *k, *v;
  const unsigned *tables, *table_starts, *positions;
  unsigned kv_heads, head_dim, block_size, window;
  float scale;
};
// ANCHOR_END: cache

// Numbers of a block. In fp8 the scales are in it too, [kv_heads, block_size] floats behind the numbers; both begin at whole pieces.
template <class T> __device__ __forceinline__ size_t block_numbers(T, unsigned kv_heads, unsigned block_size, unsigned head_dim) {
  return (size_t)kv_heads * block_size * head_dim;
}
__device__ __forceinline__ size_t block_scales(unsigned kv_heads, unsigned block_size, unsigned head_dim) {
  return ((size_t)kv_heads * block_size * head_dim + 3) / 4 * 4;
}
__device__ __forceinline__ size_t block_numbers(fp8, unsigned kv_heads, unsigned block_size, unsigned head_dim) {
  return (block_scales(kv_heads, block_size, head_dim) + (size_t)4 * kv_heads * block_size + 15) / 16 * 16;
}

// Where token t's vector of a head begins.
template <class T>
__device__ __forceinline__ size_t place(const Cache<T>& c, const unsigned* table, unsigned kv_head, unsigned t) {
  const unsigned shift = 31 - __clz(c.block_size);  // t / block_size without a division
  return table[t >> shift] * block_numbers(T(), c.kv_heads, c.block_size, c.head_dim) +
         ((size_t)kv_head * c.block_size + (t & (c.block_size - 1))) * c.head_dim;
}
// What the numbers of token t's vectors are multiplied with, of K (x) and of V (y).
template <class T> __device__ __forceinline__ float2 vector_scales(const Cache<T>&, const unsigned*, unsigned, unsigned) {
  return make_float2(1.f, 1.f);
}
__device__ __forceinline__ float2 vector_scales(const Cache<fp8>& c, const unsigned* table, unsigned kv_head, unsigned t) {
  const unsigned shift = 31 - __clz(c.block_size);
  const size_t at = table[t >> shift] * block_numbers(fp8(), c.kv_heads, c.block_size, c.head_dim) +
                    block_scales(c.kv_heads, c.block_size, c.head_dim) + 4 * (kv_head * c.block_size + (t & (c.block_size - 1)));
  return make_float2(*reinterpret_cast<const float*>(c.k + at), *reinterpret_cast<const float*>(c.v + at));
}

// Numbers in a piece of 16 bytes.
template <class T> constexpr unsigned PIECE = 16 / sizeof(T);

// Two numbers side by side, four, and eight.
__device__ __forceinline__ float2 load2(const float* from) { return *reinterpret_cast<const float2*>(from); }
__device__ __forceinline__ float2 load2(const bf16* from) {
  const unsigned bits = *reinterpret_cast<const unsigned*>(from);
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
__device__ __forceinline__ float2 load2(const f16* from) { return __half22float2(*reinterpret_cast<const __half2*>(from)); }
__device__ __forceinline__ float2 load2(const fp8* from) {
  const unsigned short bits = *reinterpret_cast<const unsigned short*>(from);
  return make_float2(to_float(fp8{(unsigned char)bits}), to_float(fp8{(unsigned char)(bits >> 8)}));
}

__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
template <class T> __device__ __forceinline__ float4 load4(const T* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const float2 a = load2(reinterpret_cast<const T*>(&bits.x)), b = load2(reinterpret_cast<const T*>(&bits.y));
  return make_float4(a.x, a.y, b.x, b.y);
}
__device__ __forceinline__ float4 load4(const fp8* from) {
  const unsigned bits = *reinterpret_cast<const unsigned*>(from);
  return make_float4(to_float(fp8{(unsigned char)bits}), to_float(fp8{(unsigned char)(bits >> 8)}), to_float(fp8{(unsigned char)(bits >> 16)}),
                     to_float(fp8{(unsigned char)(bits >> 24)}));
}

__device__ __forceinline__ void load8(float2 (&to)[4], const float* from) {
  const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
  to[0] = make_float2(a.x, a.y), to[1] = make_float2(a.z, a.w), to[2] = make_float2(b.x, b.y), to[3] = make_float2(b.z, b.w);
}
template <class T> __device__ __forceinline__ void load8(float2 (&to)[4], const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const unsigned each[4] = {bits.x, bits.y, bits.z, bits.w};
  for (unsigned i = 0; i < 4; i++) to[i] = load2(reinterpret_cast<const T*>(&each[i]));
}
__device__ __forceinline__ void load8(float2 (&to)[4], const fp8* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const unsigned short each[4] = {(unsigned short)bits.x, (unsigned short)(bits.x >> 16), (unsigned short)bits.y, (unsigned short)(bits.y >> 16)};
  for (unsigned i = 0; i < 4; i++) to[i] = load2(reinterpret_cast<const fp8*>(&each[i]));
}

// e^(x - largest), and 0 for what was never seen, also if nothing was.
__device__ __forceinline__ float weight_of(float x, float largest) { return x == -INFINITY ? 0.f : expf(x - largest); }

// The first key that a position sees.
__device__ __forceinline__ unsigned first_seen(unsigned position, unsigned window) { return position + 1 > window ? position + 1 - window : 0; }

// A kernel for each dtype that K and V can be kept in.
#define FOR_EACH_KV_DTYPE(KERNEL) FOR_EACH_DTYPE(KERNEL) KERNEL(fp8, fp8)
