#pragma once
// The queue of activations in front of one PE: a ring of slots, one of which stays empty, so that
// full and empty differ. Source: EIE §IV.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pomona::eie {

// A nonzero activation on its way: a value and the column that it belongs to.
template <class Value>
struct Activation {
  Value value{};
  int64_t column = 0;
};

template <class Value>
class ActivationQueue {
 public:
  explicit ActivationQueue(int64_t slots) : slots_(static_cast<size_t>(slots)) {}

  bool is_empty() const { return head_ == tail_; }
  bool is_full() const { return next(tail_) == head_; }
  // REQUIRES: not is_full().
  void push(const Activation<Value>& activation) {
    slots_[tail_] = activation;
    tail_ = next(tail_);
  }
  // REQUIRES: not is_empty().
  Activation<Value> pop() {
    const auto activation = slots_[head_];
    head_ = next(head_);
    return activation;
  }

 private:
  size_t next(size_t slot) const { return slot + 1 == slots_.size() ? 0 : slot + 1; }

  std::vector<Activation<Value>> slots_;
  size_t head_ = 0, tail_ = 0;
};

}  // namespace pomona::eie
