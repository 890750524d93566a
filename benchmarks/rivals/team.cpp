#include "team.h"

namespace pomona::rivals {
namespace {

constexpr int kAwake = 20000;  // looks before a thread sleeps

// The value of `number` once it is another one than `old`.
int wait_for_change(const std::atomic<int>& number, int old) {
  for (int i = 0; i < kAwake; ++i) {
    const int now = number.load(std::memory_order_acquire);
    if (now != old) return now;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  number.wait(old, std::memory_order_acquire);
  return number.load(std::memory_order_acquire);
}

}  // namespace

Team::Team() : second_([this] { serve(); }) {}

Team::~Team() {
  asked_.store(-1, std::memory_order_release);
  asked_.notify_one();
  second_.join();
}

void Team::serve() {
  for (int seen = 0;;) {
    seen = wait_for_change(asked_, seen);
    if (seen < 0) return;
    (*task_)();
    done_.store(seen, std::memory_order_release);
    done_.notify_one();
  }
}

void Team::run(const std::function<void()>& here, const std::function<void()>& there) {
  task_ = &there;
  const int before = done_.load(std::memory_order_relaxed);
  asked_.store(before + 1, std::memory_order_release);
  asked_.notify_one();
  here();
  if (done_.load(std::memory_order_acquire) == before) wait_for_change(done_, before);
}

}  // namespace pomona::rivals
