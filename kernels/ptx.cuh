// The instructions that C++ has no name for, six of them, each with its meaning. On a GPU they are PTX; on the simulator the functions
// of simulator/tensor.h.
#pragma once
#include "common.cuh"

// c += a b on a tensor core, for the whole warp: a is 16 x 16, b 16 x 8, both bf16 (f16), c 16 x 8, f32. The numbers are spread over the
// lanes. With g = lane / 4 and t = lane % 4 * 2 a lane holds, two to a register:
//   a: (g, t), (g, t+1) | (g+8, t), .. | (g, t+8), .. | (g+8, t+8), ..      row, column
//   b: (t, g), (t+1, g) | (t+8, g), (t+9, g)                                row, column
//   c: (g, t), (g, t+1), (g+8, t), (g+8, t+1)                               row, column
// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simulator::mma_m16n8k16<false>(c, a, b);
#endif
}
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simulator::mma_m16n8k16<true>(c, a, b);
#endif
}

// By the dtype of a and b.
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16) { mma_bf16(c, a, b); }
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], f16) { mma_f16(c, a, b); }

// Four matrices of 8 x 8 numbers of 16 bits from shared memory: lane 8 j + i gives the address of row i of matrix j, 16 bytes, and gets of
// matrix j the numbers (lane / 4, lane % 4 * 2) and the one after it, as mma wants them. PTX ISA, "ldmatrix".
__device__ __forceinline__ void ldmatrix(unsigned (&to)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((unsigned)__cvta_generic_to_shared(row)));
#else
  simulator::ldmatrix_x4<false>(to, row);
#endif
}
// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_transposed(unsigned (&to)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((unsigned)__cvta_generic_to_shared(row)));
#else
  simulator::ldmatrix_x4<true>(to, row);
#endif
}

// Starts to copy 16 bytes from global to shared memory, or to fill them with zeros if not `real`. Both addresses are multiples of 16.
// The bytes are there for this thread after a wait for their group, and for others after a barrier more. PTX ISA, "cp.async".
__device__ __forceinline__ void cp_async(void* to, const void* from, bool real = true) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from),
               "r"(real ? 16 : 0));
#else
  simulator::cp_async16(to, from, real);
#endif
}
// Ends a group of copies.
__device__ __forceinline__ void cp_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;\n");
#else
  simulator::cp_async_commit();
#endif
}
// Waits until at most KEEP groups of this thread are on their way.
template <int KEEP> __device__ __forceinline__ void cp_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;\n" ::"n"(KEEP));
#else
  simulator::cp_async_wait(KEEP);
#endif
}

// (bits & mask) | set in one instruction: lop3 computes any function of three bits, which is given by its table, here that of (a & b) | c:
// 0xf0 & 0xcc | 0xaa. PTX ISA, "lop3".
__device__ __forceinline__ unsigned and_or(unsigned bits, unsigned mask, unsigned set) {
#ifdef __CUDACC__
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;\n" : "=r"(result) : "r"(bits), "r"(mask), "r"(set));
  return result;
#else
  return (bits & mask) | set;
#endif
}
