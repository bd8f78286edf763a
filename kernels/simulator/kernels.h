// Every kernel, compiled for the host, found by its name: what cuModuleGetFunction and cuLaunchKernel are on a GPU.
#include "../embedding.cu"
#include "../norm.cu"
#include "../elementwise.cu"
#include "../matmul.cu"
#include "../kv_cache.cu"
#include "../paged_attention.cu"
#include "../sampling.cu"
#include "planted.cu"
#include "probes.cu"
#include "exercises.h"  // with flash_attention.cu
#if defined(STAIRWELL_STEP6)
#include "../flash_attention_sm90.cu"
#endif
#if defined(STAIRWELL_QUANTIZED)
#include "../quant_matmul.cu"
#include "../quant_rows.cu"
#endif

// Calls f(kernel) with the kernel of this name; `unknown` if there is none.
template <class F> static auto with_kernel(const char* name, F f, decltype(f(add)) unknown) {
#define KERNEL(kernel) \
  if (!strcmp(name, #kernel)) return f(kernel);
#define DTYPES(kernel) KERNEL(kernel##_f32) KERNEL(kernel##_bf16) KERNEL(kernel##_f16)
#define KV_DTYPES(kernel) DTYPES(kernel) KERNEL(kernel##_fp8)
  DTYPES(embed) KERNEL(take_rows) KERNEL(take_columns)
  KERNEL(rms_norm_v0) KERNEL(rms_norm_v1) KERNEL(rms_norm_v2) KERNEL(add_rms_norm) KERNEL(layer_norm) KERNEL(add_layer_norm)
  KERNEL(cast_bf16) KERNEL(cast_f16)
  KERNEL(add) KERNEL(add_bias) KERNEL(silu_mul) KERNEL(gelu) KERNEL(rope)
  DTYPES(matmul_v0) KERNEL(matmul_v0_bf16_bf16) KERNEL(matmul_v0_f16_f16)
  DTYPES(matmul_v1) KERNEL(matmul_v1_bf16_bf16) KERNEL(matmul_v1_f16_f16)
  DTYPES(matmul_v2) KERNEL(matmul_v2_bf16_bf16) KERNEL(matmul_v2_f16_f16)
  KERNEL(matmul_v3_bf16_bf16) KERNEL(matmul_v3_f16_f16) KERNEL(matmul_v3_unswizzled_bf16_bf16)
  KV_DTYPES(write_kv) KV_DTYPES(rope_write_kv)
  KV_DTYPES(paged_attention_v0) KV_DTYPES(paged_attention_v1) KV_DTYPES(paged_attention_v2) KV_DTYPES(paged_attention_v3)
  KV_DTYPES(paged_attention_v4)
  KERNEL(paged_attention_combine)
  KERNEL(sample)
#if defined(STAIRWELL_STEP6)
#define WIDTHS(kernel, dtype) \
  KERNEL(kernel##_d64_##dtype) KERNEL(kernel##_d80_##dtype) KERNEL(kernel##_d96_##dtype) KERNEL(kernel##_d128_##dtype) KERNEL(kernel##_d256_##dtype)
  KV_DTYPES(flash_attention_v0_scores) KV_DTYPES(flash_attention_v0_softmax) KV_DTYPES(flash_attention_v0_output)
  KV_DTYPES(flash_attention_v1)
  WIDTHS(flash_attention_v2, bf16) WIDTHS(flash_attention_v2, f16) WIDTHS(flash_attention_v3, bf16) WIDTHS(flash_attention_v3, f16)
  KERNEL(flash_attention_v2_unswizzled_d64_bf16) KERNEL(flash_attention_v2_unswizzled_d128_bf16)
  KERNEL(flash_attention_v4_d64_bf16) KERNEL(flash_attention_v4_d64_f16) KERNEL(flash_attention_v4_d128_bf16) KERNEL(flash_attention_v4_d128_f16)
#endif
#if defined(STAIRWELL_QUANTIZED)
  DTYPES(quant_matmul_v0) DTYPES(quant_matmul_v1) DTYPES(quant_matmul_v2) KERNEL(quant_matmul_v3_bf16) KERNEL(quant_matmul_v3_f16)
  DTYPES(quant_matmul_v4)
  KERNEL(quant_matmul_rows_affine4) KERNEL(quant_matmul_rows_table) KERNEL(quant_matmul_rows_affine8) KERNEL(quant_matmul_rows_int8)
  KERNEL(quant_matmul_rows_fp8)
#endif
  KERNEL(planted_missing_barrier) KERNEL(planted_missing_second_barrier) KERNEL(planted_divergent_barrier)
  KERNEL(planted_wrong_mask) KERNEL(planted_missing_syncwarp) KERNEL(planted_outside_static)
  KERNEL(planted_outside_dynamic) KERNEL(planted_outside_global) KERNEL(planted_unwritten) KERNEL(planted_nothing) KERNEL(planted_bank_conflict)
  KERNEL(planted_missing_wait) KERNEL(planted_past_the_table)
  KERNEL(probe_mma_bf16) KERNEL(probe_mma_f16) KERNEL(probe_transpose) KERNEL(probe_cp_async) KERNEL(probe_warp) KERNEL(probe_atomics)
  KERNEL(probe_bf16) KERNEL(probe_f16)
#define EXERCISES(space)                                                                                                    \
  KERNEL(space::warp_sum) KERNEL(space::rms_norm) KERNEL(space::transpose)                                                  \
  KERNEL(space::turn_round) KERNEL(space::difference) KERNEL(space::sum_of_twenty) KERNEL(space::paged_walk) KERNEL(space::combine)
#if defined(STAIRWELL_STEP6)
#define EXERCISES6(space) KERNEL(space::meet) KERNEL(space::tile_loop) KERNEL(space::swizzle) KERNEL(space::flash_with_my_meet)
#else
#define EXERCISES6(space)
#endif
#if !defined(SIMULATOR_EXERCISE_BROKEN)
  EXERCISES(exercise) EXERCISES6(exercise)
#endif
  EXERCISES(solution) EXERCISES6(solution)
  KERNEL(lesson::who) KERNEL(lesson::strided) KERNEL(lesson::strided_shared) KERNEL(lesson::race)
  KERNEL(wrong::first_lane_only) KERNEL(wrong::half_a_warp) KERNEL(wrong::through_memory) KERNEL(wrong::rms_norm_of_half)
  KERNEL(wrong::writes_columns) KERNEL(wrong::one_bank) KERNEL(wrong::no_barrier) KERNEL(wrong::whole_tiles)
  KERNEL(wrong::barrier_of_a_warp) KERNEL(wrong::last_left_out) KERNEL(wrong::mask_of_twenty)
  KERNEL(wrong::walk_without_rescale) KERNEL(wrong::walk_without_table) KERNEL(wrong::walk_too_far) KERNEL(wrong::walk_without_largest)
  KERNEL(wrong::combine_without_largest) KERNEL(wrong::combine_by_average)
#if defined(STAIRWELL_STEP6)
  KERNEL(wrong::meet_without_correction) KERNEL(wrong::meet_by_tile) KERNEL(wrong::meet_masked) KERNEL(wrong::flash_without_correction)
  KERNEL(wrong::loop_without_barrier) KERNEL(wrong::loop_without_mask) KERNEL(wrong::loop_over_all_tiles) KERNEL(wrong::loop_without_tiles)
  KERNEL(wrong::unswizzled) KERNEL(wrong::half_swizzled) KERNEL(wrong::shared_place)
#endif
  return unknown;
}

static int launch_by_name(const char* name, const unsigned* grid, const unsigned* dim, size_t shared_bytes, void** arguments,
                                int order, uint64_t seed, unsigned workers, char* error, size_t error_size) {
  const simulator::Schedule schedule{simulator::Order(order), seed};
  const simulator::Error failed{error, error_size};
  failed.set("there is no such kernel");
  auto run = [&](auto* kernel) {
    return simulator::launch(kernel, {grid[0], grid[1], grid[2]}, {dim[0], dim[1], dim[2]}, shared_bytes, arguments, schedule, workers,
                             failed);
  };
  return with_kernel(name, run, 1);
}
