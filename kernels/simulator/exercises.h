// Kernels of chapters 5 and 6: those that it begins with, the reader's exercises, the answers, and answers that are wrong, each in a namespace of its own.
#pragma once
#include "../ptx.cuh"

// What is not written yet: the block ends with this sentence.
[[noreturn]] inline void stub_ends(const char* sentence) {
  simulator::block.fail("not written yet: %s", sentence);
  abort();
}
inline float stub(const char* sentence) { stub_ends(sentence); }

#if defined(STAIRWELL_STEP6)
#include "../flash_attention.cu"
// What chapter 6's exercises put their softmax into: attention over prompts, a warp for each packed row at a time, its lanes first keys and then
// numbers of the output. Grid and block of flash_attention_v1; head_dim: at most 256.
template <class T, class MEET>
__device__ void flash_by_meeting(float* out, float*, const float* q, const Cache<T>& cache, const unsigned* row_starts, const unsigned* row_counts,
                                 unsigned heads, MEET meet) {
  const Share share = share_of(cache, row_starts, row_counts, heads, ROWS);
  const unsigned D = cache.head_dim, lane = threadIdx.x % 32;
  for (unsigned packed = share.begin + threadIdx.x / 32; packed < share.end; packed += FLASH_THREADS / 32) {
    const size_t start = place_of(share, packed, heads) * D;
    float largest = -INFINITY, total = 0.f, sums[8] = {};
    for (unsigned tile = share.first / 32 * 32; tile <= share.last; tile += 32) {
      const unsigned t = tile + lane, position = position_of(share, packed);
      const bool seen = first_seen(position, cache.window) <= t && t <= position;
      const size_t at = seen ? place(cache, share.table, share.kv_head, t) : 0;
      float score = 0.f, correction = 1.f;
      for (unsigned d = 0; d < D && seen; d++) score += q[start + d] * cache.k[at + d];
      const float weight = meet(seen ? score * cache.scale : -INFINITY, largest, total, correction);
      for (float& sum : sums) sum *= correction;
      for (unsigned i = 0; i < 32 && tile + i <= share.last; i++) {
        const float w = __shfl_sync(0xffffffffu, weight, i);
        const T* v = cache.v + (w > 0.f ? place(cache, share.table, share.kv_head, tile + i) : 0);
        for (unsigned d = lane; d < D && w > 0.f; d += 32) sums[d / 32] += w * to_float(v[d]);
      }
    }
    for (unsigned d = lane; d < D; d += 32) out[start + d] = sums[d / 32] / total;
  }
}
#endif

namespace exercise {
#if !defined(SIMULATOR_EXERCISE_BROKEN)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "../../steps/step5-paged-attention/exercise.cu"
#if defined(STAIRWELL_STEP6)
#include "../../steps/step6-flash-attention/exercise.cu"
#endif
#pragma GCC diagnostic pop
#endif
}  // namespace exercise
namespace lesson {
#include "../../steps/step5-paged-attention/lesson.cu"
}
namespace solution {
#include "../../steps/step5-paged-attention/solution.cu"
#if defined(STAIRWELL_STEP6)
#include "../../steps/step6-flash-attention/solution.cu"
#endif
}
namespace wrong {
#include "../../steps/step5-paged-attention/wrong.cu"
#if defined(STAIRWELL_STEP6)
#include "../../steps/step6-flash-attention/wrong.cu"
#endif
}
