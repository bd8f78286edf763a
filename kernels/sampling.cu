// From logits to tokens, where the logits are: four bytes a row go to the host, and not a row of the vocabulary.
//
//   v0   a block for each row. Nothing is sorted: the k-th largest logit and the edge of the nucleus are found by bisection, bit by bit, each
//        round counting or adding up over the row. Some 100 passes over a row that lies in the cache of the GPU. Any vocabulary below 2^30.
//
// What each knob means, and in which order, is in src/sampling/mod.rs; the same random number gives the same token as there, but for the last
// bits of exp and of sums, which are in double here too.
#include "common.cuh"

// What a row's token is if it has none: what is wrong with its logits. Below 2^30 it is a token.
constexpr unsigned NAN_AT = 0x80000000u, INFINITE_AT = 0x40000000u, NOTHING_LEFT = 0xffffffffu, NO_TOKEN = 0xffffffffu;
// Threads of a block.
constexpr unsigned SAMPLERS = 256;

// A row, and the shared memory in which its threads meet.
struct Row {
  const float* logits;
  double* weights;  // in global memory: of each token, 0 for those that may not be drawn
  unsigned vocab;
  double* sums;
  unsigned* counts;
};

// Calls f(token) for this thread's tokens: every 256th.
template <class F> __device__ __forceinline__ void each_token(const Row& row, F f) {
  for (unsigned token = threadIdx.x; token < row.vocab; token += SAMPLERS) f(token);
}

// How many tokens fulfil a condition.
template <class F> __device__ __forceinline__ unsigned count_if(const Row& row, F condition) {
  unsigned mine = 0;
  each_token(row, [&](unsigned token) { mine += condition(token); });
  return block_sum(row.counts, mine);
}

// The mass of the tokens whose weight is `least` at least.
__device__ __forceinline__ double mass_from(const Row& row, double least) {
  double mine = 0.;
  each_token(row, [&](unsigned token) { mine += row.weights[token] >= least ? row.weights[token] : 0.; });
  return block_sum(row.sums, mine);
}

// The largest logit and the first token that has it; in `first_nan` the first token that is not a number.
__device__ __forceinline__ unsigned peak(const Row& row, float* largest, unsigned* first_nan) {
  unsigned nan = NO_TOKEN;
  float mine = -INFINITY;
  each_token(row, [&](unsigned token) {
    if (row.logits[token] != row.logits[token]) nan = min(nan, token);
    else mine = fmaxf(mine, row.logits[token]);
  });
  *first_nan = block_reduce(row.counts, nan, [](unsigned a, unsigned b) { return min(a, b); });
  *largest = block_reduce(reinterpret_cast<float*>(row.counts), mine, [](float a, float b) { return fmaxf(a, b); });
  unsigned first = NO_TOKEN;
  each_token(row, [&](unsigned token) {
    if (row.logits[token] == *largest) first = min(first, token);
  });
  return block_reduce(row.counts, first, [](unsigned a, unsigned b) { return min(a, b); });
}

// A number whose order as an unsigned is that of the floats.
__device__ __forceinline__ unsigned sortable(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The k-th largest logit: the largest number that k logits reach.
__device__ __forceinline__ float kth_largest(const Row& row, unsigned k) {
  unsigned found = 0;
  for (unsigned bit = 0x80000000u; bit; bit /= 2) {
    const unsigned candidate = found | bit;
    if (count_if(row, [&](unsigned token) { return sortable(row.logits[token]) >= candidate; }) >= k) found = candidate;
  }
  return __uint_as_float(found & 0x80000000u ? found & 0x7fffffffu : ~found);
}

// The largest weight such that the mass from it on is more than `target`, or as much if `reach`. All weights are in [0, 1], and the bits of
// positive doubles have their order.
__device__ __forceinline__ double crossing_weight(const Row& row, double target, bool reach) {
  unsigned long long found = 0;
  for (unsigned long long bit = 1ull << 61; bit; bit /= 2) {
    const double mass = mass_from(row, __longlong_as_double((long long)(found | bit)));
    if (reach ? mass >= target : mass > target) found |= bit;
  }
  return __longlong_as_double((long long)found);
}

// Of the tokens with this weight, in the order of their ids, the one with `before` others before it. If there are fewer: the last one.
__device__ __forceinline__ unsigned token_of_weight(const Row& row, double weight, unsigned before) {
  unsigned low = 0, high = row.vocab - 1;  // the token is in [low, high]
  while (low < high) {
    const unsigned middle = low + (high - low) / 2;
    const unsigned n = count_if(row, [&](unsigned token) { return token <= middle && row.weights[token] == weight; });
    if (n > before) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Weights of what may be drawn after temperature, min-p and top-k.
__device__ __forceinline__ void weigh(const Row& row, double largest, double temperature, double min_p, unsigned top_k) {
  double floor = largest + temperature * log(min_p);  // log(0) is -inf: a floor that all are above
  if (top_k >= 1 && top_k < row.vocab) floor = fmax(floor, (double)kth_largest(row, top_k));
  each_token(row, [&](unsigned token) {
    const double logit = row.logits[token];
    row.weights[token] = logit >= floor ? exp((logit - largest) / temperature) : 0.;
  });
  __syncthreads();
}

// The nucleus: keeps the heaviest until their mass reaches top_p of all, and draws from them, heaviest first, equal ones by their ids.
__device__ __forceinline__ unsigned draw_from_nucleus(const Row& row, double top_p, double u) {
  const double edge = crossing_weight(row, top_p * mass_from(row, 4.9e-324), true);
  double heavier = 0.;  // mass of those that are heavier than the edge
  each_token(row, [&](unsigned token) { heavier += row.weights[token] > edge ? row.weights[token] : 0.; });
  heavier = block_sum(row.sums, heavier);
  const double wanted = top_p * mass_from(row, 4.9e-324) - heavier;
  const double kept = fmax(1., ceil(wanted / edge));  // of those that have the edge's weight: up to the one that crosses
  const double target = u * (heavier + kept * edge);
  if (target >= heavier) return token_of_weight(row, edge, (unsigned)fmin((target - heavier) / edge, kept - 1.));
  const double weight = crossing_weight(row, target, false);
  double above = 0.;
  each_token(row, [&](unsigned token) { above += row.weights[token] > weight ? row.weights[token] : 0.; });
  above = block_sum(row.sums, above);
  return token_of_weight(row, weight, (unsigned)((target - above) / weight));
}

// Draws in the order of the ids: the first token at which the running sum is above u times all of it. Threads add up a stretch each; one of
// them walks through the stretch in which it happens.
__device__ __forceinline__ unsigned draw_by_id(const Row& row, double u) {
  const unsigned stretch = (row.vocab + SAMPLERS - 1) / SAMPLERS;
  const unsigned from = min(row.vocab, threadIdx.x * stretch), to = min(row.vocab, from + stretch);
  double mine = 0.;
  for (unsigned token = from; token < to; token++) mine += row.weights[token];
  row.sums[threadIdx.x] = mine;
  __syncthreads();
  double total = 0., before = 0.;
  for (unsigned thread = 0; thread < SAMPLERS; thread++) {
    if (thread == threadIdx.x) before = total;
    total += row.sums[thread];
  }
  const double target = u * total;
  unsigned found = NO_TOKEN, last = 0;
  if (before + mine > target) {
    double sum = before;
    for (unsigned token = from; token < to && found == NO_TOKEN; token++) {
      sum += row.weights[token];
      if (sum > target) found = token;
    }
  }
  for (unsigned token = from; token < to; token++)
    if (row.weights[token] > 0.) last = token;
  __syncthreads();
  found = block_reduce(row.counts, found, [](unsigned a, unsigned b) { return min(a, b); });
  last = block_reduce(row.counts, last, [](unsigned a, unsigned b) { return max(a, b); });
  return found == NO_TOKEN ? last : found;  // the last bits of a sum that was added up in another order
}

// tokens[r]: what is drawn from row r of `logits`, [rows, vocab], or what is wrong with the row. draws: [rows, 6], the bits of temperature
// (0: the largest logit), top_p, min_p, then top_k (0: all), and the low and the high half of a double in [0, 1). scratch: [rows, vocab].
// grid: rows; block: SAMPLERS threads.
GLOBAL void __launch_bounds__(SAMPLERS, 1)
sample(unsigned* tokens, const float* logits, const unsigned* draws, double* scratch, unsigned vocab) {
  SHARED(double, sums, [SAMPLERS]);
  SHARED(unsigned, counts, [SAMPLERS]);
  const size_t start = (size_t)blockIdx.x * vocab;
  const Row row = {logits + start, scratch + start, vocab, sums, counts};
  const unsigned* draw = draws + blockIdx.x * 6;
  float largest;
  unsigned first_nan;
  unsigned token = peak(row, &largest, &first_nan);
  const float temperature = __uint_as_float(draw[0]);
  if (first_nan != NO_TOKEN) {
    token = NAN_AT | first_nan;
  } else if (largest == -INFINITY) {
    token = NOTHING_LEFT;
  } else if (largest == INFINITY) {
    token |= INFINITE_AT;
  } else if (temperature > 0.f) {
    weigh(row, largest, temperature, __uint_as_float(draw[2]), draw[3]);
    const double top_p = __uint_as_float(draw[1]);
    const double u = __longlong_as_double((long long)((unsigned long long)draw[5] << 32 | draw[4]));
    token = top_p < 1. ? draw_from_nucleus(row, top_p, u) : draw_by_id(row, u);
  }
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}
