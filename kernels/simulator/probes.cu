// Kernels that show what one instruction does: tests/suite/simulator.rs compares them with plain loops. Run by one warp.
#include "../ptx.cuh"

// c = a b by tensor cores. a: [16, 16], b: [8, 16] (its columns), 16 bits; c: [16, 8].
template <bool F16>
__device__ void probe_mma(float* c, const unsigned short* a, const unsigned short* b) {
  SHARED(unsigned short, tile, [16 * 16 + 8 * 16]);
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) tile[i] = a[i];
  for (unsigned i = lane; i < 128; i += 32) tile[256 + i] = b[i];
  __syncwarp();
  unsigned fa[4], fb4[4];
  // Matrices: rows 0 to 7 and 8 to 15 of columns 0 to 7, then of columns 8 to 15.
  ldmatrix(fa, &tile[lane % 16 * 16 + lane / 16 * 8]);
  // b has only two matrices; lanes 16 to 31 give the same addresses again.
  ldmatrix(fb4, &tile[256 + lane % 8 * 16 + lane / 8 % 2 * 8]);
  const unsigned fb[2] = {fb4[0], fb4[1]};
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  if (F16) mma_f16(sums, fa, fb);
  else mma_bf16(sums, fa, fb);
  const unsigned g = lane / 4, t = lane % 4 * 2;
  for (unsigned h = 0; h < 4; h++) c[(g + h / 2 * 8) * 8 + t + h % 2] = sums[h];
}
GLOBAL void probe_mma_bf16(float* c, const unsigned short* a, const unsigned short* b) { probe_mma<false>(c, a, b); }
GLOBAL void probe_mma_f16(float* c, const unsigned short* a, const unsigned short* b) { probe_mma<true>(c, a, b); }

// Each of four 8 x 8 matrices transposed: y, x: [4, 8, 8] numbers of 16 bits.
GLOBAL void probe_transpose(unsigned short* y, const unsigned short* x) {
  SHARED(unsigned short, tile, [256]);
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) tile[i] = x[i];
  __syncwarp();
  unsigned got[4];
  ldmatrix_transposed(got, &tile[lane * 8]);
  for (unsigned j = 0; j < 4; j++) {
    y[j * 64 + lane / 4 * 8 + lane % 4 * 2] = (unsigned short)got[j];
    y[j * 64 + lane / 4 * 8 + lane % 4 * 2 + 1] = (unsigned short)(got[j] >> 16);
  }
}

// Two groups of asynchronous copies; the second is filled with zeros for lanes from 16 on. y, x: [2, 32, 4]; the first group is used while
// the second is on its way.
GLOBAL void probe_cp_async(float* y, const float* x) {
  SHARED(float, tile, [2 * 32 * 4]);
  const unsigned lane = threadIdx.x;
  cp_async(&tile[lane * 4], x + lane * 4);
  cp_async_commit();
  cp_async(&tile[128 + lane * 4], x + 128 + lane * 4, lane < 16);
  cp_async_commit();
  cp_async_wait<1>();
  __syncwarp();
  for (unsigned i = 0; i < 4; i++) y[lane * 4 + i] = tile[(lane * 4 + i + 4) % 128];  // the next lane's
  cp_async_wait<0>();
  __syncwarp();
  for (unsigned i = 0; i < 4; i++) y[128 + lane * 4 + i] = tile[128 + (lane * 4 + i + 4) % 128];
}

// Shuffles and votes, a row of 32 numbers each. x: [32].
GLOBAL void probe_warp(unsigned* y, const unsigned* x) {
  const unsigned lane = threadIdx.x, mine = __ldg(x + lane);
  y[lane] = __shfl_sync(~0u, mine, 5);
  y[32 + lane] = __shfl_xor_sync(~0u, mine, 16);
  y[64 + lane] = __shfl_down_sync(~0u, mine, 3, 8);
  y[96 + lane] = __shfl_up_sync(~0u, mine, 1);
  y[128 + lane] = __ballot_sync(~0u, mine % 3 == 0);
  y[160 + lane] = (unsigned)__any_sync(~0u, mine == 1000) * 2 + (unsigned)__all_sync(~0u, mine < 1000);
  y[192 + lane] = 0;
  if (lane < 8) y[192 + lane] = __shfl_xor_sync(0xffu, mine, 1);  // the others don't come
}

// Atomic operations by a block of 64: sums, the largest, a lock. y: [4], zeros before.
GLOBAL void probe_atomics(unsigned* y) {
  SHARED(unsigned, count, [1]);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(&count[0], threadIdx.x);
  atomicMax(y + 1, threadIdx.x);
  if (atomicCAS(y + 2, 0u, threadIdx.x + 1) == 0) atomicExch(y + 3, 7u);
  __syncthreads();
  if (threadIdx.x == 0) y[0] = count[0];
}

// All numbers of 16 bits to f32 and back. y: [n] of 16 bits, wide: [n], x: [n].
GLOBAL void probe_bf16(bf16* y, float* wide, const bf16* x, size_t n) {
  const size_t i = thread_number();
  if (i < n) store(y + i, wide[i] = to_float(x[i]));
}
GLOBAL void probe_f16(f16* y, float* wide, const f16* x, size_t n) {
  const size_t i = thread_number();
  if (i < n) store(y + i, wide[i] = to_float(x[i]));
}
