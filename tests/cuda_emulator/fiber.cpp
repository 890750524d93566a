#include "cuda_emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POMONA_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define POMONA_ADDRESS_SANITIZER 1
#endif
#if defined(POMONA_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the registers that a callee must keep and the stack pointer, and goes on where `to` was
// saved. Floating-point control words are not switched: kernels do not change them.
extern "C" void pomona_switch_stack(void** save, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.balign 16
.hidden pomona_switch_stack
.globl pomona_switch_stack
.type pomona_switch_stack, @function
pomona_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size pomona_switch_stack, . - pomona_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.balign 16
.hidden pomona_switch_stack
.globl pomona_switch_stack
.type pomona_switch_stack, @function
pomona_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size pomona_switch_stack, . - pomona_switch_stack
)");
#else
#error "the CUDA emulator's fibers are written for x86-64 and aarch64"
#endif

namespace pomona::emulator {
namespace {

// Frames under AddressSanitizer are large, and its report is written on the stack that erred.
// Pages are only taken when touched.
constexpr size_t kStackSize = size_t{256} << 10;

thread_local Fiber* current_fiber = nullptr;

// What pomona_switch_stack pops at the first switch to a new stack: zeros in the saved registers
// (a zero frame pointer ends backtraces), then `entry` as the return address.
void* first_stack_pointer(const Stack& stack, void (*entry)()) {
  auto* top = reinterpret_cast<uintptr_t*>(static_cast<std::byte*>(stack.bottom()) + stack.size());
#if defined(__x86_64__)
  constexpr size_t kSavedRegisters = 6;
  *--top = 0;  // where a caller of `entry` would have its return address
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (size_t i = 0; i < kSavedRegisters; ++i) *--top = 0;
#else
  constexpr size_t kSavedWords = 20, kLinkRegister = 11;
  top -= kSavedWords;
  for (size_t i = 0; i < kSavedWords; ++i) top[i] = 0;
  top[kLinkRegister] = reinterpret_cast<uintptr_t>(entry);
#endif
  return top;
}

// Around every switch. `left` keeps the sanitizer's own stack of the side that is left; null when
// it never comes back. `from_*` receive the bounds of the stack that was left.
void announce_switch([[maybe_unused]] void** left, [[maybe_unused]] const void* bottom,
                     [[maybe_unused]] size_t size) {
#if defined(POMONA_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(left, bottom, size);
#endif
}
void announce_arrival([[maybe_unused]] void* left, [[maybe_unused]] const void** from_bottom,
                      [[maybe_unused]] size_t* from_size) {
#if defined(POMONA_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(left, from_bottom, from_size);
#endif
}

}  // namespace

Stack::Stack() : guard_size_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), size_(kStackSize) {
  void* memory = mmap(nullptr, guard_size_ + size_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "fiber: mmap");
  bottom_ = static_cast<std::byte*>(memory) + guard_size_;
  if (mprotect(memory, guard_size_, PROT_NONE) != 0) {
    const int error = errno;
    munmap(memory, guard_size_ + size_);
    throw std::system_error(error, std::generic_category(), "fiber: mprotect");
  }
}

Stack::~Stack() {
#if defined(POMONA_ADDRESS_SANITIZER)
  // The last frame never returned; whoever gets these addresses next must not find its redzones.
  __asan_unpoison_memory_region(bottom_, size_);
#endif
  munmap(bottom_ - guard_size_, guard_size_ + size_);
}

Fiber::~Fiber() {
  cancel();
  if (own_.stack_pointer == nullptr) return;  // it never ran
  is_closing_ = true;
  switch_to_body();  // run() ends, and the sanitizer frees what it keeps for the fiber
}

void Fiber::start(std::function<void()> body) {
  body_ = std::move(body);
  is_idle_ = false;
}

void Fiber::resume() {
  switch_to_body();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Fiber::suspend() {
  Fiber& fiber = *current_fiber;
  fiber.switch_to_caller();
  if (fiber.is_cancelled_) throw Cancelled{};
}

void Fiber::cancel() {
  if (is_idle_) return;
  is_cancelled_ = true;
  switch_to_body();
  is_cancelled_ = false;
}

void Fiber::switch_to_body() {
  if (own_.stack_pointer == nullptr) own_.stack_pointer = first_stack_pointer(stack_, &enter);
  Fiber* outer = std::exchange(current_fiber, this);
  announce_switch(&caller_.fake_stack, stack_.bottom(), stack_.size());
  pomona_switch_stack(&caller_.stack_pointer, own_.stack_pointer);
  announce_arrival(caller_.fake_stack, nullptr, nullptr);
  current_fiber = outer;
}

void Fiber::switch_to_caller(bool for_good) {
  announce_switch(for_good ? nullptr : &own_.fake_stack, caller_.stack_bottom, caller_.stack_size);
  pomona_switch_stack(&own_.stack_pointer, caller_.stack_pointer);
  announce_arrival(own_.fake_stack, &caller_.stack_bottom, &caller_.stack_size);
}

void Fiber::enter() {
  current_fiber->run();
}

void Fiber::run() {
  announce_arrival(nullptr, &caller_.stack_bottom, &caller_.stack_size);
  while (!is_closing_) {
    try {
      if (!is_cancelled_) body_();  // a fiber can be cancelled before its first step
    } catch (const Cancelled&) {
    } catch (...) {
      error_ = std::current_exception();
    }
    is_idle_ = true;
    switch_to_caller();
  }
  for (;;) switch_to_caller(/*for_good=*/true);
}

}  // namespace pomona::emulator
