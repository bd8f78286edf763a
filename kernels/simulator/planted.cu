// Kernels with one bug each. The simulator's checkers must find them, in every block: tests/suite/simulator.rs. A kernel that takes `only` has its
// bug in that block alone, or in all of them if it is the largest number.
#include "../ptx.cuh"

#define BUGGY (only == ~0u || blockIdx.x == only)

// No barrier between the write and the read of another thread's number.
GLOBAL void planted_missing_barrier(float* out, const unsigned*, unsigned only) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = threadIdx.x + 128.f * blockIdx.x;
  if (!BUGGY) __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[(threadIdx.x + 1) % 128];
}

// The barrier before numbers are overwritten is missing: right in one order of threads, and wrong in another.
GLOBAL void planted_missing_second_barrier(float* out, const unsigned*, unsigned only) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const float next = numbers[(threadIdx.x + 1) % 128];
  if (!BUGGY) __syncthreads();
  numbers[threadIdx.x] = 2.f * next;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[threadIdx.x];
}

// Half of the block waits at a barrier, and the other half has returned.
GLOBAL void planted_divergent_barrier(float* out) {
  if (threadIdx.x < 64) __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = 1.f;
}

// A shuffle names lanes that never come.
GLOBAL void planted_wrong_mask(float* out) {
  float x = threadIdx.x;
  if (threadIdx.x % 32 < 20) x += __shfl_xor_sync(0xffffffffu, x, 1);
  out[blockIdx.x * 128 + threadIdx.x] = x;
}

// Lanes exchange numbers in shared memory, with a shuffle where a __syncwarp belongs.
GLOBAL void planted_missing_syncwarp(float* out, const unsigned*, unsigned only) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = threadIdx.x;
  if (!BUGGY) __syncwarp();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[threadIdx.x ^ 1];
}

// One thread steps out of its variable, of dynamic shared memory, of a global allocation.
GLOBAL void planted_outside_static(float* out, const unsigned*, unsigned only) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x + (BUGGY && threadIdx.x == 127)] = 1.f;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[threadIdx.x];
}
GLOBAL void planted_outside_dynamic(float* out, const unsigned*, unsigned only) {
  DYNAMIC_SHARED(float, numbers);
  numbers[threadIdx.x + (BUGGY && threadIdx.x == 127)] = 1.f;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[threadIdx.x];
}
GLOBAL void planted_outside_global(float* out, const unsigned*, unsigned only) {
  out[BUGGY && threadIdx.x == 127 ? gridDim.x * 128 : blockIdx.x * 128 + threadIdx.x] = 1.f;
}

// One number of shared memory is never written.
GLOBAL void planted_unwritten(float* out) {
  DYNAMIC_SHARED(float, numbers);
  if (threadIdx.x) numbers[threadIdx.x] = 1.f;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[threadIdx.x ^ 1];
}

// Nothing is wrong with this one.
GLOBAL void planted_nothing(float* out) {
  SHARED(float, numbers, [128]);
  numbers[threadIdx.x] = threadIdx.x;
  __syncthreads();
  float x = numbers[(threadIdx.x + 1) % 128];
  for (int flip = 16; flip > 0; flip /= 2) x += __shfl_xor_sync(0xffffffffu, x, flip);
  __syncthreads();
  numbers[threadIdx.x] = x;
  __syncwarp();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[threadIdx.x ^ 1];
}

// Right, and slow: the lanes of a warp read a column, all from one bank. The second half has a column more, and no conflict.
GLOBAL void planted_bank_conflict(float* out) {
  SHARED(float, square, [32][32]);
  SHARED(float, padded, [32][33]);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned row = 0; row < 32; row++) square[row][lane] = padded[row][lane] = row;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = square[lane][0] + padded[lane][0];
}

// A copy is on its way, and nobody waits for it.
GLOBAL void planted_missing_wait(float* out, const unsigned*, unsigned only) {
  SHARED(float, numbers, [128 * 4]);
  cp_async(&numbers[threadIdx.x * 4], out, false);  // zeros
  cp_async_commit();
  if (!BUGGY) cp_async_wait<0>();
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = numbers[(threadIdx.x * 4 + 4) % 512];
}

// The block table of two blocks is read one entry too far: tables lie one after the other in a buffer that ends there.
GLOBAL void planted_past_the_table(float* out, const unsigned* table, unsigned only) {
  out[blockIdx.x * 128 + threadIdx.x] = (float)table[threadIdx.x / 64 + (BUGGY && threadIdx.x == 127)];
}
