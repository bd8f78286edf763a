// Stands in for NVIDIA's driver, its run-time compiler and cuBLAS, so that what calls them can be tested without a GPU: the calls have
// NVIDIA's names and arguments, and kernels run on the simulator. tests/suite/gpu.rs builds it as a library and lets the program load it.
//
//   STAND_IN=no-device | old-driver | new-nvrtc | does-not-compile     what is wrong with it
//   STAND_IN_MEMORY=bytes                                              of the device
//   STAND_IN_DEVICES=n                                                 how many there are, in one memory
#define SIMULATOR_MAIN
#include "../../kernels/simulator/kernels.h"

#include <condition_variable>
#include <map>
#include <vector>

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900, LAUNCH_FAILED = 719 };

bool trouble(const char* what) {
  const char* said = getenv("STAND_IN");
  return said && !strcmp(said, what);
}

size_t total_memory() {
  const char* said = getenv("STAND_IN_MEMORY");
  return said ? strtoull(said, nullptr, 10) : size_t(1) << 30;
}

// Handles are addresses of something.
int context_handle, stream_handle, module_handle, blas_handle;

std::mutex lock;
std::map<uint64_t, size_t> allocations;
size_t used = 0;

// Work on the one stream: done at once, or recorded.
using Work = std::function<int()>;
std::vector<Work>* recording = nullptr;
int failed = SUCCESS;  // an error of a kernel, which a later call tells

int enqueue(Work work) {
  if (recording) {
    recording->push_back(std::move(work));
    return SUCCESS;
  }
  int error = work();
  if (error) failed = error;
  return SUCCESS;
}

bool inside(uint64_t address, size_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return bytes == 0;
  --next;
  return address + bytes <= next->first + next->second;
}

struct Kernel {
  std::string name;
  int shared_bytes = 48 << 10;
};

struct Graph {
  std::vector<Work> work;
};

// The values of a kernel's arguments, as they are when it is launched.
struct Arguments {
  std::vector<uint64_t> values;
  std::vector<void*> pointers;
  template <class... A> int take(void (*)(A...), void** from) {
    constexpr size_t sizes[] = {sizeof(A)...};
    values.resize(sizeof...(A));
    for (size_t i = 0; i < sizeof...(A); i++) memcpy(&values[i], from[i], sizes[i]);
    for (uint64_t& value : values) pointers.push_back(&value);
    return 0;
  }
};

float number(const void* numbers, int type, size_t at) {
  if (type == 14) return __bfloat162float(static_cast<const __nv_bfloat16*>(numbers)[at]);
  if (type == 2) return __half2float(static_cast<const __half*>(numbers)[at]);
  return static_cast<const float*>(numbers)[at];
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

API cuInit(unsigned) { return trouble("no-device") ? NO_DEVICE : SUCCESS; }
API cuDriverGetVersion(int* version) { return *version = trouble("old-driver") ? 11040 : 13000, SUCCESS; }
API cuGetErrorString(int error, const char** text) {
  return *text = error == OUT_OF_MEMORY ? "out of memory" : error == LAUNCH_FAILED ? "unspecified launch failure" : "an error", SUCCESS;
}
API cuDeviceGetCount(int* count) {
  const char* said = getenv("STAND_IN_DEVICES");
  return *count = said ? atoi(said) : 1, SUCCESS;
}
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, SUCCESS; }
// 75 and 76: the architecture, major and minor.
API cuDeviceGetAttribute(int* value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, SUCCESS; }
API cuDevicePrimaryCtxRetain(void** context, int) { return *context = &context_handle, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void* context) { return context == &context_handle ? SUCCESS : INVALID_VALUE; }
API cuCtxGetCurrent(void** context) { return *context = &context_handle, SUCCESS; }
API cuCtxSynchronize() { return failed; }
API cuStreamCreate(void** stream, unsigned) { return *stream = &stream_handle, SUCCESS; }
API cuStreamDestroy_v2(void*) { return SUCCESS; }
API cuStreamSynchronize(void*) { return recording ? CAPTURE_UNSUPPORTED : failed; }

API cuMemGetInfo_v2(size_t* free, size_t* total) { return *total = total_memory(), *free = *total - used, SUCCESS; }
API cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  if (recording) return CAPTURE_UNSUPPORTED;
  if (used + bytes > total_memory()) return OUT_OF_MEMORY;
  void* memory;
  if (posix_memalign(&memory, 256, bytes)) return OUT_OF_MEMORY;
  memset(memory, 0xff, bytes);  // what nobody has written is not a number
  allocations[*address = reinterpret_cast<uint64_t>(memory)] = bytes;
  used += bytes;
  return SUCCESS;
}
API cuMemFree_v2(uint64_t address) {
  std::lock_guard<std::mutex> guard(lock);
  auto found = allocations.find(address);
  if (found == allocations.end()) return INVALID_VALUE;
  used -= found->second;
  allocations.erase(found);
  free(reinterpret_cast<void*>(address));
  return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
  if (recording || !inside(to, bytes)) return recording ? CAPTURE_UNSUPPORTED : INVALID_VALUE;
  memcpy(reinterpret_cast<void*>(to), from, bytes);
  return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
  if (recording || !inside(from, bytes)) return recording ? CAPTURE_UNSUPPORTED : INVALID_VALUE;
  memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return SUCCESS;
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
  if (recording || !inside(from, bytes) || !inside(to, bytes)) return recording ? CAPTURE_UNSUPPORTED : INVALID_VALUE;
  memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return SUCCESS;
}

// A cubin is an ELF file; the stand-in's own compiler gives only the beginning of one.
API cuModuleLoadData(void** module, const void* image) {
  return *module = &module_handle, memcmp(image, "\177ELF", 4) ? INVALID_VALUE : SUCCESS;
}
API cuModuleUnload(void*) { return SUCCESS; }
API cuModuleGetFunction(void** function, void*, const char* name) {
  if (!with_kernel(name, [](auto*) { return true; }, false)) return NOT_FOUND;
  return *function = new Kernel{name}, SUCCESS;
}
// 8: the most dynamic shared memory.
API cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8 || value > int(simulator::kSharedMemory)) return INVALID_VALUE;
  return static_cast<Kernel*>(function)->shared_bytes = value, SUCCESS;
}
API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                   void*, void** parameters, void**) {
  const Kernel& kernel = *static_cast<Kernel*>(function);
  if (int(shared_bytes) > kernel.shared_bytes) return INVALID_VALUE;
  auto arguments = std::make_shared<Arguments>();
  with_kernel(kernel.name.c_str(), [&](auto* f) { return arguments->take(f, parameters); }, 0);
  return enqueue([=, name = kernel.name] {
    unsigned grid[3] = {gx, gy, gz}, dim[3] = {bx, by, bz};
    char error[512];
    if (!launch_by_name(name.c_str(), grid, dim, shared_bytes, arguments->pointers.data(), 0, 0, 1, error, sizeof error)) return SUCCESS;
    fprintf(stderr, "kernel %s: %s\n", name.c_str(), error);
    return LAUNCH_FAILED;
  });
}

API cuStreamBeginCapture_v2(void*, int) { return recording = new std::vector<Work>, SUCCESS; }
API cuStreamEndCapture(void*, void** graph) {
  *graph = new Graph{std::move(*recording)};
  delete recording;
  return recording = nullptr, SUCCESS;
}
API cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  return *exec = new Graph(*static_cast<Graph*>(graph)), SUCCESS;
}
API cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
API cuGraphExecDestroy(void* exec) { return delete static_cast<Graph*>(exec), SUCCESS; }
API cuGraphLaunch(void* exec, void*) {
  for (const Work& work : static_cast<Graph*>(exec)->work) enqueue(work);
  return SUCCESS;
}

// NVRTC: what it was given must at least hold together.
struct Program {
  bool complete;
};
API nvrtcVersion(int* major, int* minor) { return *major = trouble("new-nvrtc") ? 14 : 13, *minor = 0, 0; }
API nvrtcCreateProgram(void** program, const char* source, const char*, int headers, const char** contents, const char** names) {
  bool complete = headers > 0;
  std::string all = source;
  for (int i = 0; i < headers; i++) all += contents[i];
  for (size_t at = 0; (at = all.find("#include \"", at)) != std::string::npos; at++) {
    std::string name = all.substr(at + 10, all.find('"', at + 10) - at - 10);
    bool given = name.starts_with("simulator/");  // not for a GPU
    for (int i = 0; i < headers; i++) given |= name == names[i];
    complete &= given;
  }
  return *program = new Program{complete}, 0;
}
API nvrtcCompileProgram(void* program, int n, const char* const* options) {
  bool for_this_gpu = false;
  for (int i = 0; i < n; i++) for_this_gpu |= !strcmp(options[i], "--gpu-architecture=sm_90a");
  return static_cast<Program*>(program)->complete && for_this_gpu && !trouble("does-not-compile") ? 0 : 6;
}
API nvrtcGetCUBINSize(void*, size_t* size) { return *size = 4, 0; }
API nvrtcGetCUBIN(void*, char* image) { return memcpy(image, "\177ELF", 4), 0; }
API nvrtcGetProgramLogSize(void*, size_t* size) { return *size = 22, 0; }
API nvrtcGetProgramLog(void*, char* log) { return memcpy(log, "kernels.cu(1): error\n", 22), 0; }
API nvrtcDestroyProgram(void** program) { return delete static_cast<Program*>(*program), 0; }

API cublasCreate_v2(void** handle) { return *handle = &blas_handle, 0; }
API cublasDestroy_v2(void*) { return 0; }
API cublasSetStream_v2(void*, void*) { return 0; }
API cublasSetWorkspace_v2(void*, void* workspace, size_t bytes) { return inside(reinterpret_cast<uint64_t>(workspace), bytes) ? 0 : 7; }
// Matrices are stored by columns: C = op(A) op(B), C is m × n. 1 means transposed.
API cublasGemmEx(void*, int a_op, int b_op, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda, const void* b,
                 int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int, int) {
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0 || b_op != 0 || c_type != 0 || a_type != b_type) return 7;
  if (lda < (a_op ? k : m) || ldb < k || ldc < m) return 7;
  enqueue([=] {
    for (int i = 0; i < m; i++) {
      for (int j = 0; j < n; j++) {
        float sum = 0;
        for (int l = 0; l < k; l++)
          sum += number(a, a_type, a_op ? size_t(i) * lda + l : size_t(l) * lda + i) * number(b, b_type, size_t(j) * ldb + l);
        static_cast<float*>(c)[size_t(j) * ldc + i] = sum;
      }
    }
    return int(SUCCESS);
  });
  return 0;
}

// NCCL: ranks are threads of this process. A sum is taken by the last of them to come; all leave with it.
struct Clique {
  std::mutex lock;
  std::condition_variable changed;
  int ranks = 0, joined = 0, here = 0, leaving = 0;
  unsigned meetings = 0;
  std::vector<float> sum;
};
struct Comm {
  Clique* clique;
};
struct UniqueId {
  char bytes[128];
};
API ncclGetUniqueId(UniqueId* id) {
  Clique* clique = new Clique;
  return memcpy(id->bytes, &clique, sizeof clique), 0;
}
API ncclCommInitRank(void** comm, int ranks, UniqueId id, int rank) {
  Clique* clique;
  memcpy(&clique, id.bytes, sizeof clique);
  std::unique_lock<std::mutex> guard(clique->lock);
  if (rank < 0 || rank >= ranks || (clique->ranks && clique->ranks != ranks)) return 4;
  clique->ranks = ranks;
  clique->joined++;
  clique->changed.notify_all();
  clique->changed.wait(guard, [&] { return clique->joined == ranks; });
  return *comm = new Comm{clique}, 0;
}
API ncclCommAbort(void* comm) { return delete static_cast<Comm*>(comm), 0; }
// 7: f32. 0: a sum.
API ncclAllReduce(const void* send, void* recv, size_t count, int type, int op, void* comm, void*) {
  if (type != 7 || op != 0 || !inside(reinterpret_cast<uint64_t>(recv), 4 * count)) return 4;
  Clique& clique = *static_cast<Comm*>(comm)->clique;
  std::unique_lock<std::mutex> guard(clique.lock);
  clique.changed.wait(guard, [&] { return clique.leaving == 0; });
  if (clique.here == 0) clique.sum.assign(count, 0);
  if (clique.sum.size() != count) return 5;
  for (size_t i = 0; i < count; i++) clique.sum[i] += static_cast<const float*>(send)[i];
  unsigned meeting = clique.meetings;
  if (++clique.here == clique.ranks) clique.here = 0, clique.leaving = clique.ranks, clique.meetings++, clique.changed.notify_all();
  clique.changed.wait(guard, [&] { return clique.meetings != meeting; });
  memcpy(recv, clique.sum.data(), 4 * count);
  if (--clique.leaving == 0) clique.changed.notify_all();
  return 0;
}
