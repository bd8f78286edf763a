// What a kernel reads and writes: see counters.cpp.
#pragma once

namespace simulator::counters {

// Whether accesses are counted now.
extern bool counting;

// A block has ended: its accesses are grouped by warp and added up.
void end_block();

}  // namespace simulator::counters
