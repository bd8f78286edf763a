// What only a Hopper has: products of a warpgroup with an operand in shared memory (wgmma), and barriers in shared memory (mbarrier).
//
// A product is carried out as late as it may, when a thread waits for its group: a kernel that forgets to wait, or that gives a tile back too
// early, gets other numbers. Rows of a product with A in registers don't meet, so each of the warpgroup's four warps carries out its 16 of 64
// alone: that all four come to the same product is not checked. B is read through its descriptor and its swizzle, so a wrong layout gives wrong numbers.
// Those reads are not counted: how a GPU shares them among warps is not public.
#pragma once
#include "tensor.h"

namespace simulator {

// mbarrier: bits 0–19 arrivals that are missing in this phase, 20–39 those of each phase, bit 63 the phase's parity. Shared memory is filled
// with ones before a block, and that is no barrier.
constexpr uint64_t kArrivals = (1 << 20) - 1, kParity = 1ull << 63;

SIMULATOR_OWN inline uint64_t& barrier_at(void* at, int line) {
  uint64_t& barrier = *static_cast<uint64_t*>(at);
  if (reinterpret_cast<uintptr_t>(at) % 8) block.fail("line %d: an mbarrier is not aligned to 8 bytes", line);
  if (barrier == ~0ull) block.fail("line %d: this mbarrier was not initialised", line);
  return barrier;
}
SIMULATOR_OWN inline void mbarrier_init(void* at, unsigned arrivals, SIMULATOR_LINE) {
  if (arrivals == 0 || arrivals > kArrivals) block.fail("line %d: an mbarrier has 1 to 1048575 arrivals", line);
  *static_cast<uint64_t*>(at) = uint64_t(arrivals) << 20 | arrivals;
}
// Whether the phase with this parity is over: it is not the one that goes on.
SIMULATOR_OWN inline bool phase_over(const void* at, unsigned parity) {
  return (*static_cast<const uint64_t*>(at) >> 63) != (parity & 1);
}
// The last arrival of a phase begins the next one, and wakes who waits.
SIMULATOR_OWN inline void mbarrier_arrive(void* at, SIMULATOR_LINE) {
  SIMULATOR_UNWATCHED
  uint64_t& barrier = barrier_at(at, line);
  SIMULATOR_TSAN(__tsan_release(at);)
  if ((--barrier & kArrivals) != 0) return;
  barrier = (barrier ^ kParity) | (barrier >> 20 & kArrivals);
  for (unsigned i = 0; i < block.count; i++) {
    Thread* thread = block.threads[i];
    if (thread->state == State::AtMbarrier && thread->brought == at && phase_over(at, thread->mask)) block.wake(thread);
  }
}
SIMULATOR_OWN inline void mbarrier_wait(void* at, unsigned parity, SIMULATOR_LINE) {
  SIMULATOR_UNWATCHED
  Thread& me = *block.current;
  barrier_at(at, line);
  if (!phase_over(at, parity)) {
    me.line = line;
    me.brought = at;
    me.mask = parity;
    me.state = State::AtMbarrier;
    block.go_to(block.next());
  }
  me.proxy_fenced = false;
  SIMULATOR_TSAN(__tsan_acquire(at);)
}
// This thread's copies land now, the latest time at which they may, and it arrives.
inline void cp_async_arrive(void* at, SIMULATOR_LINE) {
  Thread& me = *block.current;
  land(me, me.copies.size());
  me.groups.clear();
  mbarrier_arrive(at, line);
}

SIMULATOR_OWN inline void fence_proxy_async() { block.current->proxy_fenced = true; }
SIMULATOR_OWN inline void wgmma_fence() { block.current->registers_fenced = true; }
SIMULATOR_OWN inline void wgmma_commit() { block.current->product_groups.push_back(block.current->products.size()); }

// An address as a descriptor has it.
inline unsigned shared_address(const void* at) { return unsigned(static_cast<const char*>(at) - static_cast<char*>(block.dynamic_shared)); }

SIMULATOR_OWN inline void wgmma(Product product, SIMULATOR_LINE) {
  Thread& me = *block.current;
  if (product.b >> 62 != 1 || (product.b >> 49 & 7)) block.fail("line %d: only wgmma with a swizzle of 128 bytes and base offset 0 is simulated", line);
  if (!me.registers_fenced) block.fail("line %d: wgmma, and no wgmma.fence since its registers were last used", line);
  if (!me.proxy_fenced) block.fail("line %d: wgmma reads by the async proxy, and no fence.proxy.async came after the wait at an mbarrier", line);
  product.line = line;
  me.products.push_back(product);
}

// Piece p of B, 8 numbers; lane p % 32 reads it. B is 16 x columns: K-major, a piece is 8 rows of a column; transposed, 8 columns of a row.
SIMULATOR_OWN inline const void* piece_of(const Product& product, unsigned p) {
  const unsigned start = (product.b & 0x3fff) << 4, leading = (product.b >> 16 & 0x3fff) << 4, stride = (product.b >> 32 & 0x3fff) << 4;
  unsigned at = start;
  if (product.transposed) {
    const unsigned row = p / (product.columns / 8), piece = p % (product.columns / 8);
    at += piece / 8 * leading + piece % 8 * 16 + row / 8 * stride + row % 8 * 128;
  } else {
    const unsigned column = p / 2;
    at += column / 8 * stride + column % 8 * 128 + p % 2 * 16;
  }
  at ^= (at >> 7 & 7) << 4;  // the swizzle: of address bits, not of places in a tile
  if (at + 16 > block.dynamic_bytes) block.fail("line %d: wgmma reads outside of shared memory", product.line);
  return static_cast<const char*>(block.dynamic_shared) + at;
}

// What a lane has of some products: its own record of them, and the pieces of B that it has read, one after the other.
struct Products {
  const Product* first;
  std::vector<uint16_t> read;
};

// c = a b, or c += a b, for the 16 rows of a warp: product i, with what was read of it from `from` on.
SIMULATOR_OWN inline void multiply(void** each, size_t i, size_t from) {
  auto held = [&](int lane) -> const Product& { return static_cast<Products*>(each[lane])->first[i]; };
  auto half = [&](uint32_t bits, int h) { return held(0).f16 ? half_of<true>(bits, h) : half_of<false>(bits, h); };
  const int columns = held(0).columns;
  float A[16][16], B[16][256], sums[16][256] = {};
  for (int lane = 0; lane < 32; lane++) {
    const Product& mine = held(lane);
    if (mine.b != held(0).b || mine.line != held(0).line || mine.add != held(0).add)
      block.fail("line %d: the lanes of a warp don't agree about a wgmma", held(0).line);
    for (int k = 0; k < 8; k++) A[lane / 4 + k / 2 % 2 * 8][lane % 4 * 2 + k / 4 * 8 + k % 2] = half(mine.a[k / 2], k % 2);
  }
  for (int p = 0; p < 2 * columns; p++) {
    const uint16_t* piece = &static_cast<Products*>(each[p % 32])->read[from + size_t(p) / 32 * 8];
    for (int j = 0; j < 8; j++) {
      if (held(0).transposed) B[p / (columns / 8)][p % (columns / 8) * 8 + j] = half(piece[j], 0);
      else B[p % 2 * 8 + j][p / 2] = half(piece[j], 0);
    }
  }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < columns; column++) sums[row][column] += A[row][k] * B[k][column];
  for (int lane = 0; lane < 32; lane++) {
    float* c = held(lane).c;
    for (int j = 0; j < columns / 2; j++) {
      const float sum = sums[lane / 4 + j / 2 % 2 * 8][j / 4 * 8 + lane % 4 * 2 + j % 2];
      c[j] = held(lane).add ? c[j] + sum : sum;
    }
  }
}

// Waits until at most `keep` groups are on their way: the others are carried out now.
SIMULATOR_OWN inline void wgmma_wait(int keep, SIMULATOR_LINE) {
  Thread& me = *block.current;
  me.registers_fenced = false;
  const long done = static_cast<long>(me.product_groups.size()) - keep;
  if (done <= 0) return;
  const size_t n = me.product_groups[static_cast<size_t>(done - 1)];
  Products mine{me.products.data(), {}};
  for (size_t i = 0; i < n; i++) {
    for (unsigned p = me.number % 32; p < 2u * unsigned(me.products[i].columns); p += 32) {
      mine.read.resize(mine.read.size() + 8);
      read_row(mine.read.data() + mine.read.size() - 8, piece_of(me.products[i], p));
    }
  }
  block.meet(~0u, line, &mine, false, [n](void** each, unsigned) {
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
      multiply(each, i, from);
      from += static_cast<size_t>(static_cast<Products*>(each[0])->first[i].columns) / 2;
    }
  });
  me.products.erase(me.products.begin(), me.products.begin() + static_cast<long>(n));
  me.product_groups.erase(me.product_groups.begin(), me.product_groups.begin() + done);
  for (size_t& end : me.product_groups) end -= n;
}

}  // namespace simulator
