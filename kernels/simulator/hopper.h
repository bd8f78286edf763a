// What only a Hopper has: products of a warpgroup with an operand in shared memory (wgmma), and barriers in shared memory (mbarrier).
//
// A product is carried out when its threads wait for it: a kernel that forgets to wait gets other numbers. B is read when the product begins and
// when it ends, and that is as late as other threads allow (in turn, when nobody else can go on; in reverse, at once; random, by chance). A GPU
// reads in between, so both must be the same: they are not where nobody waited for a tile, or where it was given back too early.
//
// Rows of a product with A in registers don't meet, so each of a warpgroup's four warps carries out its 16 of 64 alone: that all four come to
// the same product is not checked. B is read through its descriptor and its swizzle, so a wrong layout gives wrong numbers. Those reads are
// not counted: how a GPU shares them among warps is not public.
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

// What this lane reads of B, piece after piece.
SIMULATOR_OWN inline std::vector<uint16_t> read_pieces(const Product& product) {
  std::vector<uint16_t> read;
  for (unsigned p = block.current->number % 32; p < 2u * unsigned(product.columns); p += 32) {
    read.resize(read.size() + 8);
    read_row(read.data() + read.size() - 8, piece_of(product, p));
  }
  return read;
}

SIMULATOR_OWN inline void wgmma(Product product, SIMULATOR_LINE) {
  Thread& me = *block.current;
  if (product.b >> 62 != 1 || (product.b >> 49 & 7)) block.fail("line %d: only wgmma with a swizzle of 128 bytes and base offset 0 is simulated", line);
  if (!me.registers_fenced) block.fail("line %d: wgmma, and no wgmma.fence since its registers were last used", line);
  if (!me.proxy_fenced) block.fail("line %d: wgmma reads by the async proxy, and no fence.proxy.async came after the wait at an mbarrier", line);
  product.line = line;
  product.read = read_pieces(product);
  me.products.push_back(std::move(product));
}

// c = a b, or c += a b, for the 16 rows of a warp: product i of each lane's.
SIMULATOR_OWN inline void multiply(void** each, size_t i) {
  auto held = [&](int lane) -> const Product& { return static_cast<const Product*>(each[lane])[i]; };
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
    const uint16_t* piece = &held(p % 32).read[size_t(p) / 32 * 8];
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

// In a random order chance makes some warpgroups of some blocks late, and so one is behind another.
SIMULATOR_OWN inline bool products_end_late(const Thread& me) {
  if (block.schedule.order != Order::Random) return block.schedule.order == Order::Forward;
  const uint64_t number = (uint64_t(block.index.z) * 31 + block.index.y) * 31 + block.index.x, chance = block.schedule.seed + 8 * number + me.number / 128;
  return (chance * 0x9E3779B97F4A7C15ull ^ chance * 0xBF58476D1CE4E5B9ull) >> 63;
}

// Waits until at most `keep` groups are on their way: the others are carried out now.
SIMULATOR_OWN inline void wgmma_wait(int keep, SIMULATOR_LINE) {
  Thread& me = *block.current;
  me.registers_fenced = false;
  const long done = static_cast<long>(me.product_groups.size()) - keep;
  if (done <= 0) return;
  if (products_end_late(me)) {
    SIMULATOR_UNWATCHED
    block.late.push_back(&me);
    block.go_to(block.next());
  }
  const size_t n = me.product_groups[static_cast<size_t>(done - 1)];
  for (size_t i = 0; i < n; i++) {
    if (read_pieces(me.products[i]) != me.products[i].read)
      block.fail("line %d: the shared memory that this wgmma reads is written before the wait at line %d is over", me.products[i].line, line);
  }
  // A fence: a product belongs to all lanes, and when a lane has waited for it, what the others have read for it is read.
  block.meet(~0u, line, me.products.data(), true, [n](void** each, unsigned) {
    for (size_t i = 0; i < n; i++) multiply(each, i);
  });
  me.products.erase(me.products.begin(), me.products.begin() + static_cast<long>(n));
  me.product_groups.erase(me.product_groups.begin(), me.product_groups.begin() + done);
  for (size_t& end : me.product_groups) end -= n;
}

}  // namespace simulator
