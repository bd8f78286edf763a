// CUDA C++ for a host compiler: what a kernel file of this project may use, with CUDA's names and meaning.
//
//   fiber.h    stacks, and the switch between them
//   block.h    a thread block: its threads, its barriers, its shared memory
//   launch.h   a grid of blocks
//   warp.h     shuffles and votes          atomics.h   atomic operations
//   numbers.h  vector types, bf16, f16     tensor.h    mma, ldmatrix, cp.async
//   hopper.h   wgmma, mbarriers
//   counters.h what a kernel reads and writes
//
// Not simulated: several blocks at a time on one multiprocessor, caches, and races between blocks.
#pragma once
#include "launch.h"
#include "numbers.h"
#include "warp.h"
#include "atomics.h"
#include "tensor.h"
#include "hopper.h"

// A file's functions are its own: it is compiled twice, to run and to be counted.
#define GLOBAL static
#define __device__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define SHARED(type, name, dims)   \
  using name##_type = type dims;   \
  name##_type& name = simulator::shared<name##_type>([] {})
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(simulator::block.dynamic_shared)

#define threadIdx (simulator::block.current->index)
#define blockIdx (simulator::block.index)
#define blockDim (simulator::block.dim)
#define gridDim (simulator::block.grid)
constexpr int warpSize = 32;

template <class T> T __ldg(const T* place) { return *place; }
