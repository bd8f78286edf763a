// Instructions that only a Hopper (sm_90a) has, each with its meaning and its section in the PTX ISA. On the simulator they are the functions of
// simulator/hopper.h. For other GPUs they compile to a trap: a kernel that uses them is launched on a Hopper alone.
#pragma once
#include "ptx.cuh"

// CALLER: the line of a call in a kernel, for the simulator's messages.
#ifdef __CUDACC__
#define CALLER
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER(...) __VA_ARGS__
#else
#define HOPPER(...) __trap();
#endif
// Dynamic shared memory for swizzled tiles: a swizzle goes by address bits, and repeats after 1024 bytes.
#define SWIZZLED_SHARED(type, name) extern __shared__ __align__(1024) type name[]
#else
#define CALLER , SIMULATOR_LINE
#define SWIZZLED_SHARED(type, name) DYNAMIC_SHARED(type, name)
#endif

__device__ __forceinline__ unsigned shared_address(const void* at) {
#ifdef __CUDACC__
  return (unsigned)__cvta_generic_to_shared(at);
#else
  return simulator::shared_address(at);
#endif
}

// An mbarrier: 8 bytes of shared memory that count arrivals. After `arrivals` of them a phase is over, and the next begins by itself; phases have
// parity 0, 1, 0, ... One thread makes it, and all meet at a barrier before they use it. PTX ISA, "mbarrier".
typedef unsigned long long Mbarrier;
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, unsigned arrivals CALLER) {
#ifdef __CUDACC__
  HOPPER(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");)
#else
  simulator::mbarrier_init(barrier, arrivals, line);
#endif
}
// What this thread did before, others see after their wait.
__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier CALLER) {
#ifdef __CUDACC__
  HOPPER(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");)
#else
  simulator::mbarrier_arrive(barrier, line);
#endif
}
// Waits for the end of the phase with this parity. Of a new barrier, that "before the first" has parity 1, and is over.
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, unsigned parity CALLER) {
#ifdef __CUDACC__
  HOPPER(unsigned over; do asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}\n"
                                        : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory"); while (!over);)
#else
  simulator::mbarrier_wait(barrier, parity, line);
#endif
}
// Arrives when all copies that this thread has begun are there. noinc: it is one of the arrivals that the barrier was made for.
// PTX ISA, "cp.async.mbarrier.arrive".
__device__ __forceinline__ void cp_async_arrive(Mbarrier* barrier CALLER) {
#ifdef __CUDACC__
  HOPPER(asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(shared_address(barrier)) : "memory");)
#else
  simulator::cp_async_arrive(barrier, line);
#endif
}

// What is known of shared memory by ordinary means, written by st.shared or cp.async, is then known to wgmma, which goes by the "async proxy".
// A fence must lie on the way from the write to the read. Copies that arrive by themselves leave their thread no moment for it between the
// two, so whoever has waited at the mbarrier has the fence, before its wgmma. The way back needs none: the end of a wgmma is such a fence.
// PTX ISA, "Async proxy" and "membar/fence".
__device__ __forceinline__ void fence_proxy_async() {
#ifdef __CUDACC__
  HOPPER(asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");)
#else
  simulator::fence_proxy_async();
#endif
}

// Gives a thread of this warpgroup more registers, or fewer, a multiple of 8: all its warps come here. PTX ISA, "setmaxnreg".
template <unsigned N> __device__ __forceinline__ void registers_up() {
#ifdef __CUDACC__
  HOPPER(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));)
#endif
}
template <unsigned N> __device__ __forceinline__ void registers_down() {
#ifdef __CUDACC__
  HOPPER(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));)
#endif
}

// The compiler does not know that a product uses its registers until a wait: these numbers are there before what follows, and read after it.
template <unsigned N> __device__ __forceinline__ void hold([[maybe_unused]] float (&c)[N][4]) {
#ifdef __CUDACC__
#pragma unroll
  for (unsigned i = 0; i < N; i++) asm volatile("" : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])::"memory");
#endif
}
template <unsigned N> __device__ __forceinline__ void hold([[maybe_unused]] unsigned (&a)[N][4]) {
#ifdef __CUDACC__
#pragma unroll
  for (unsigned i = 0; i < N; i++) asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
#endif
}
// Before the first wgmma after registers were touched that it uses; the end of a group; and a wait until at most KEEP groups are on their way, after
// which c may be read. PTX ISA, "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group".
__device__ __forceinline__ void wgmma_fence() {
#ifdef __CUDACC__
  HOPPER(asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");)
#else
  simulator::wgmma_fence();
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#ifdef __CUDACC__
  HOPPER(asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");)
#else
  simulator::wgmma_commit();
#endif
}
template <int KEEP, unsigned N> __device__ __forceinline__ void wgmma_wait(float (&c)[N][4] CALLER) {
#ifdef __CUDACC__
  HOPPER(asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(KEEP) : "memory");)
  hold(c);
#else
  (void)c;
  simulator::wgmma_wait(KEEP, line);
#endif
}

// Where B lies, in rows of 128 bytes whose pieces of 16 are swizzled: piece p of row r at piece p ^ (r % 8). 8 rows are 1024 bytes.
//   K-major: a row is a column of B, its 64 numbers along k. stride: bytes from 8 columns to the next 8. leading: not used
//   transposed: a row is a row of B, 64 columns of it. stride: bytes from 8 rows to the next 8. leading: from 64 columns to the next 64
// A product takes 16 of k: the next 16 are 32 bytes on in K-major, and two strides on in a transposed B.
// PTX ISA, "Matrix Descriptor Format" of wgmma, and "Strides".
__device__ __forceinline__ unsigned long long swizzled(const void* at, unsigned leading, unsigned stride) {
  return (unsigned long long)((shared_address(at) & 0x3ffff) >> 4) | (unsigned long long)(leading >> 4) << 16 |
         (unsigned long long)(stride >> 4) << 32 | 1ull << 62;
}

// c += a b (without `add`: c = a b) for a warpgroup: 4 warps, a 64 x 16 in registers, b 16 x N in shared memory, bf16 (f16), c 64 x N, f32. Warp w has
// rows 16 w to 16 w + 15, in the places of mma_bf16: c[i] is what mma has of columns 8 i to 8 i + 7. TRANSPOSED: see above.
// PTX ISA, "wgmma.mma_async", "Register Fragments for wgmma.mma_async.m64nNk16".
#ifdef __CUDACC__
#define C4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define C32(i) C4(i), C4(i + 1), C4(i + 2), C4(i + 3), C4(i + 4), C4(i + 5), C4(i + 6), C4(i + 7)
#define A4 "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
#define TO31 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TO63 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_64(types)                                                                                                                     \
  HOPPER(asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." types " " TO31                   \
                      "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;}\n"                                                                        \
                      : C32(0) : A4, "l"(b), "r"((int)add), "n"((int)TRANSPOSED));)
#define WGMMA_128(types)                                                                                                                    \
  HOPPER(asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." types " " TO31 TO63             \
                      "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70;}\n"                                                                        \
                      : C32(0), C32(8) : A4, "l"(b), "r"((int)add), "n"((int)TRANSPOSED));)
#define WGMMA(N, types, F16) WGMMA_##N(types)
#else
#define WGMMA(N, types, F16) simulator::wgmma({&c[0][0], {a[0], a[1], a[2], a[3]}, b, N, add, TRANSPOSED, F16, 0, {}}, line);
#endif
#define WGMMA_BY_DTYPE(N)                                                                                                          \
  template <bool TRANSPOSED>                                                                                                       \
  __device__ __forceinline__ void wgmma(float (&c)[N / 8][4], const unsigned (&a)[4], unsigned long long b, bool add, bf16 CALLER) { \
    WGMMA(N, "bf16.bf16", false)                                                                                                   \
  }                                                                                                                                \
  template <bool TRANSPOSED>                                                                                                       \
  __device__ __forceinline__ void wgmma(float (&c)[N / 8][4], const unsigned (&a)[4], unsigned long long b, bool add, f16 CALLER) { \
    WGMMA(N, "f16.f16", true)                                                                                                      \
  }
WGMMA_BY_DTYPE(64)
WGMMA_BY_DTYPE(128)
#undef WGMMA_BY_DTYPE
#undef WGMMA
#ifdef __CUDACC__
#undef WGMMA_64
#undef WGMMA_128
#undef C4
#undef C32
#undef A4
#undef TO31
#undef TO63
#endif
