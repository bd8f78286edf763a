// What a kernel reads and writes: see counters.cpp.
#pragma once

namespace simulator::counters {

// Whether the accesses of this thread of the operating system are counted now. Others may launch kernels at the same time.
extern thread_local bool counting;

// A block has ended: its accesses are grouped by warp and added up.
void end_block();

}  // namespace simulator::counters
