#pragma once
// One block of threads: which may run, which wait, and for whom.
//
// A thread runs until it waits (at a barrier or for the lanes of its warp) or ends; then the
// schedule says which of those that can run is next. So a program that is right only when threads
// happen to run in step, or in a certain order, gives another result under another schedule.

#include "cuda_emulator/fiber.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <random>
#include <set>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
  unsigned x, y, z;
};

namespace pomona::emulator {

inline constexpr unsigned kWarpSize = 32;

// What a kernel or its launch did wrong: on a GPU it would hang, fail or read what is undefined.
class KernelError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// Which thread goes on when several can: the lowest index, the highest, or a random one.
enum class Order { kForward, kReverse, kRandom };
struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 0;  // of kRandom
};

// A synchronizing call in a kernel's source.
struct CallSite {
  const char* function;
  std::source_location where;
  std::string to_string() const;
  bool operator==(const CallSite& other) const;
};

// What one lane brings to a warp-wide call, and what it takes away.
struct WarpCall {
  CallSite site;
  uint32_t mask;
  uint64_t value = 0;
  unsigned source_lane = 0;  // whose value it wants
};
struct WarpAnswer {
  uint64_t value;     // of source_lane
  uint32_t non_zero;  // the lanes that brought a value other than 0
};

class Block {
 public:
  Block(dim3 shape, uint3 index, const Schedule& schedule);

  // Runs `thread` once for each thread, with threadIdx set. Throws KernelError when the living
  // threads wait for one another for ever, and what a thread throws; then all threads are unwound.
  void run(const std::function<void()>& thread);

  // What the running thread calls. Both throw KernelError for calls that CUDA leaves undefined.
  void wait_for_block(const CallSite& site);
  WarpAnswer wait_for_warp(const WarpCall& call);
  unsigned lane() const { return running_ % kWarpSize; }

 private:
  enum class State { kReady, kAtBarrier, kAtWarpCall, kEnded };
  struct Thread {
    State state = State::kReady;
    WarpCall call;  // where it waits
    WarpAnswer answer;
    bool is_source_absent = false;
  };

  void run_threads(std::deque<Fiber>& fibers);
  unsigned next_ready();
  uint3 thread_index(unsigned thread) const;
  void set_ready(unsigned thread);
  void end(unsigned thread);
  void open_barrier_if_all_wait();
  void answer_if_all_called(unsigned warp, const WarpCall& call);
  // The lanes of `mask` that exist and have not ended.
  uint32_t living_lanes(unsigned warp, uint32_t mask) const;
  [[noreturn]] void report_deadlock() const;

  dim3 shape_;
  uint3 index_;
  Order order_;
  std::mt19937_64 rng_;
  std::vector<Thread> threads_;
  std::set<unsigned> ready_;
  unsigned running_ = 0;
  unsigned living_ = 0;
  unsigned at_barrier_ = 0;
};

}  // namespace pomona::emulator
