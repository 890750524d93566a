#pragma once
// Tests that run under every schedule: TEST_P(InEveryOrder, ...) with schedule().

#include "cuda_emulator/emulator.h"

#include <gtest/gtest.h>

#include <array>
#include <ostream>
#include <string>

namespace pomona::emulator {

inline constexpr std::array kSchedules = {Schedule{Order::kForward}, Schedule{Order::kReverse},
                                          Schedule{Order::kRandom, 1}, Schedule{Order::kRandom, 2}};

inline std::string schedule_name(const Schedule& schedule) {
  if (schedule.order == Order::kForward) return "Forward";
  if (schedule.order == Order::kReverse) return "Reverse";
  return "Random" + std::to_string(schedule.seed);
}

inline void PrintTo(const Schedule& schedule, std::ostream* out) {
  *out << schedule_name(schedule);
}

class InEveryOrder : public testing::TestWithParam<Schedule> {
 protected:
  const Schedule& schedule() const { return GetParam(); }
  // What the launch_ functions of the kernel files take: launch(kernel, grid, block, arguments...).
  auto launcher() {
    return [this](auto kernel, dim3 grid, dim3 block, const auto&... arguments) {
      ++launches_;
      launch(schedule(), grid, block, kernel, arguments...);
    };
  }
  int launches() const { return launches_; }

 private:
  int launches_ = 0;
};

// INSTANTIATE_TEST_SUITE_P(Suite, ...) needs these two.
inline auto every_order() {
  return testing::ValuesIn(kSchedules);
}
inline std::string order_name(const testing::TestParamInfo<Schedule>& info) {
  return schedule_name(info.param);
}

}  // namespace pomona::emulator
