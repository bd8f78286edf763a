// y = x W^T, with W packed: codes of 4 bits or floats of 8 bits, and the scales that make numbers of them. (Step 9.)
//
//          idea                                            predicted reads of W, bits a weight (groups    where it loses
//                                                          of 128)
//   v0     a thread for each number of y, the file's       32 + 16 + 8: a word, a scale and a zero        everywhere
//          words as they lie; act-order's g_idx            point for every weight
//   v1     words of four outputs in one read of 16 bytes,  4 + 16/128 + 4/128 = 4.16: each bit once       few threads: a fourth as many as
//          scale and zero point once a group                                                              outputs; W again for every row
//   v2     eight warps share out an output's groups        4.16 for every 4 rows                          more rows; a conversion for each
//          (split-K); one instruction (lop3) makes two                                                    weight, in the registers of every
//          codes f16; four rows at a time                                                                 warp that reads it
//   v3     tensor cores: W rewritten once into the tiles   4 + 16/128 + 8/128 = 4.19 for every 32 rows    one row: 31 of 32 rows of a tile
//          that mma wants, the next ones on their way                                                     are zeros; x must be cast first
//   v4     floats of 8 bits in blocks of 128 x 128: 16     8.13 for every 4 rows                          x again for every 4 outputs; more
//          codes a read, pairs become f16 by shifts                                                       rows: no tensor cores
//
// Other formats are multiplied by quant_rows.cu.
//
// The weights are never rounded: a code minus its zero point is a whole number of at most 5 bits, which f16 and bf16 hold; scales multiply sums
// in f32. No version has run on a GPU.
//
// y[r, o] = sum over k of x[r, k] * W[o, k]. x: [rows, inputs]; y: [rows, y_cols], whose columns from `first_col` on are written.
#include "paged_cache.cuh"
#include "ptx.cuh"

// ANCHOR: words
// W in GPTQ's layout: W[o, k] = (code - zero) * scale of k's group. inputs, outputs and (without g_idx) group_size are multiples of 8.
struct Words {
  const unsigned* codes;         // [inputs / 8, outputs]: eight inputs of an output, the first one lowest
  const unsigned* zeros;         // [groups, outputs / 8]: eight outputs of a group; zero_offset is to be added, in 4 bits
  const unsigned short* scales;  // [groups, outputs]: f16 or bf16
  unsigned inputs, outputs, group_size, zero_offset, scales_bf16;
};
#define WORDS_PARAMETERS                                                                                                           \
  const unsigned *codes, const unsigned *zeros, const unsigned short *scales, unsigned inputs, unsigned outputs, unsigned group_size, \
      unsigned zero_offset, unsigned scales_bf16
#define WORDS (Words{codes, zeros, scales, inputs, outputs, group_size, zero_offset, scales_bf16})
// ANCHOR_END: words

// Two scales side by side.
__device__ __forceinline__ float2 two_scales(unsigned bits, unsigned are_bf16) {
  if (are_bf16) return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

// ANCHOR: v0
// g_idx: the group of each input; null if groups are runs. grid: (ceil(outputs / block), rows).
template <class X> __device__ void quant_matmul_v0(float* y, const X* x, const unsigned* g_idx, Words w, unsigned y_cols, unsigned first_col) {
  const unsigned o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= w.outputs) return;
  const X* row = x + (size_t)blockIdx.y * w.inputs;
  float sum = 0.f;
  for (unsigned k = 0; k < w.inputs; k++) {
    const unsigned group = g_idx ? g_idx[k] : k / w.group_size;
    const unsigned code = w.codes[(size_t)(k / 8) * w.outputs + o] >> k % 8 * 4 & 15;
    const unsigned stored = w.zeros[(size_t)group * (w.outputs / 8) + o / 8] >> o % 8 * 4;
    const int zero = (stored + w.zero_offset) & 15;
    const float scale = two_scales(w.scales[(size_t)group * w.outputs + o], w.scales_bf16).x;
    sum += to_float(row[k]) * ((float)((int)code - zero) * scale);
  }
  y[(size_t)blockIdx.y * y_cols + first_col + o] = sum;
}
// ANCHOR_END: v0

// Eight numbers of x.
template <class X> __device__ __forceinline__ void read_x(float (&to)[8], const X* from) {
  float2 two[4];
  load8(two, from);
  for (unsigned i = 0; i < 4; i++) to[2 * i] = two[i].x, to[2 * i + 1] = two[i].y;
}

// The zero points and the scales of four outputs from o on, a multiple of 4.
__device__ __forceinline__ void read_zeros(unsigned (&to)[4], const Words& w, unsigned group, unsigned o) {
  const unsigned stored = w.zeros[(size_t)group * (w.outputs / 8) + o / 8] >> o % 8 * 4;
  for (unsigned n = 0; n < 4; n++) to[n] = ((stored >> 4 * n) + w.zero_offset) & 15;
}
__device__ __forceinline__ void read_scales(float (&to)[4], const Words& w, unsigned group, unsigned o) {
  const uint2 bits = *reinterpret_cast<const uint2*>(w.scales + (size_t)group * w.outputs + o);
  const float2 low = two_scales(bits.x, w.scales_bf16), high = two_scales(bits.y, w.scales_bf16);
  to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
}
// Eight inputs of four outputs: 16 bytes.
__device__ __forceinline__ void read_codes(unsigned (&to)[4], const Words& w, unsigned k, unsigned o) {
  const uint4 four = *reinterpret_cast<const uint4*>(w.codes + (size_t)(k / 8) * w.outputs + o);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// ANCHOR: v1
// A thread has four outputs. grid: (ceil(outputs / 256), rows); block: 64.
template <class X> __device__ void quant_matmul_v1(float* y, const X* x, Words w, unsigned y_cols, unsigned first_col) {
  const unsigned o = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (o >= w.outputs) return;
  const X* row = x + (size_t)blockIdx.y * w.inputs;
  float sums[4] = {};
  for (unsigned start = 0, group = 0; start < w.inputs; start += w.group_size, group++) {
    unsigned zeros[4], codes[4];
    float scales[4], xs[8], part[4] = {};
    read_zeros(zeros, w, group, o);
    read_scales(scales, w, group, o);
    for (unsigned k = start; k < min(start + w.group_size, w.inputs); k += 8) {
      read_codes(codes, w, k, o);
      read_x(xs, row + k);
      for (unsigned n = 0; n < 4; n++)
        for (unsigned i = 0; i < 8; i++) part[n] += xs[i] * (float)((int)(codes[n] >> 4 * i & 15) - (int)zeros[n]);
    }
    for (unsigned n = 0; n < 4; n++) sums[n] += part[n] * scales[n];
  }
  for (unsigned n = 0; n < 4; n++) y[(size_t)blockIdx.y * y_cols + first_col + o + n] = sums[n];
}
// ANCHOR_END: v1

// ANCHOR: magic
// Codes as floats of 16 bits without a conversion. The float 1024 of f16 (0x6400) and 128 of bf16 (0x4300) have steps of 1: a code in the lowest
// four bits makes 1024 + code. Minus 1024 + zero it is exact. One word has eight codes; `word >> 4 p` has codes p and p + 4 at the bits where two
// floats of 16 bits have their lowest ones, and lop3 masks them and sets the exponents at once.
__device__ __forceinline__ unsigned magic(f16) { return 0x64006400; }
__device__ __forceinline__ unsigned magic(bf16) { return 0x43004300; }
__device__ __forceinline__ unsigned difference(unsigned a, unsigned b, f16) {
  const __half2 d = __hsub2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const unsigned*>(&d);
}
__device__ __forceinline__ unsigned difference(unsigned a, unsigned b, bf16) {
  const __nv_bfloat162 d = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const unsigned*>(&d);
}
// Codes p and p + 4 of a word, minus their zero point: `zero` is a pair of it, with the exponents.
template <class T> __device__ __forceinline__ unsigned two_codes(unsigned word, unsigned p, unsigned zero) {
  return difference(and_or(word >> 4 * p, 0x000f000f, magic(T())), zero, T());
}
template <class T> __device__ __forceinline__ unsigned two_zeros(unsigned zero) { return zero * 0x00010001u | magic(T()); }
// ANCHOR_END: magic

// Inputs that a warp of v2 takes at a time, at most: a group, or a part of a longer one.
constexpr unsigned RUN = 128;

// ANCHOR: v2
// grid: (ceil(outputs / 128), ceil(rows / 4)); block: 8 warps, each with the same 128 outputs and its own runs of inputs.
template <class X> __device__ void quant_matmul_v2(float* y, const X* x, Words w, unsigned y_cols, unsigned first_col, unsigned rows) {
  SHARED(float, partial, [8][4][128]);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y * 4, o = blockIdx.x * 128 + 4 * lane;
  const unsigned groups = (w.inputs + w.group_size - 1) / w.group_size, runs = (w.group_size + RUN - 1) / RUN;
  float sums[4][4] = {};  // of four rows, four outputs
  for (unsigned run = warp; o < w.outputs && run < groups * runs; run += 8) {
    const unsigned group = run / runs, start = group * w.group_size + run % runs * RUN;
    const unsigned end = min(min(start + RUN, (group + 1) * w.group_size), w.inputs);
    if (start >= end) continue;
    unsigned zeros[4], codes[4];
    float scales[4], part[4][4] = {};
    read_zeros(zeros, w, group, o);
    read_scales(scales, w, group, o);
    for (unsigned n = 0; n < 4; n++) zeros[n] = two_zeros<f16>(zeros[n]);
    for (unsigned k = start; k < end; k += 8) {
      read_codes(codes, w, k, o);
      float numbers[4][8], xs[8];
      for (unsigned n = 0; n < 4; n++)
        for (unsigned p = 0; p < 4; p++) {
          const unsigned bits = two_codes<f16>(codes[n], p, zeros[n]);
          const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&bits));
          numbers[n][p] = two.x, numbers[n][p + 4] = two.y;
        }
#pragma unroll
      for (unsigned r = 0; r < 4; r++) {
        if (row + r >= rows) continue;
        read_x(xs, x + (size_t)(row + r) * w.inputs + k);
        for (unsigned n = 0; n < 4; n++)
          for (unsigned i = 0; i < 8; i++) part[r][n] += xs[i] * numbers[n][i];
      }
    }
    for (unsigned r = 0; r < 4; r++)
      for (unsigned n = 0; n < 4; n++) sums[r][n] += part[r][n] * scales[n];
  }
  for (unsigned r = 0; r < 4; r++)
    *reinterpret_cast<float4*>(&partial[warp][r][4 * lane]) = make_float4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
  __syncthreads();
  // The warps' sums in their order, so that a row's bits depend on nothing else.
  for (unsigned i = threadIdx.x; i < 4 * 128; i += 256) {
    const unsigned r = i / 128, column = i % 128;
    float sum = 0.f;
    for (unsigned from = 0; from < 8; from++) sum += partial[from][r][column];
    if (row + r < rows && blockIdx.x * 128 + column < w.outputs)
      y[(size_t)(row + r) * y_cols + first_col + blockIdx.x * 128 + column] = sum;
  }
}
// ANCHOR_END: v2

// v3. W in tiles of 32 outputs and 32 inputs, 512 bytes, the tiles of the same outputs behind each other; what is beyond W's edges is 0. Lane
// 4 g + t of a warp has 16 bytes of a tile, a word for each eight outputs j: output 8 j + g, inputs in the order in which `two_codes` gives pairs,
//   p = 0: 2t, 2t+1   p = 1: 2t+8, 2t+9   p = 2: 2t+16, 2t+17   p = 3: 2t+24, 2t+25,
// which are the b that mma wants for two steps of 16 inputs.
// ANCHOR: tiles
struct Tiles {
  const uint4* codes;   // [tiles of outputs, tiles of inputs, 32 lanes]
  const uint4* zeros;   // [groups, tiles of outputs]: word j has the zero points of outputs 8 j to 8 j + 7
  const uint4* scales;  // [groups, tiles of outputs, 4]: of lane t the scales of outputs 8 j + 2 t and the one after it, j = 0 to 3
  unsigned inputs, outputs, group_size, scales_bf16;
};
// ANCHOR_END: tiles

// A tile of x: 32 rows of 64 numbers, whose pieces of 16 bytes are swizzled as in matmul.cu.
__device__ __forceinline__ unsigned x_place(unsigned row, unsigned piece) { return row * 64 + (piece ^ row % 8) * 8; }

// ANCHOR: bring
// Begins to bring 64 inputs of 32 rows of x; zeros behind its edges.
template <class T> __device__ __forceinline__ void bring_x(T* tile, const T* x, unsigned row, unsigned rows, unsigned k, unsigned inputs) {
  for (unsigned i = threadIdx.x; i < 32 * 8; i += 128) {
    const unsigned r = i / 8, piece = i % 8;
    const bool real = row + r < rows && k + 8 * piece < inputs;
    cp_async(tile + x_place(r, piece), real ? x + (size_t)(row + r) * inputs + k + 8 * piece : x, real);
  }
}
// Begins to bring a warp's two tiles of W for the same inputs: each lane its own 32 bytes.
__device__ __forceinline__ void bring_w(uint4 (&tiles)[2][32], const Tiles& w, unsigned tile, bool real, unsigned k) {
  const unsigned lane = threadIdx.x % 32, along = (w.inputs + 31) / 32;
  for (unsigned half = 0; half < 2; half++) {
    const bool here = real && k + 32 * half < w.inputs;
    cp_async(&tiles[half][lane], here ? w.codes + ((size_t)tile * along + k / 32 + half) * 32 + lane : w.codes, here);
  }
}
// ANCHOR_END: bring

// What a lane needs of a group: the zero points of its output g of each eight, as pairs, and the scales of the columns of c that it has.
template <class T>
__device__ __forceinline__ void read_tile_group(unsigned (&zeros)[4], float2 (&scales)[4], const Tiles& w, unsigned group, unsigned tile, T) {
  const unsigned lane = threadIdx.x % 32, shift = 4 * (lane / 4);
  const size_t at = (size_t)group * ((w.outputs + 31) / 32) + tile;
  const uint4 z = w.zeros[at], s = w.scales[at * 4 + lane % 4];
  zeros[0] = two_zeros<T>(z.x >> shift & 15), zeros[1] = two_zeros<T>(z.y >> shift & 15);
  zeros[2] = two_zeros<T>(z.z >> shift & 15), zeros[3] = two_zeros<T>(z.w >> shift & 15);
  scales[0] = two_scales(s.x, w.scales_bf16), scales[1] = two_scales(s.y, w.scales_bf16);
  scales[2] = two_scales(s.z, w.scales_bf16), scales[3] = two_scales(s.w, w.scales_bf16);
}
// Adds a group's sums, scaled, and begins the next ones.
__device__ __forceinline__ void scale_sums(float (&c)[2][4][4], float (&part)[2][4][4], const float2 (&scales)[4]) {
  for (unsigned i = 0; i < 2; i++)
    for (unsigned j = 0; j < 4; j++)
      for (unsigned h = 0; h < 4; h++) {
        c[i][j][h] += part[i][j][h] * (h % 2 ? scales[j].y : scales[j].x);
        part[i][j][h] = 0.f;
      }
}

// ANCHOR: v3
// x in 16 bits; group_size: a multiple of 32. grid: (ceil(outputs / 128), ceil(rows / 32)); block: 4 warps, each with 32 x 32 numbers of y.
template <class T> __device__ void quant_matmul_v3(float* y, const T* x, Tiles w, unsigned y_cols, unsigned first_col, unsigned rows) {
  SHARED(T, x_tiles, [2][32 * 64]);
  SHARED(uint4, w_tiles, [2][4][2][32]);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y * 32;
  const unsigned across = (w.outputs + 31) / 32, tile = blockIdx.x * 4 + warp;
  const bool real = tile < across;
  float c[2][4][4] = {}, part[2][4][4] = {};  // sums, and those of a group before its scales: 2 x 4 results of mma
  unsigned zeros[4] = {};
  float2 scales[4] = {};
  bring_x(x_tiles[0], x, row, rows, 0, w.inputs);
  bring_w(w_tiles[0][warp], w, tile, real, 0);
  cp_async_commit();
  for (unsigned k = 0, stage = 0; k < w.inputs; k += 64, stage ^= 1) {
    if (k + 64 < w.inputs) {
      bring_x(x_tiles[stage ^ 1], x, row, rows, k + 64, w.inputs);
      bring_w(w_tiles[stage ^ 1][warp], w, tile, real, k + 64);
    }
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (unsigned half = 0; half < 2 && real && k + 32 * half < w.inputs; half++) {
      const unsigned at = k + 32 * half;
      if (at % w.group_size == 0) {  // the next group's zero points and scales, behind the sums of the last one
        scale_sums(c, part, scales);
        read_tile_group(zeros, scales, w, at / w.group_size, tile, T());
      }
      const uint4 four = w_tiles[stage][warp][half][lane];
      const unsigned words[4] = {four.x, four.y, four.z, four.w};
      for (unsigned step = 0; step < 2; step++) {
        unsigned a[2][4];
        for (unsigned i = 0; i < 2; i++)
          ldmatrix(a[i], x_tiles[stage] + x_place(16 * i + lane % 16, 4 * half + 2 * step + lane / 16));
        for (unsigned j = 0; j < 4; j++) {
          const unsigned b[2] = {two_codes<T>(words[j], 2 * step, zeros[j]), two_codes<T>(words[j], 2 * step + 1, zeros[j])};
          for (unsigned i = 0; i < 2; i++) mma(part[i][j], a[i], b, T());
        }
      }
    }
    __syncthreads();  // before the tiles are overwritten
  }
  scale_sums(c, part, scales);
  for (unsigned i = 0; i < 2; i++)
    for (unsigned j = 0; j < 4; j++)
      for (unsigned h = 0; h < 4; h++) {
        const unsigned r = row + 16 * i + lane / 4 + h / 2 * 8, o = 32 * tile + 8 * j + lane % 4 * 2 + h % 2;
        if (r < rows && o < w.outputs) y[(size_t)r * y_cols + first_col + o] = c[i][j][h];
      }
}
// ANCHOR_END: v3

// ANCHOR: fp8
// Four e4m3 floats of a word as f16, 2^8 times too small: their seven lower bits where f16 has the low end of its exponent and the high end of its
// fraction. Subnormals are right, NaN is not: the host keeps such matrices from v4.
__device__ __forceinline__ void four_fp8(float (&to)[4], unsigned word) {
  const unsigned even = word << 8, pairs[2] = {(even & 0x80008000) | (even & 0x7f007f00) >> 1, (word & 0x80008000) | (word & 0x7f007f00) >> 1};
  const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&pairs[0])), b = __half22float2(*reinterpret_cast<const __half2*>(&pairs[1]));
  to[0] = a.x, to[1] = b.x, to[2] = a.y, to[3] = b.y;
}
// ANCHOR_END: fp8

// ANCHOR: v4
// codes: [outputs, inputs]; inputs: a multiple of 16; scales: [ceil(outputs / 128), ceil(inputs / 128)].
// grid: (ceil(outputs / 16), ceil(rows / 4)); block: 4 warps, each with four outputs.
template <class X>
__device__ void quant_matmul_v4(float* y, const X* x, const unsigned char* codes, const float* scales, unsigned inputs, unsigned outputs,
                                unsigned y_cols, unsigned first_col, unsigned rows) {
  const unsigned lane = threadIdx.x % 32, row = blockIdx.y * 4, o = (blockIdx.x * 4 + threadIdx.x / 32) * 4;
  if (o >= outputs) return;
  const float* row_scales = scales + (size_t)(o / 128) * ((inputs + 127) / 128);  // one row of blocks: 128 is a multiple of 4
  float sums[4][4] = {};                                                            // of four rows, four outputs
  for (unsigned k = 16 * lane; k < inputs; k += 16 * 32) {
    const float scale = row_scales[k / 128] * 256.f;
    uint4 words[4];
    for (unsigned n = 0; n < 4; n++)
      words[n] = *reinterpret_cast<const uint4*>(codes + (size_t)min(o + n, outputs - 1) * inputs + k);
    float part[4][4] = {};
    for (unsigned half = 0; half < 2; half++) {
      float xs[4][8];
      for (unsigned r = 0; r < 4; r++)
        if (row + r < rows) read_x(xs[r], x + (size_t)(row + r) * inputs + k + 8 * half);
      for (unsigned n = 0; n < 4; n++) {
        float low[4], high[4];
        four_fp8(low, half ? words[n].z : words[n].x);
        four_fp8(high, half ? words[n].w : words[n].y);
        for (unsigned r = 0; r < 4; r++)
          if (row + r < rows)
            for (unsigned i = 0; i < 4; i++) part[r][n] += xs[r][i] * low[i] + xs[r][i + 4] * high[i];
      }
    }
    for (unsigned r = 0; r < 4; r++)
      for (unsigned n = 0; n < 4; n++) sums[r][n] += part[r][n] * scale;
  }
  for (unsigned r = 0; r < 4 && row + r < rows; r++)
    for (unsigned n = 0; n < 4; n++) {
      const float sum = warp_sum(sums[r][n]);
      if (lane == 0 && o + n < outputs) y[(size_t)(row + r) * y_cols + first_col + o + n] = sum;
    }
}
// ANCHOR_END: v4

#define QUANT_MATMUL(suffix, X)                                                                                                       \
  GLOBAL void quant_matmul_v0_##suffix(float* y, const X* x, const unsigned* g_idx, WORDS_PARAMETERS, unsigned y_cols,               \
                                       unsigned first_col) {                                                                         \
    quant_matmul_v0(y, x, g_idx, WORDS, y_cols, first_col);                                                                          \
  }                                                                                                                                  \
  GLOBAL void __launch_bounds__(64) quant_matmul_v1_##suffix(float* y, const X* x, WORDS_PARAMETERS, unsigned y_cols,                \
                                                             unsigned first_col) {                                                   \
    quant_matmul_v1(y, x, WORDS, y_cols, first_col);                                                                                 \
  }                                                                                                                                  \
  GLOBAL void __launch_bounds__(256, 2) quant_matmul_v2_##suffix(float* y, const X* x, WORDS_PARAMETERS, unsigned y_cols,            \
                                                                 unsigned first_col, unsigned rows) {                                \
    quant_matmul_v2(y, x, WORDS, y_cols, first_col, rows);                                                                           \
  }                                                                                                                                  \
  GLOBAL void __launch_bounds__(128) quant_matmul_v4_##suffix(float* y, const X* x, const unsigned char* codes, const float* scales, \
                                                              unsigned inputs, unsigned outputs, unsigned y_cols, unsigned first_col, \
                                                              unsigned rows) {                                                       \
    quant_matmul_v4(y, x, codes, scales, inputs, outputs, y_cols, first_col, rows);                                                  \
  }
FOR_EACH_DTYPE(QUANT_MATMUL)

#define QUANT_MATMUL_V3(T)                                                                                                           \
  GLOBAL void __launch_bounds__(128) quant_matmul_v3_##T(float* y, const T* x, const uint4* codes, const uint4* zeros,               \
                                                         const uint4* scales, unsigned inputs, unsigned outputs, unsigned group_size, \
                                                         unsigned scales_bf16, unsigned y_cols, unsigned first_col, unsigned rows) { \
    quant_matmul_v3(y, x, Tiles{codes, zeros, scales, inputs, outputs, group_size, scales_bf16}, y_cols, first_col, rows);           \
  }
QUANT_MATMUL_V3(bf16)
QUANT_MATMUL_V3(f16)
