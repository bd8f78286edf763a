// A profiler for those without a GPU. The compiler puts a call of __tsan_readN or __tsan_writeN before each access of counted.cpp; here
// the n-th access of the lanes of a warp at one place of the program become one request, as on a GPU. Of a request to global memory the
// 32-byte sectors are counted, of one to shared memory the turns that its banks take.
#include "counters.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <unordered_map>
#include <vector>

#include "block.h"

namespace simulator::counters {

thread_local bool counting = false;

namespace {

struct Region {
  uint64_t start, size;
  std::vector<uint8_t> touched;  // of each byte: see below
};

// What happened to a byte. One that an earlier launch has written and a later one reads is neither work's input nor its result.
enum Touched : uint8_t { Read = 1, Written = 2, WrittenBefore = 4, Between = 8 };

struct Access {
  uint64_t address;
  uint32_t size, lane;
};

// All requests of one place in the program.
struct Site {
  uint64_t requests = 0, bytes = 0, sectors = 0, turns = 0, least_turns = 0;
};

enum Space : uint64_t { Global = 0, Shared = 1 };

struct Key {
  uint64_t place;
  bool write;
  Space space;
  bool operator<(const Key& other) const {
    return place != other.place ? place < other.place : write != other.write ? write < other.write : space < other.space;
  }
};

std::vector<Region> regions;
std::map<Key, Site> sites;
// Of the block that runs: for each place and warp, the requests, and how many each lane has made.
struct Open {
  std::vector<std::vector<Access>> requests;
  uint32_t made[32] = {};
};
std::map<std::pair<Key, unsigned>, Open> open;
uint64_t barriers = 0;
thread_local bool inside = false;  // what is called from here may be counted itself

Region* region_of(uint64_t address) {
  for (Region& region : regions)
    if (region.start <= address && address < region.start + region.size) return &region;
  return nullptr;
}

bool is_shared(uint64_t address) {
  uint64_t arena = reinterpret_cast<uint64_t>(block.arena), dynamic = reinterpret_cast<uint64_t>(block.dynamic_shared);
  return (arena <= address && address < arena + Block::kArena) ||
         (dynamic && dynamic <= address && address < dynamic + block.dynamic_bytes);
}

// Turns of a request to shared memory: 32 banks of 4 bytes, one word of each at a time; lanes that read the same word share a turn. Of requests
// for 8 (16) bytes a lane half (a quarter) of a warp has its turn at a time. And the least that so many words could take.
void add_turns(Site& site, const std::vector<Access>& request) {
  const uint32_t lanes = std::clamp(128 / request[0].size, 8u, 32u);
  for (uint32_t first = 0; first < 32; first += lanes) {
    std::vector<uint64_t> words;
    for (const Access& access : request) {
      if (access.lane < first || access.lane >= first + lanes) continue;
      for (uint64_t word = access.address / 4; word <= (access.address + access.size - 1) / 4; word++) words.push_back(word);
    }
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    uint64_t banks[32] = {}, most = 0;
    for (uint64_t word : words) most = std::max(most, ++banks[word % 32]);
    site.turns += most;
    site.least_turns += (words.size() + 31) / 32;
  }
}

uint64_t sectors(const std::vector<Access>& request) {
  std::vector<uint64_t> touched;
  for (const Access& access : request)
    for (uint64_t sector = access.address / 32; sector <= (access.address + access.size - 1) / 32; sector++) touched.push_back(sector);
  std::sort(touched.begin(), touched.end());
  return static_cast<uint64_t>(std::unique(touched.begin(), touched.end()) - touched.begin());
}

void count_in_kernel(uint64_t address, uint32_t size, bool write, uint64_t place) {
  if (block.current == nullptr || block.current == &block.outside) return;
  Region* region = region_of(address);
  if (!region && !is_shared(address)) return;  // a stack, or the simulator's own
  if (region) {
    uint64_t at = address - region->start;
    for (uint64_t i = at; i < std::min(at + size, region->size); i++) {
      uint8_t& touched = region->touched[i];
      touched |= write ? Written : (touched & (Read | WrittenBefore)) == WrittenBefore ? Between : Read;
    }
  }
  unsigned warp = block.current->number / 32, lane = block.current->number % 32;
  Open& requests = open[{Key{place, write, region ? Global : Shared}, warp}];
  uint32_t n = requests.made[lane]++;
  if (requests.requests.size() <= n) requests.requests.resize(n + 1);
  requests.requests[n].push_back({address, size, lane});
}

void count(uint64_t address, uint32_t size, bool write, uint64_t place) {
  if (!counting || inside) return;
  inside = true;
  count_in_kernel(address, size, write, place);
  inside = false;
}

}  // namespace

void end_block() {
  if (!counting) return;
  inside = true;
  for (const auto& [key, requests] : open) {
    Site& site = sites[key.first];
    for (const std::vector<Access>& request : requests.requests) {
      site.requests++;
      for (const Access& access : request) site.bytes += access.size;
      if (key.first.space == Global) site.sectors += sectors(request);
      else add_turns(site, request);
    }
  }
  open.clear();
  barriers += block.barriers;
  block.barriers = 0;
  inside = false;
}

}  // namespace simulator::counters

using namespace simulator::counters;

// Begins to count. `allocations` are pairs of an address and a size.
extern "C" void simulator_count_begin(const uint64_t* allocations, size_t n) {
  regions.clear();
  sites.clear();
  open.clear();
  barriers = 0;
  simulator::block.barriers = 0;
  for (size_t i = 0; i < n; i++) regions.push_back({allocations[2 * i], allocations[2 * i + 1], std::vector<uint8_t>(allocations[2 * i + 1])});
  counting = true;
}

// Tells that another launch follows.
extern "C" void simulator_count_launch() {
  for (Region& region : regions)
    for (uint8_t& touched : region.touched)
      if (touched & Written) touched |= WrittenBefore;
}

// Ends it. For each place eight numbers: address in the program, 1 if it writes, 1 if it is shared memory, requests, bytes, sectors,
// turns, the least turns; then one more row: 0, bytes of global memory that are input, bytes that are results, barriers.
extern "C" void simulator_count_end(void (*row)(void*, const uint64_t*), void* to) {
  counting = false;
  for (const auto& [key, site] : sites) {
    const uint64_t numbers[8] = {key.place, key.write, key.space, site.requests, site.bytes, site.sectors, site.turns, site.least_turns};
    row(to, numbers);
  }
  uint64_t read = 0, written = 0;
  for (const Region& region : regions) {
    for (uint8_t touched : region.touched) {
      read += (touched & Read) != 0;
      written += (touched & (Written | Between)) == Written;
    }
  }
  const uint64_t numbers[8] = {0, read, written, barriers};
  row(to, numbers);
  regions.clear();
}

extern "C" void simulator_count(const void* at, unsigned size, bool writes) {
  count(reinterpret_cast<uint64_t>(at), size, writes, reinterpret_cast<uint64_t>(__builtin_return_address(0)));
}

#if defined(SIMULATOR_SANITIZED)
// A sanitizer has the functions below itself, and nothing is counted.
extern "C" int simulator_launch_counted(const char*, const unsigned*, const unsigned*, size_t, void**, char* error, size_t error_size) {
  snprintf(error, error_size, "nothing is counted in a build with STAIRWELL_SANITIZE");
  return 1;
}
#else
#define PLACE reinterpret_cast<uint64_t>(__builtin_return_address(0))
#define ACCESS(n)                                                                         \
  extern "C" void __tsan_read##n(uint64_t at) { count(at, n, false, PLACE); }             \
  extern "C" void __tsan_write##n(uint64_t at) { count(at, n, true, PLACE); }             \
  extern "C" void __tsan_unaligned_read##n(uint64_t at) { count(at, n, false, PLACE); }   \
  extern "C" void __tsan_unaligned_write##n(uint64_t at) { count(at, n, true, PLACE); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
extern "C" void __tsan_read_range(uint64_t at, size_t n) { count(at, uint32_t(n), false, PLACE); }
extern "C" void __tsan_write_range(uint64_t at, size_t n) { count(at, uint32_t(n), true, PLACE); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void*, void*) {}
// Atomic operations are replaced by calls, and so have to be carried out here.
#define ATOMIC(bits)                                                                                                    \
  extern "C" uint##bits##_t __tsan_atomic##bits##_load(const uint##bits##_t* at, int) {                                 \
    count(reinterpret_cast<uint64_t>(at), bits / 8, false, PLACE);                                                      \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                                       \
  }                                                                                                                     \
  extern "C" void __tsan_atomic##bits##_store(uint##bits##_t* at, uint##bits##_t value, int) {                          \
    count(reinterpret_cast<uint64_t>(at), bits / 8, true, PLACE);                                                       \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                                      \
  }                                                                                                                     \
  extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_add(uint##bits##_t* at, uint##bits##_t value, int) {            \
    count(reinterpret_cast<uint64_t>(at), bits / 8, true, PLACE);                                                       \
    return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);                                                             \
  }                                                                                                                     \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(uint##bits##_t* at, uint##bits##_t* expected,            \
                                                               uint##bits##_t value, int, int) {                        \
    count(reinterpret_cast<uint64_t>(at), bits / 8, true, PLACE);                                                       \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
  }                                                                                                                     \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(uint##bits##_t* at, uint##bits##_t* expected,              \
                                                             uint##bits##_t value, int order, int failed) {             \
    return __tsan_atomic##bits##_compare_exchange_strong(at, expected, value, order, failed);                           \
  }                                                                                                                     \
  extern "C" uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(uint##bits##_t* at, uint##bits##_t expected,     \
                                                                       uint##bits##_t value, int order, int failed) {   \
    __tsan_atomic##bits##_compare_exchange_strong(at, &expected, value, order, failed);                                 \
    return expected;                                                                                                    \
  }
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)
#endif
