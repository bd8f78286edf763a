// The first kernels of chapter 5, for main.rs.

// ANCHOR: who
// y[i] = the block's number times 100 and the thread's number.
GLOBAL void who(unsigned* y) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = blockIdx.x * 100 + threadIdx.x;
}
// ANCHOR_END: who

// ANCHOR: strided
// Lane i reads number i * stride.
GLOBAL void strided(float* y, const float* x, unsigned stride) { y[threadIdx.x] = x[threadIdx.x * stride]; }

// The same in shared memory.
GLOBAL void strided_shared(float* y, unsigned stride) {
  SHARED(float, numbers, [32 * 33]);
  for (unsigned i = threadIdx.x; i < 32 * 33; i += 32) numbers[i] = i;
  __syncwarp();
  y[threadIdx.x] = numbers[threadIdx.x * stride];
}
// ANCHOR_END: strided

// ANCHOR: race
// y[i] = 2 * the number of the next thread. What is missing?
GLOBAL void race(float* y) {
  SHARED(float, numbers, [64]);
  numbers[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const float next = numbers[(threadIdx.x + 1) % 64];
  numbers[threadIdx.x] = 2 * next;
  __syncthreads();
  y[threadIdx.x] = numbers[threadIdx.x];
}
// ANCHOR_END: race
