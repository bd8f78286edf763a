// What a kernel reads and writes: see counters.cpp.
#pragma once

namespace simulator::counters {

// Whether the accesses of this thread of the operating system are counted now. Others may launch kernels at the same time.
extern thread_local bool counting;

// A block has ended: its accesses are grouped by warp and added up.
void end_block();

}  // namespace simulator::counters

// Counts an access that has no instruction of its own in the simulator, such as that of cp.async. Its place is whoever calls.
extern "C" void simulator_count(const void* at, unsigned size, bool writes);

#if defined(SIMULATOR_COUNTED)
#define SIMULATOR_COUNT(at, size, writes) simulator_count(at, size, writes)
#else
#define SIMULATOR_COUNT(at, size, writes)
#endif
