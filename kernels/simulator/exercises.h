// Kernels of chapter 5: those that it begins with, the reader's exercises, the answers, and answers that are wrong, each in a namespace of its own.
#pragma once
#include "../ptx.cuh"

// What is not written yet: the block ends with this sentence.
[[noreturn]] inline void stub_ends(const char* sentence) {
  simulator::block.fail("not written yet: %s", sentence);
  abort();
}
inline float stub(const char* sentence) { stub_ends(sentence); }

namespace exercise {
#if !defined(SIMULATOR_EXERCISE_BROKEN)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "../../steps/step5-paged-attention/exercise.cu"
#pragma GCC diagnostic pop
#endif
}  // namespace exercise
namespace lesson {
#include "../../steps/step5-paged-attention/lesson.cu"
}
namespace solution {
#include "../../steps/step5-paged-attention/solution.cu"
}
namespace wrong {
#include "../../steps/step5-paged-attention/wrong.cu"
}
