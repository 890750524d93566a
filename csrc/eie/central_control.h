#pragma once
// The central control unit: takes the nonzero activations of the input, one group of a lane for
// each PE after the other, and passes one a cycle on to all PEs. Source: EIE §IV ("Central Control
// Unit", computing mode).

#include "eie/activation_queue.h"
#include "eie/leading_nonzero.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace pomona::eie {

template <class Value>
class CentralControl {
 public:
  // What a cycle was spent on.
  enum class Did { kNothing, kBroadcast, kStall, kFetch };

  // `activations` by column; they must outlive this object.
  CentralControl(std::span<const Value> activations, int64_t lanes, bool signed_activations)
      : activations_(activations), lanes_(lanes), signed_(signed_activations), detection_(lanes) {}

  // One cycle. An activation, unless some queue was full as the cycle began, or the lanes have none
  // left: then the cycle goes to the next group. Behind a nonzero in the last lane the next group
  // is read in the same cycle.
  std::optional<Activation<Value>> tick(bool is_any_queue_full) {
    did_ = Did::kNothing;
    if (is_done()) return std::nullopt;
    const int64_t lane = is_loaded_ && lane_ < lanes_ ? detection_.next(lane_) : kNone;
    if (lane == kNone) {
      did_ = Did::kFetch;
      fetch();
      return std::nullopt;
    }
    if (is_any_queue_full) {
      did_ = Did::kStall;
      return std::nullopt;
    }
    did_ = Did::kBroadcast;
    const int64_t column = group_ * lanes_ + lane;
    lane_ = lane + 1;
    if (lane_ == lanes_) fetch();
    return Activation<Value>{activations_[static_cast<size_t>(column)], column};
  }

  bool is_done() const { return is_loaded_ && group_ * lanes_ >= std::ssize(activations_); }
  Did did() const { return did_; }
  int64_t nodes() const { return detection_.nodes(); }

 private:
  static constexpr int64_t kNone = LeadingNonZero::kNone;

  void fetch() {
    group_ += is_loaded_ ? 1 : 0;
    is_loaded_ = true;
    lane_ = 0;
    const auto begin = static_cast<size_t>(group_ * lanes_);
    detection_.load([&](size_t lane) {
      if (begin + lane >= activations_.size()) return false;
      const Value value = activations_[begin + lane];
      return signed_ ? value != 0 : value > 0;
    });
  }

  std::span<const Value> activations_;
  int64_t lanes_;
  bool signed_;
  LeadingNonZero detection_;
  int64_t group_ = 0, lane_ = 0;  // the group in the lanes, and the first lane not yet passed on
  bool is_loaded_ = false;
  Did did_ = Did::kNothing;
};

}  // namespace pomona::eie
