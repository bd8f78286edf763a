// A fiber: a stack and a place in a program. Each CUDA thread of a block is one, and a switch between two costs some 40 ns where
// one between threads of the operating system costs microseconds.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if !defined(SIMULATOR_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define SIMULATOR_UCONTEXT  // the portable switch, seven times slower
#endif
#if defined(SIMULATOR_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
// counted.cpp is instrumented for ThreadSanitizer, and has its library not behind it.
#if defined(__SANITIZE_THREAD__) && !defined(SIMULATOR_COUNTED)
#define SIMULATOR_SANITIZE_THREAD
extern "C" {
void* __tsan_create_fiber(unsigned);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define SIMULATOR_TSAN(...) __VA_ARGS__
#else
#define SIMULATOR_TSAN(...)
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIMULATOR_ASAN(...) __VA_ARGS__
#else
#define SIMULATOR_ASAN(...)
#endif
// The simulator's own functions: a sanitizer looks at kernels, not at them.
#define SIMULATOR_OWN __attribute__((no_sanitize("thread"), noinline))

namespace simulator {

// While one lives, ThreadSanitizer ignores what this thread reads and writes: it is the simulator's own state.
struct Unwatched {
  SIMULATOR_TSAN(Unwatched() { AnnotateIgnoreReadsBegin("", 0); AnnotateIgnoreWritesBegin("", 0); })
  SIMULATOR_TSAN(~Unwatched() { AnnotateIgnoreWritesEnd("", 0); AnnotateIgnoreReadsEnd("", 0); })
};
#if defined(SIMULATOR_SANITIZE_THREAD)
#define SIMULATOR_UNWATCHED simulator::Unwatched unwatched_;
#else
#define SIMULATOR_UNWATCHED
#endif

#if !defined(SIMULATOR_UCONTEXT)
// Saves the registers that a function must keep on this stack, and goes on with those of another one.
extern "C" void simulator_switch(void** save_stack, void* load_stack);
#if defined(SIMULATOR_MAIN)
#if defined(__APPLE__)
#define SIMULATOR_FUNCTION(name) ".text\n.globl _" name "\n_" name ":\n"
#else
#define SIMULATOR_FUNCTION(name) ".text\n.globl " name "\n.type " name ",%function\n" name ":\n"
#endif
#if defined(__x86_64__)
asm(SIMULATOR_FUNCTION("simulator_switch")
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
#else
asm(SIMULATOR_FUNCTION("simulator_switch")
    "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
    "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
    "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
    "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n");
#endif
#endif
#endif

struct Context {
  static constexpr size_t kStack = 256 << 10;

#if defined(SIMULATOR_UCONTEXT)
  ucontext_t ucontext;
#endif
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  size_t size = 0;
  SIMULATOR_TSAN(void* tsan = nullptr;)
  SIMULATOR_ASAN(void* fake_stack = nullptr;)

  Context() = default;
  Context(const Context&) = delete;

  // A stack of its own; its lowest page can't be touched, so that an overflow ends the program and nothing else.
  void make_stack() {
    size = kStack;
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    stack = static_cast<char*>(memory);
    mprotect(stack, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE);
    SIMULATOR_TSAN(tsan = __tsan_create_fiber(0);)
  }

  // The next switch to this context calls `entry`, which never returns.
  void start_at(void (*entry)()) {
    SIMULATOR_ASAN(ASAN_UNPOISON_MEMORY_REGION(stack + sysconf(_SC_PAGESIZE), kStack - sysconf(_SC_PAGESIZE));)
#if defined(SIMULATOR_UCONTEXT)
    getcontext(&ucontext);
    ucontext.uc_stack.ss_sp = stack;
    ucontext.uc_stack.ss_size = kStack;
    ucontext.uc_link = nullptr;
    makecontext(&ucontext, entry, 0);
#else
    void** top = reinterpret_cast<void**>(stack + kStack);
#if defined(__x86_64__)
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
#else
    for (int saved = 0; saved < 20; saved++) *--top = nullptr;
    top[11] = reinterpret_cast<void*>(entry);  // x30, where `ret` goes
#endif
    stack_pointer = top;
#endif
  }

  void free_stack() {
    if (stack) munmap(stack, kStack);
  }
};

// Leaves `from`, for good if it has ended, and goes on with `to`.
SIMULATOR_OWN inline void switch_context(Context& from, Context& to, [[maybe_unused]] bool ended) {
  SIMULATOR_TSAN(__tsan_switch_to_fiber(to.tsan, 1);)
  SIMULATOR_ASAN(__sanitizer_start_switch_fiber(ended ? nullptr : &from.fake_stack, to.stack, to.size);)
#if defined(SIMULATOR_UCONTEXT)
  swapcontext(&from.ucontext, &to.ucontext);
#else
  simulator_switch(&from.stack_pointer, to.stack_pointer);
#endif
  SIMULATOR_ASAN(__sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);)
}

}  // namespace simulator
