#pragma once
// This thread and a second one, for rivals on two threads. As the pools of torch and ONNX Runtime
// do, the second waits awake for a while before it sleeps.

#include <atomic>
#include <functional>
#include <thread>

namespace pomona::rivals {

class Team {
 public:
  Team();
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // here() on this thread and there() on the second; returns when both have.
  void run(const std::function<void()>& here, const std::function<void()>& there);

 private:
  void serve();

  std::atomic<int> asked_{0}, done_{0};  // how many tasks; -1: leave
  const std::function<void()>* task_ = nullptr;
  std::thread second_;
};

}  // namespace pomona::rivals
