#pragma once
// A function on a stack of its own that can stop in the middle and go on later. The threads of an
// emulated block are fibers of one operating-system thread.
//
// The switch is our own few instructions (x86-64, aarch64) and not ucontext: swapcontext makes a
// system call a switch, and its stacks are unknown to AddressSanitizer, which then reports frames
// of one stack as overruns of another. Here every switch is announced to the sanitizer, so its
// reports, its stack bounds and its clean-up when an exception unwinds are right on every fiber.

#include <cstddef>
#include <exception>
#include <functional>

namespace pomona::emulator {

// Memory for one stack; the page below it is inaccessible, so that an overflow faults at once.
class Stack {
 public:
  Stack();
  ~Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  void* bottom() const { return bottom_; }
  size_t size() const { return size_; }

 private:
  size_t guard_size_;
  size_t size_;
  std::byte* bottom_;
};

class Fiber {
 public:
  Fiber() = default;
  // Cancels a body that is suspended.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Gives the fiber a body; resume() runs it. A fiber may be started again when its body has ended.
  // REQUIRES: is_idle().
  void start(std::function<void()> body);
  // Runs the body until it suspends or ends. Throws what the body throws. REQUIRES: !is_idle().
  void resume();
  // Called by a body: goes back to the caller of resume(), and returns at the next resume().
  static void suspend();
  // Unwinds a suspended body, so that its destructors run. The fiber is idle after it.
  void cancel();
  // No body, or its body has ended.
  bool is_idle() const { return is_idle_; }

 private:
  // What a switch leaves behind to come back to.
  struct Context {
    void* stack_pointer = nullptr;
    const void* stack_bottom = nullptr;  // for AddressSanitizer, as the two below
    size_t stack_size = 0;
    void* fake_stack = nullptr;
  };
  struct Cancelled {};

  static void enter();
  [[noreturn]] void run();
  void switch_to_body();
  void switch_to_caller(bool for_good = false);

  Stack stack_;
  Context caller_;
  Context own_;
  std::function<void()> body_;
  std::exception_ptr error_;
  bool is_idle_ = true;
  bool is_cancelled_ = false;
  bool is_closing_ = false;
};

}  // namespace pomona::emulator
