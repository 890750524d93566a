#pragma once
// Activation read/write: the destination registers of one PE, its accumulators. (The source
// registers are read by the central control, a group at a time.) Source: EIE §IV.

#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona::eie {

template <class Value>
class ActivationRegisters {
 public:
  // `values` of the outputs of this PE, by local row; they must outlive this object.
  explicit ActivationRegisters(std::span<Value> values) : values_(values) {}

  Value read(int64_t address) {
    ++reads_;
    return values_[static_cast<size_t>(address)];
  }
  void write(int64_t address, Value value) {
    ++writes_;
    values_[static_cast<size_t>(address)] = value;
  }
  int64_t reads() const { return reads_; }
  int64_t writes() const { return writes_; }

 private:
  std::span<Value> values_;
  int64_t reads_ = 0, writes_ = 0;
};

}  // namespace pomona::eie
