// What the 32 lanes of a warp do together.
#pragma once
#include "block.h"

// The line of a call in a kernel, for messages.
#define SIMULATOR_LINE int line = __builtin_LINE()

namespace simulator {

inline int lane() { return static_cast<int>(block.current->number % 32); }

struct Shuffle {
  uint64_t value, got;
  int source;
};

// Every lane of the mask gets the value of another one; of one that is not in the mask, NaN.
template <class T> T shuffle(unsigned mask, T value, int source, int line) {
  static_assert(sizeof(T) <= 8);
  Shuffle mine{0, 0, source};
  memcpy(&mine.value, &value, sizeof(T));
  block.meet(mask, line, &mine, false, [](void** each, unsigned mask) {
    for (int i = 0; i < 32; i++) {
      if (!(mask >> i & 1)) continue;
      Shuffle* lane = static_cast<Shuffle*>(each[i]);
      lane->got = mask >> lane->source & 1 ? static_cast<Shuffle*>(each[lane->source])->value : ~0ull;
    }
  });
  memcpy(&value, &mine.got, sizeof(T));
  return value;
}

inline unsigned ballot(unsigned mask, bool vote, int line) {
  uint64_t mine = vote;
  block.meet(mask, line, &mine, false, [](void** each, unsigned mask) {
    uint64_t votes = 0;
    for (int i = 0; i < 32; i++)
      if (mask >> i & 1) votes |= *static_cast<uint64_t*>(each[i]) << i;
    for (int i = 0; i < 32; i++)
      if (mask >> i & 1) *static_cast<uint64_t*>(each[i]) = votes;
  });
  return static_cast<unsigned>(mine);
}

}  // namespace simulator

inline void __syncthreads(SIMULATOR_LINE) { simulator::block.barrier(line); }
inline void __syncwarp(unsigned mask = ~0u, SIMULATOR_LINE) {
  simulator::block.meet(mask, line, nullptr, true, [](void**, unsigned) {});
}
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMULATOR_LINE) {
  return simulator::shuffle(mask, value, (simulator::lane() & ~(width - 1)) | (source & (width - 1)), line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, SIMULATOR_LINE) {
  int lane = simulator::lane(), source = lane ^ flip;
  return simulator::shuffle(mask, value, source < (lane & ~(width - 1)) + width ? source : lane, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, SIMULATOR_LINE) {
  int lane = simulator::lane();
  return simulator::shuffle(mask, value, (lane & (width - 1)) + int(by) < width ? lane + int(by) : lane, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, SIMULATOR_LINE) {
  int lane = simulator::lane();
  return simulator::shuffle(mask, value, (lane & (width - 1)) >= int(by) ? lane - int(by) : lane, line);
}
inline unsigned __ballot_sync(unsigned mask, int vote, SIMULATOR_LINE) { return simulator::ballot(mask, vote != 0, line); }
inline int __any_sync(unsigned mask, int vote, SIMULATOR_LINE) { return simulator::ballot(mask, vote != 0, line) != 0; }
inline int __all_sync(unsigned mask, int vote, SIMULATOR_LINE) { return simulator::ballot(mask, vote == 0, line) == 0; }
