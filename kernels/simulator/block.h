// One thread block at work: its threads are fibers on one thread of the operating system, and they switch only where CUDA's threads
// meet (__syncthreads, __syncwarp, shuffles, mma, ldmatrix) or wait (mbarrier, wgmma). In which order those go on that may is a parameter:
// a right kernel gives the same bits in every order, and one with a missing barrier usually does not.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fiber.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#if defined(__SANITIZE_ADDRESS__) || defined(SIMULATOR_SANITIZE_THREAD)
#define SIMULATOR_THREAD_LOCAL  // a sanitizer gets one thread of the operating system
#else
#define SIMULATOR_THREAD_LOCAL thread_local
#endif

namespace simulator {

// Forward: everybody in turn. Reverse: the last thread first, and each warp as far as it can go. Random: by a seed.
enum class Order { Forward, Reverse, Random };

// The order of threads and blocks.
struct Schedule {
  Order order = Order::Forward;
  uint64_t seed = 1;
};

enum class State : uint8_t { Ready, AtBarrier, AtWarp, AtMbarrier, Done };

// A copy from global to shared memory that has not landed yet (cp.async).
struct AsyncCopy {
  void* to;
  const void* from;
  bool zero;
};

// A product of a warpgroup that is on its way (wgmma), as this lane has begun it: see hopper.h.
struct Product {
  float* c;
  uint32_t a[4];
  uint64_t b;
  int columns;
  bool add, transposed, f16;
  int line;
  std::vector<uint16_t> read;  // the pieces of b that this lane reads
};

// A CUDA thread.
struct Thread {
  Context context;
  uint3 index = {};
  unsigned number = 0;
  State state = State::Done;
  int line = 0;         // of the operation at which it waits or waited last
  unsigned mask = 0;    // lanes that it meets
  void* brought = nullptr;
  std::vector<AsyncCopy> copies;
  std::vector<size_t> groups;  // ends of committed groups in `copies`
  std::vector<Product> products;
  std::vector<size_t> product_groups;
  bool registers_fenced = false, proxy_fenced = true;
};

// The block that this thread of the operating system runs.
struct Block {
  dim3 grid, dim;
  uint3 index = {};
  void* dynamic_shared = nullptr;
  size_t dynamic_bytes = 0;
  Thread* current = nullptr;
  Schedule schedule;
  char error[512] = "";

  std::vector<Thread*> threads;  // a pool: the first `count` are the block's
  unsigned count = 0, alive = 0, at_barrier = 0;
  unsigned arrived[32] = {};  // lanes of each warp that wait
  Thread outside;             // whoever runs the block
  std::vector<Thread*> ready;
  size_t next_ready = 0;
  std::vector<Thread*> late;  // go on when nobody else can
  uint64_t random = 1;
  void (*kernel)(void*) = nullptr;
  void* kernel_arguments = nullptr;

  // Static shared memory: one place for each declaration.
  static constexpr size_t kArena = 256 << 10;
  char* arena = nullptr;
  size_t arena_used = 0;
  std::vector<int> places;

  // What ThreadSanitizer synchronises on. Tags lie 8 bytes apart at least; two take turns, as generations of a barrier.
  uint64_t start_tag = 0, end_tag = 0, barrier_tags[2] = {}, warp_tags[32][2] = {};
  uint8_t barrier_turn = 0, warp_turns[32] = {};

  ~Block() {
    drop_threads();
    free(arena);
  }

  // Forgets all threads, wherever they stand.
  void drop_threads() {
    for (Thread* thread : threads) {
      thread->context.free_stack();
      delete thread;
    }
    threads.clear();
  }

  SIMULATOR_OWN void go_to(Thread* to) {
    Thread* from = current;
    if (from == to) return;
    current = to;
    switch_context(from->context, to->context, from->state == State::Done && from != &outside);
  }

  // Ends the block with an error: the fibers stay where they are.
  template <class... A> SIMULATOR_OWN void fail(const char* format, A... a) {
    if (!error[0]) {
      int n = snprintf(error, sizeof error, "block (%u,%u,%u): ", index.x, index.y, index.z);
      snprintf(error + n, sizeof error - n, format, a...);
    }
    go_to(&outside);
  }

  SIMULATOR_OWN void wake(Thread* thread) {
    thread->state = State::Ready;
    ready.push_back(thread);
  }

  // Wakes those of `n` threads from `first` on that are in the mask, or all.
  SIMULATOR_OWN void wake_all(unsigned first, unsigned n, unsigned mask, bool all) {
    for (unsigned i = 0; i < n; i++) {
      Thread* thread = threads[first + i];
      if (thread->state != State::Done && (all || (mask >> i & 1))) wake(thread);
    }
  }

  // Who runs now; whoever runs the block, if nobody can.
  SIMULATOR_OWN Thread* next() {
    if (next_ready == ready.size()) {
      ready.clear();
      next_ready = 0;
      ready.swap(late);
    }
    if (ready.empty()) {
      if (alive) describe_divergence();
      return &outside;
    }
    if (schedule.order == Order::Reverse) {
      // Who was woken last goes first, so a warp runs as far ahead of the others as barriers let it.
      Thread* last = ready.back();
      ready.pop_back();
      return last;
    }
    if (schedule.order == Order::Random) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      std::swap(ready[next_ready], ready[next_ready + random % (ready.size() - next_ready)]);
    }
    Thread* thread = ready[next_ready++];
    if (next_ready > 4096) {
      ready.erase(ready.begin(), ready.begin() + static_cast<long>(next_ready));
      next_ready = 0;
    }
    return thread;
  }

  SIMULATOR_OWN void describe_divergence() {
    int barrier = 0, warp = 0, mbarrier = 0, done = 0, barrier_line = 0, warp_line = 0, mbarrier_line = 0;
    for (unsigned i = 0; i < count; i++) {
      const Thread& thread = *threads[i];
      if (thread.state == State::AtBarrier) barrier++, barrier_line = thread.line;
      else if (thread.state == State::AtWarp) warp++, warp_line = thread.line;
      else if (thread.state == State::AtMbarrier) mbarrier++, mbarrier_line = thread.line;
      else done++;
    }
    if (error[0]) return;
    snprintf(error, sizeof error,
             "block (%u,%u,%u): divergence: %d threads wait at __syncthreads (line %d), %d at a warp operation (line %d), %d have returned",
             index.x, index.y, index.z, barrier, barrier_line, warp, warp_line, done);
    const size_t n = strlen(error);
    if (mbarrier) snprintf(error + n, sizeof error - n, ", %d wait at an mbarrier (line %d)", mbarrier, mbarrier_line);
  }

  uint64_t barriers = 0;  // that the block has passed

  // __syncthreads.
  SIMULATOR_OWN void barrier(int line) {
    SIMULATOR_UNWATCHED
    Thread* me = current;
    me->line = line;
    me->state = State::AtBarrier;
    [[maybe_unused]] void* tag = &barrier_tags[barrier_turn];
    SIMULATOR_TSAN(__tsan_release(tag);)
    if (++at_barrier == alive) {
      for (unsigned i = 0; i < count; i++) {
        const Thread& other = *threads[i];
        if (other.state == State::Done) fail("line %d: __syncthreads, and thread %u has returned", line, i);
        if (other.line != line) fail("line %d: __syncthreads, and thread %u waits at the one of line %d", line, i, other.line);
      }
      at_barrier = 0;
      barriers++;
      barrier_turn ^= 1;
      wake_all(0, count, 0, true);
    }
    go_to(next());
    SIMULATOR_TSAN(__tsan_acquire(tag);)
  }

  // The lanes of `mask` meet. The last one to come runs `all(what each brought, mask)`. Only a fence orders memory: a shuffle
  // exchanges registers, and a kernel that relies on it for shared memory has a race.
  template <class F> SIMULATOR_OWN void meet(unsigned mask, int line, void* brought, [[maybe_unused]] bool fence, F all) {
    SIMULATOR_UNWATCHED
    Thread* me = current;
    unsigned warp = me->number / 32, lane = me->number % 32, first = warp * 32, n = std::min(32u, count - first);
    if (n < 32) mask &= (1u << n) - 1;
    if (!(mask >> lane & 1)) fail("line %d: lane %u is not in its own mask %08x", line, lane, mask);
    me->line = line;
    me->mask = mask;
    me->brought = brought;
    me->state = State::AtWarp;
    [[maybe_unused]] void* tag = &warp_tags[warp][warp_turns[warp]];
    SIMULATOR_TSAN(if (fence) __tsan_release(tag);)
    arrived[warp] |= 1u << lane;
    if ((arrived[warp] & mask) == mask) {
      void* each[32] = {};
      for (unsigned i = 0; i < n; i++) {
        if (!(mask >> i & 1)) continue;
        const Thread& other = *threads[first + i];
        each[i] = other.brought;
        if (other.line != line) fail("warp %u: lane %u is at line %d, and lane %u at line %d", warp, lane, line, i, other.line);
        if (other.mask != mask) fail("line %d: lane %u has the mask %08x, and lane %u %08x", line, lane, mask, i, other.mask);
      }
      arrived[warp] &= ~mask;
      warp_turns[warp] ^= 1;
      all(each, mask);
      wake_all(first, n, mask, false);
    }
    go_to(next());
    SIMULATOR_TSAN(if (fence) __tsan_acquire(tag);)
  }

  // Runs the block's threads to their end.
  void run();
};

inline SIMULATOR_THREAD_LOCAL Block block;

// Where a thread begins: runs the kernel, and hands over for good.
SIMULATOR_OWN inline void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!block.outside.context.stack) {
    block.outside.context.stack = static_cast<char*>(const_cast<void*>(bottom));
    block.outside.context.size = size;
  }
#endif
  SIMULATOR_TSAN(__tsan_acquire(&block.start_tag);)
  block.kernel(block.kernel_arguments);
  SIMULATOR_TSAN(__tsan_release(&block.end_tag);)
  Thread* to;
  {
    SIMULATOR_UNWATCHED
    block.current->state = State::Done;
    block.alive--;
    if (block.alive && block.alive == block.at_barrier) {
      block.describe_divergence();
      to = &block.outside;
    } else {
      to = block.next();
    }
  }
  block.go_to(to);
  abort();
}

SIMULATOR_OWN inline void Block::run() {
  SIMULATOR_UNWATCHED
  count = alive = dim.x * dim.y * dim.z;
  at_barrier = 0;
  error[0] = 0;
  ready.clear();
  late.clear();
  next_ready = 0;
  memset(arrived, 0, sizeof arrived);
  while (threads.size() < count) {
    threads.push_back(new Thread);
    threads.back()->context.make_stack();
  }
  for (unsigned i = 0; i < count; i++) {
    Thread& thread = *threads[i];
    thread.number = i;
    thread.index = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
    thread.state = State::Ready;
    thread.line = 0;
    thread.copies.clear();
    thread.groups.clear();
    thread.products.clear();
    thread.product_groups.clear();
    thread.registers_fenced = false;
    thread.proxy_fenced = true;
    thread.context.start_at(thread_main);
  }
  wake_all(0, count, 0, true);
  current = &outside;
  SIMULATOR_TSAN(outside.context.tsan = __tsan_get_current_fiber(); __tsan_release(&start_tag);)
  go_to(next());
  SIMULATOR_TSAN(__tsan_acquire(&end_tag);)
}

inline int declarations = 0;

// The variable of a declaration of static shared memory, in the block's arena. `Declaration` tells one from another.
template <class T, class Declaration> T& shared(Declaration) {
  SIMULATOR_UNWATCHED
  static const int number = __atomic_fetch_add(&declarations, 1, __ATOMIC_RELAXED);
  std::vector<int>& places = block.places;
  if (static_cast<int>(places.size()) <= number) places.resize(number + 1, -1);
  if (places[number] < 0) {
    places[number] = static_cast<int>(block.arena_used);
    // A gap between two variables: AddressSanitizer sees who steps out of one.
    block.arena_used = (block.arena_used + sizeof(T) + 127) / 128 * 128 + 128;
    if (block.arena_used > Block::kArena) block.fail("more than %zu bytes of static shared memory", Block::kArena);
    SIMULATOR_ASAN(ASAN_UNPOISON_MEMORY_REGION(block.arena + places[number], sizeof(T));)
  }
  return *reinterpret_cast<T*>(block.arena + places[number]);
}

}  // namespace simulator
