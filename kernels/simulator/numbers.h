// CUDA's vector types and its numbers of 16 bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

// A vector is read and written by one access, as on a GPU, and not number by number: whoever counts sees a request of 16 bytes.
#define SIMULATOR_COPY(Vector, T, n)                                                              \
  typedef T Whole __attribute__((vector_size(sizeof(T) * n), may_alias));                         \
  Vector() = default;                                                                             \
  Vector(const Vector& from) { *this = from; }                                                    \
  Vector& operator=(const Vector& from) {                                                         \
    *reinterpret_cast<Whole*>(this) = *reinterpret_cast<const Whole*>(&from);                     \
    return *this;                                                                                 \
  }
#define SIMULATOR_VECTOR(T, N)                                                                    \
  struct alignas(sizeof(T) * 2) N##2 {                                                            \
    T x, y;                                                                                       \
    SIMULATOR_COPY(N##2, T, 2)                                                                    \
    N##2(T x, T y) : x(x), y(y) {}                                                                \
  };                                                                                              \
  struct alignas(sizeof(T) * 4) N##4 {                                                            \
    T x, y, z, w;                                                                                 \
    SIMULATOR_COPY(N##4, T, 4)                                                                    \
    N##4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}                                          \
  };                                                                                              \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }                                            \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMULATOR_VECTOR(float, float)
SIMULATOR_VECTOR(int, int)
SIMULATOR_VECTOR(unsigned, uint)

inline unsigned __float_as_uint(float f) {
  unsigned u;
  memcpy(&u, &f, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline int __clz(unsigned u) { return u ? __builtin_clz(u) : 32; }
inline double __longlong_as_double(long long bits) {
  double d;
  memcpy(&d, &bits, 8);
  return d;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
using std::max;
using std::min;

struct __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float(unsigned(h.bits) << 16); }
// To the nearest, ties to even; NaN stays one.
inline __nv_bfloat16 __float2bfloat16(float f) {
  unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 h) { return {__bfloat162float(h.x), __bfloat162float(h.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16(a), __float2bfloat16(b)}; }
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __floats2bfloat162_rn(__bfloat162float(a.x) - __bfloat162float(b.x), __bfloat162float(a.y) - __bfloat162float(b.y));
}

// By their bits: not every compiler has a type for them.
struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline float __half2float(__half h) {
  const unsigned sign = unsigned(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, mantissa = h.bits & 0x3ff;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) return __uint_as_float(sign | __float_as_uint(float(mantissa) * 0x1p-24f));  // subnormal, or zero
  return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}
// To the nearest, ties to even; from 65,520 on infinity; NaN stays one.
inline __half __float2half(float f) {
  const unsigned u = __float_as_uint(f), sign = u >> 16 & 0x8000, size = u & 0x7fffffff;
  if (size > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  if (size >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
  if (size < 0x38800000) return {uint16_t(sign | unsigned(std::lrint(__uint_as_float(size) * 0x1p24f)))};
  return {uint16_t(sign | ((size + 0xfff + (size >> 13 & 1)) - (112u << 23)) >> 13)};
}
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half(a), __float2half(b)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) {
  return __floats2half2_rn(__half2float(a.x) - __half2float(b.x), __half2float(a.y) - __half2float(b.y));
}
