// Rule 1: at most one broadcast a cycle, a cycle for each new group; rule 2: no broadcast while a
// queue is full.
#include "eie/central_control.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pomona::eie {
namespace {

// What each cycle was spent on: g (group), s (stall), or the column that was passed on.
std::string cycles_of(const std::vector<int32_t>& activations, int64_t lanes,
                      const std::vector<int>& full = {}, bool are_signed = false) {
  CentralControl<int32_t> control(std::span<const int32_t>(activations), lanes, are_signed);
  std::string cycles;
  for (int clock = 0; !control.is_done() && clock < 100; ++clock) {
    const bool is_full = std::ranges::find(full, clock) != full.end();
    const auto activation = control.tick(is_full);
    if (activation) {
      EXPECT_EQ(activation->value, activations[static_cast<size_t>(activation->column)]);
      cycles += static_cast<char>('0' + activation->column);
    } else {
      cycles += control.did() == CentralControl<int32_t>::Did::kStall ? 's' : 'g';
    }
  }
  EXPECT_FALSE(control.tick(false).has_value());
  return cycles;
}

TEST(EieCentralControl, PassesOneNonzeroOnEachCycle) {
  EXPECT_EQ(cycles_of({0, 5, 0, 7}, 4), "g13");
  EXPECT_EQ(cycles_of({1, 2, 3, 4}, 4), "g0123");
}

TEST(EieCentralControl, LosesACycleBehindAGroupWhoseLastLaneIsZero) {
  EXPECT_EQ(cycles_of({1, 0, 0, 0, 1, 0, 0, 1}, 4), "g0g47");
  EXPECT_EQ(cycles_of({0, 0, 0, 1, 1, 0, 0, 1}, 4), "g347");  // behind lane 3 it is overlapped
  EXPECT_EQ(cycles_of({1, 0, 0, 0, 0, 0, 0, 0, 1}, 4), "g0gg8g");
  EXPECT_EQ(cycles_of({0, 0, 0, 0}, 4), "gg");
}

TEST(EieCentralControl, WaitsWhileAQueueIsFull) {
  EXPECT_EQ(cycles_of({1, 1, 0, 0}, 4, {1, 2}), "gss01g");
  EXPECT_EQ(cycles_of({1, 0, 0, 0, 1}, 4, {2}), "g0g4g");  // a group is read meanwhile
}

TEST(EieCentralControl, PassesOnWhatIsAboveZero) {
  EXPECT_EQ(cycles_of({-1, 2, -3, 4}, 4), "g13");
  EXPECT_EQ(cycles_of({-1, 2, 0, 4}, 4, {}, true), "g013");
}

TEST(EieCentralControl, HasNothingToDoWithoutInputs) {
  EXPECT_EQ(cycles_of({}, 4), "g");
}

}  // namespace
}  // namespace pomona::eie
