#pragma once
// The array of PEs around one central control, at work on one tile. One cycle: all PEs take what
// the last clock edge left, then the control passes an activation on to all queues, unless one of
// them was full as the cycle began. Source: EIE §IV.

#include "pomona/eie.h"

#include "eie/central_control.h"
#include "eie/processing_element.h"
#include "eie/trace.h"

#include <algorithm>
#include <vector>

namespace pomona::eie {

template <class Arithmetic>
class Array {
 public:
  using Value = typename Arithmetic::Value;
  using Pe = ProcessingElement<Arithmetic>;
  using Control = CentralControl<Value>;

  Array(std::vector<Pe> pes, Control control) : pes_(std::move(pes)), control_(std::move(control)) {
    statistics_.tiles = 1;
    statistics_.pes.resize(pes_.size());
  }

  // One clock edge; false when the input has come to its end and nothing was to be done in it.
  bool tick(int64_t clock, Trace& trace) {
    const bool is_any_queue_full =
        std::ranges::any_of(pes_, [](Pe& pe) { return pe.queue().is_full(); });
    bool is_busy = false;
    for (Pe& pe : pes_) is_busy |= pe.tick();
    if (const auto activation = control_.tick(is_any_queue_full)) {
      for (Pe& pe : pes_) pe.push(*activation);
      is_busy = true;
    }
    count();
    if (trace.is_open(clock)) write(trace);
    return is_busy || !control_.is_done();
  }

  // Of the cycles so far.
  Statistics statistics() const {
    Statistics all = statistics_;
    for (size_t pe = 0; pe < pes_.size(); ++pe) all.pes[pe] = pes_[pe].statistics();
    return all;
  }

 private:
  void count() {
    ++statistics_.cycles;
    statistics_.lnzd_cycles += control_.nodes();
    statistics_.broadcasts += control_.did() == Control::Did::kBroadcast;
    statistics_.stall_cycles += control_.did() == Control::Did::kStall;
    statistics_.fetch_cycles += control_.did() == Control::Did::kFetch;
  }

  void write(Trace& trace) const {
    constexpr const char* kControl = ".Bsg";  // nothing, broadcast, stall, group
    constexpr const char* kPe = ".#fo";       // starved, entry, filler, bubble
    trace.write(0, kControl[static_cast<int>(control_.did())]);
    for (size_t pe = 0; pe < pes_.size(); ++pe) {
      trace.write(pe + 1, kPe[static_cast<int>(pes_[pe].did())]);
    }
  }

  std::vector<Pe> pes_;
  Control control_;
  Statistics statistics_;
};

}  // namespace pomona::eie
