// Tensor cores and asynchronous copies: what the instructions in ptx.cuh do.
#pragma once
#include "counters.h"
#include "numbers.h"
#include "warp.h"

namespace simulator {

struct Mma {
  const uint32_t *a, *b;
  float* c;
};

// Half `h` (0: low) of a register, as f32.
template <bool F16> float half_of(uint32_t bits, int h) {
  uint16_t part = static_cast<uint16_t>(bits >> 16 * h);
  if constexpr (F16) {
    __half value;
    memcpy(&value, &part, 2);
    return __half2float(value);
  }
  return __bfloat162float({part});
}

// c += a b: a is 16 × 16, b 16 × 8, c 16 × 8. Who holds what is in the PTX manual, "Matrix Fragments for mma.m16n8k16".
template <bool F16> void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, SIMULATOR_LINE) {
  Mma mine{a, b, c};
  block.meet(~0u, line, &mine, false, [](void** each, unsigned) {
    float A[16][16], B[16][8], sums[16][8] = {};
    for (int lane = 0; lane < 32; lane++) {
      const Mma& held = *static_cast<Mma*>(each[lane]);
      int row = lane / 4, col = lane % 4 * 2;
      for (int h = 0; h < 2; h++) {
        A[row][col + h] = half_of<F16>(held.a[0], h);
        A[row + 8][col + h] = half_of<F16>(held.a[1], h);
        A[row][col + 8 + h] = half_of<F16>(held.a[2], h);
        A[row + 8][col + 8 + h] = half_of<F16>(held.a[3], h);
        B[col + h][row] = half_of<F16>(held.b[0], h);
        B[col + 8 + h][row] = half_of<F16>(held.b[1], h);
      }
    }
    for (int i = 0; i < 16; i++)
      for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++) sums[i][j] += A[i][k] * B[k][j];
    for (int lane = 0; lane < 32; lane++) {
      const Mma& held = *static_cast<Mma*>(each[lane]);
      int row = lane / 4, col = lane % 4 * 2;
      for (int h = 0; h < 4; h++) held.c[h] += sums[row + h / 2 * 8][col + h % 2];
    }
  });
}

// Whose place in the program is the kernel's line.
#define SIMULATOR_INLINED inline __attribute__((always_inline))

struct LoadMatrix {
  uint16_t row[8];
  uint32_t* to;
};

#if defined(SIMULATOR_COUNTED)
#define SIMULATOR_UNCOUNTED SIMULATOR_OWN
#else
#define SIMULATOR_UNCOUNTED inline
#endif

// This lane's own read of a row: for ThreadSanitizer it is one.
SIMULATOR_UNCOUNTED static void read_row(uint16_t* to, const void* row) {
  for (int i = 0; i < 8; i++) to[i] = static_cast<const volatile uint16_t*>(row)[i];
}

// Four matrices of 8 × 8: lane 8 j + i gives the address of row i of matrix j.
template <bool TRANSPOSED> SIMULATOR_INLINED void ldmatrix_x4(uint32_t* to, const void* row, SIMULATOR_LINE) {
  if (reinterpret_cast<uintptr_t>(row) % 16) block.fail("line %d: a row of ldmatrix is not aligned to 16 bytes", line);
  SIMULATOR_COUNT(row, 16, false);
  LoadMatrix mine;
  mine.to = to;
  read_row(mine.row, row);
  block.meet(~0u, line, &mine, false, [](void** each, unsigned) {
    auto at = [&](int matrix, int row, int col) { return uint32_t(static_cast<LoadMatrix*>(each[matrix * 8 + row])->row[col]); };
    for (int lane = 0; lane < 32; lane++) {
      for (int j = 0; j < 4; j++) {
        int i = lane / 4, c = lane % 4 * 2;
        static_cast<LoadMatrix*>(each[lane])->to[j] =
            TRANSPOSED ? at(j, c, i) | at(j, c + 1, i) << 16 : at(j, i, c) | at(j, i, c + 1) << 16;
      }
    }
  });
}

// A copy lands as late as it may, at the wait: a kernel that forgets to wait reads NaN.
SIMULATOR_INLINED void cp_async16(void* to, const void* from, bool real, SIMULATOR_LINE) {
  if (real) { SIMULATOR_COUNT(from, 16, false); }
  SIMULATOR_COUNT(to, 16, true);
  if ((reinterpret_cast<uintptr_t>(to) | (real ? reinterpret_cast<uintptr_t>(from) : 0)) % 16)
    block.fail("line %d: an address of cp.async is not aligned to 16 bytes", line);
  block.current->copies.push_back({to, from, !real});
}
inline void cp_async_commit() { block.current->groups.push_back(block.current->copies.size()); }
// The first n copies of this thread land.
SIMULATOR_UNCOUNTED void land(Thread& me, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const AsyncCopy& copy = me.copies[i];
    if (copy.zero) memset(copy.to, 0, 16);
    else memcpy(copy.to, copy.from, 16);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<long>(n));
}
SIMULATOR_UNCOUNTED void cp_async_wait(int keep) {
  Thread& me = *block.current;
  long done = static_cast<long>(me.groups.size()) - keep;
  if (done <= 0) return;
  size_t n = me.groups[done - 1];
  land(me, n);
  me.groups.erase(me.groups.begin(), me.groups.begin() + done);
  for (size_t& end : me.groups) end -= n;
}

}  // namespace simulator
