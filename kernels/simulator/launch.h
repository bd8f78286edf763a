// A launch: the arguments of cuLaunchKernel. Blocks don't see each other, and may run on several threads of the operating system.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "block.h"
#include "counters.h"

namespace simulator {

struct Error {
  char* text;
  size_t size;
  int set(const char* message) const {
    snprintf(text, size, "%s", message);
    return 1;
  }
};

// Bytes of shared memory that a block can have (sm_90).
constexpr size_t kSharedMemory = 227 << 10;

// Shared memory is filled with NaN before each block, so that what was not written shows; a variable that kept the last block's values
// would hide races.
SIMULATOR_OWN inline void poison_shared(size_t dynamic_bytes) {
  SIMULATOR_ASAN(ASAN_UNPOISON_MEMORY_REGION(block.arena, Block::kArena);)
  memset(block.arena, 0xff, Block::kArena);
  SIMULATOR_ASAN(ASAN_POISON_MEMORY_REGION(block.arena, Block::kArena);)
  if (dynamic_bytes) memset(block.dynamic_shared, 0xff, dynamic_bytes);
  block.arena_used = 0;
  std::fill(block.places.begin(), block.places.end(), -1);
}

// Runs every `workers`-th block from `worker` on. Returns what went wrong, or nothing.
SIMULATOR_OWN inline std::string run_blocks(unsigned worker, unsigned workers, dim3 grid, dim3 dim, size_t shared_bytes, Schedule schedule,
                                            void (*kernel)(void*), void* arguments) {
  block.kernel = kernel;
  block.kernel_arguments = arguments;
  block.grid = grid;
  block.dim = dim;
  block.schedule = schedule;
  block.random = schedule.seed * 0x9E3779B97F4A7C15ull + worker + 1;
  if (!block.arena && posix_memalign(reinterpret_cast<void**>(&block.arena), 1024, Block::kArena)) return "no memory";
  block.dynamic_shared = nullptr;
  block.dynamic_bytes = shared_bytes;
  // Exactly as large as asked for: AddressSanitizer sees the first byte behind it.
  if (shared_bytes && posix_memalign(&block.dynamic_shared, 1024, shared_bytes)) return "no memory";
  unsigned total = grid.x * grid.y * grid.z;
  std::string error;
  for (unsigned k = worker; k < total && error.empty(); k += workers) {
    unsigned b = schedule.order == Order::Reverse ? total - 1 - k : k;
    block.index = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    poison_shared(shared_bytes);
    block.run();
    counters::end_block();
    if (block.error[0]) {
      error = block.error;
      block.drop_threads();  // they stand somewhere in the kernel, and are not used again
    }
  }
  free(block.dynamic_shared);
  return error;
}

// Threads of the operating system that stay: their fibers are used by the next launch.
class Helpers {
 public:
  static constexpr unsigned kMost = 63;

  // Calls work(0) … work(workers - 1), each on a thread of its own.
  void run(unsigned workers, const std::function<void(unsigned)>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_.size() + 1 < workers) {
      unsigned number = unsigned(threads_.size()) + 1;
      threads_.emplace_back([this, number] { serve(number); });
    }
    work_ = &work;
    workers_ = workers;
    left_ = workers - 1;
    round_++;
    begin_.notify_all();
    lock.unlock();
    work(0);
    lock.lock();
    end_.wait(lock, [this] { return left_ == 0; });
  }

  // One launch at a time has the helpers.
  std::mutex busy;

  // The helpers live as long as the program, which ends without waiting for them.
  static Helpers& get() {
    static Helpers* helpers = new Helpers;
    return *helpers;
  }

 private:
  void serve(unsigned number) {
    for (uint64_t seen = 0;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      begin_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (number >= workers_) continue;
      const std::function<void(unsigned)>& work = *work_;
      lock.unlock();
      work(number);
      lock.lock();
      if (--left_ == 0) end_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  std::vector<std::thread> threads_;
  const std::function<void(unsigned)>* work_ = nullptr;
  unsigned workers_ = 0, left_ = 0;
  uint64_t round_ = 0;
};

// Runs a kernel to its end. 0, or 1 and a message.
template <class... A>
int launch(void (*kernel)(A...), dim3 grid, dim3 dim, size_t shared_bytes, void** arguments, Schedule schedule, unsigned workers,
           Error error) {
  size_t threads = size_t(dim.x) * dim.y * dim.z, blocks = size_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024) return error.set("a block has 1 to 1024 threads");
  if (shared_bytes > kSharedMemory) return error.set("a block has at most 227 KiB of shared memory");
  if (blocks == 0 || blocks > 0x7fffffff) return error.set("a grid has 1 to 2147483647 blocks");
  auto call = [&]<size_t... I>(std::index_sequence<I...>) { kernel(*static_cast<std::decay_t<A>*>(arguments[I])...); };
  auto body = [&] { call(std::index_sequence_for<A...>{}); };
  auto entry = [](void* body_) { (*static_cast<decltype(body)*>(body_))(); };
  Helpers& helpers = Helpers::get();
#if defined(__SANITIZE_ADDRESS__) || defined(SIMULATOR_SANITIZE_THREAD)
  std::unique_lock<std::mutex> turn(helpers.busy);
  workers = 1;
#else
  std::unique_lock<std::mutex> turn(helpers.busy, std::try_to_lock);
  if (!turn.owns_lock() || blocks < 4 || counters::counting) workers = 1;
#endif
  workers = std::max(1u, std::min(workers, unsigned(std::min(blocks, size_t(Helpers::kMost)))));
  std::vector<std::string> errors(workers);
  auto work = [&](unsigned worker) { errors[worker] = run_blocks(worker, workers, grid, dim, shared_bytes, schedule, entry, &body); };
  if (workers == 1) work(0);
  else helpers.run(workers, work);
  for (const std::string& message : errors)
    if (!message.empty()) return error.set(message.c_str());
  return 0;
}

}  // namespace simulator
