#pragma once
// One processing element. A cycle, from the end of the pipeline to its beginning, so that each
// stage takes what the stage before it left at the last clock edge:
//
//   queue -> pointer read -> matrix read -> 1 codebook, address -> 2 multiply, read accumulator
//                                        -> 3 shift, add -> 4 write accumulator
//
// Source: EIE §IV (Figure 4).

#include "pomona/eie.h"

#include "eie/activation_queue.h"
#include "eie/activation_registers.h"
#include "eie/matrix_read.h"
#include "eie/pointer_read.h"

#include <cstdint>

namespace pomona::eie {

template <class Arithmetic>
class ProcessingElement {
 public:
  using Value = typename Arithmetic::Value;
  using Product = typename Arithmetic::Product;
  // What the matrix read did in a cycle.
  enum class Did : uint8_t { kStarve, kEntry, kFiller, kBubble };

  ProcessingElement(const Arithmetic& arithmetic, int64_t queue_slots, PointerRead pointers,
                    MatrixRead matrix, ActivationRegisters<Value> registers)
      : arithmetic_(arithmetic),
        queue_(queue_slots),
        pointers_(pointers),
        matrix_(matrix),
        registers_(registers) {}

  ActivationQueue<Value>& queue() { return queue_; }

  // One cycle; whether anything is still under way in it or behind it.
  bool tick() {
    const bool was_idle = is_idle();
    write();
    add();
    multiply();
    look_up();
    issue();
    read_pointers();
    return !was_idle;
  }

  // Nothing in the queue and nothing in the pipeline.
  bool is_idle() const { return in_flight_ == 0 && remaining_ == 0 && queue_.is_empty(); }
  Did did() const { return did_; }
  PeStatistics statistics() const {
    PeStatistics all = counts_;
    all.pointer_reads = pointers_.reads();
    all.matrix_reads = matrix_.reads();
    all.register_reads = registers_.reads();
    all.register_writes = registers_.writes();
    return all;
  }
  void push(const Activation<Value>& activation) {
    queue_.push(activation);
    ++counts_.queue_pushes;
  }

 private:
  enum class Kind : uint8_t { kNone, kBubble, kFiller, kWeight };

  void write() {
    if (sum_.kind == Kind::kWeight) registers_.write(sum_.address, sum_.value);
    if (sum_.kind != Kind::kNone) --in_flight_;
  }

  void add() {
    const Value written = sum_.value;  // by stage 4, in this very cycle
    sum_ = {product_.kind, product_.address, {}};
    if (product_.kind != Kind::kWeight) return;
    bool is_saturated = false;
    sum_.value = arithmetic_.add(product_.is_bypassed ? written : product_.accumulator,
                                 product_.product, is_saturated);
    counts_.saturations += is_saturated;
  }

  void multiply() {
    product_ = {.kind = operand_.kind, .address = operand_.address};
    if (operand_.kind != Kind::kWeight) return;
    product_.product = arithmetic_.multiply(operand_.weight, operand_.activation);
    // What stage 3 adds in this cycle is not in the register yet.
    product_.is_bypassed = sum_.kind == Kind::kWeight && sum_.address == operand_.address;
    if (product_.is_bypassed) {
      ++counts_.bypasses;
    } else {
      product_.accumulator = registers_.read(operand_.address);
    }
  }

  void look_up() {
    operand_ = {.kind = entry_.kind};
    if (entry_.kind == Kind::kNone || entry_.kind == Kind::kBubble) return;
    operand_.address = next_address_ + entry_.gap;
    operand_.weight = arithmetic_.weight(entry_.code);
    operand_.activation = entry_.activation;
    next_address_ = entry_.is_last ? 0 : operand_.address + 1;
  }

  void issue() {
    entry_ = {};
    did_ = Did::kStarve;
    if (remaining_ == 0) {
      ++counts_.starved_cycles;
      return;
    }
    ++in_flight_;
    --remaining_;
    if (is_bubble_) {
      did_ = Did::kBubble;
      entry_.kind = Kind::kBubble;
      ++counts_.bubble_cycles;
      return;
    }
    const auto [code, gap] = matrix_.read(next_entry_++);
    const bool is_filler = code == 0;
    did_ = is_filler ? Did::kFiller : Did::kEntry;
    ++counts_.entries;
    counts_.fillers += is_filler;
    entry_ = {.kind = is_filler ? Kind::kFiller : Kind::kWeight,
              .is_last = remaining_ == 0,
              .code = code,
              .gap = gap,
              .activation = column_activation_};
  }

  void read_pointers() {
    if (remaining_ > 0 || queue_.is_empty()) return;
    const auto [activation, column] = queue_.pop();
    const auto [begin, end] = pointers_.read(column);
    column_activation_ = activation;
    next_entry_ = begin;
    is_bubble_ = begin == end;
    remaining_ = is_bubble_ ? 1 : end - begin;
  }

  const Arithmetic& arithmetic_;
  ActivationQueue<Value> queue_;
  PointerRead pointers_;
  MatrixRead matrix_;
  ActivationRegisters<Value> registers_;

  // The column that is being read: cycles that it still takes, and its next entry.
  int64_t remaining_ = 0;
  int64_t next_entry_ = 0;
  Value column_activation_{};
  bool is_bubble_ = false;
  int64_t next_address_ = 0;  // the row behind the last entry of the column

  // Between the stages.
  struct {
    Kind kind = Kind::kNone;
    bool is_last = false;
    uint8_t code = 0, gap = 0;
    Value activation{};
  } entry_;
  struct {
    Kind kind = Kind::kNone;
    int64_t address = 0;
    Value weight{}, activation{};
  } operand_;
  struct {
    Kind kind = Kind::kNone;
    bool is_bypassed = false;
    int64_t address = 0;
    Value accumulator{};
    Product product{};
  } product_;
  struct {
    Kind kind = Kind::kNone;
    int64_t address = 0;
    Value value{};
  } sum_;
  int64_t in_flight_ = 0;  // what is between the stages

  Did did_ = Did::kStarve;
  PeStatistics counts_;
};

}  // namespace pomona::eie
