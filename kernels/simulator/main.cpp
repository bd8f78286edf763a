// The kernels as they run.
#define SIMULATOR_MAIN
#include "kernels.h"

extern "C" int simulator_launch(const char* name, const unsigned* grid, const unsigned* dim, size_t shared_bytes, void** arguments,
                                int order, uint64_t seed, unsigned workers, char* error, size_t error_size) {
  return launch_by_name(name, grid, dim, shared_bytes, arguments, order, seed, workers, error, error_size);
}
