// Does the simulator work on this machine? For builds that have no Rust beside them: scripts/test_simulator_builds.sh. It runs kernels whose
// results are known, in several orders of threads, and kernels that must fail.
#define SIMULATOR_MAIN
#include "kernels.h"

#include <cstdio>

static int failures = 0;

static void expect(bool good, const char* what) {
  if (good) return;
  failures++;
  printf("FAILED: %s\n", what);
}

// Runs a kernel in every order; what it says, or nothing.
static std::string run(const char* kernel, unsigned blocks, unsigned threads, std::vector<void*> arguments, int order) {
  const unsigned grid[3] = {blocks, 1, 1}, dim[3] = {threads, 1, 1};
  std::vector<void*> pointers;
  for (void*& argument : arguments) pointers.push_back(&argument);
  char error[512] = "";
  return launch_by_name(kernel, grid, dim, 4096, pointers.data(), order, 7, 2, error, sizeof error) ? error : "";
}

int main() {
  for (int order = 0; order < 3; order++) {
    std::vector<float> y(3 * 128, -1), x(8 * 1024), weight(1024, 2), z(8 * 1024);
    run("planted_nothing", 3, 128, {y.data()}, order);
    expect(y[0] != -1 && y[0] == y[128] && y[0] == y[256], "planted_nothing: every block gives the same");
    for (size_t i = 0; i < x.size(); i++) x[i] = float(i % 37) - 18;
    double squares = 0;
    for (size_t i = 0; i < 1024; i++) squares += double(x[i]) * x[i];
    for (const char* kernel : {"rms_norm_v0", "rms_norm_v1", "rms_norm_v2"}) {
      unsigned n = 1024;
      float eps = 1e-6f;
      void* arguments[5] = {};
      float *yp = z.data(), *xp = x.data(), *wp = weight.data();
      arguments[0] = &yp, arguments[1] = &xp, arguments[2] = &wp, arguments[3] = &n, arguments[4] = &eps;
      const unsigned grid[3] = {8, 1, 1}, dim[3] = {128, 1, 1};
      char error[512] = "";
      int failed = launch_by_name(kernel, grid, dim, 0, arguments, order, 7, 2, error, sizeof error);
      double want = x[5] / std::sqrt(squares / 1024 + 1e-6) * 2;
      expect(!failed && std::abs(z[5] - want) < 1e-4, kernel);
    }
    std::vector<unsigned short> a(256), b(128);
    for (size_t i = 0; i < a.size(); i++) a[i] = __float2half(float(i % 7) - 3).bits;
    for (size_t i = 0; i < b.size(); i++) b[i] = __float2half(float(i % 5) - 2).bits;
    std::vector<float> c(128);
    run("probe_mma_f16", 1, 32, {c.data(), a.data(), b.data()}, order);
    bool good = true;
    for (int i = 0; i < 16; i++) {
      for (int j = 0; j < 8; j++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += __half2float({a[i * 16 + k]}) * __half2float({b[j * 16 + k]});
        good &= c[i * 8 + j] == sum;
      }
    }
    expect(good, "probe_mma_f16");
    std::string said = run("planted_divergent_barrier", 3, 128, {y.data()}, order);
    expect(said.find("__syncthreads") != std::string::npos, "planted_divergent_barrier is an error");
    said = run("planted_wrong_mask", 3, 128, {y.data()}, order);
    expect(said.find("line") != std::string::npos, "planted_wrong_mask is an error");
  }
  printf("%d checks of the simulator failed\n", failures);
  return failures != 0;
}
