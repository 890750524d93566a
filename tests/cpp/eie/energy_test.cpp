// Energy and area against EIE's Table II and Table V.
#include "pomona/eie.h"

#include <gtest/gtest.h>

namespace pomona::eie {
namespace {

constexpr int64_t kCycles = 8000;

// One PE at the activity of Table II: an entry a cycle, the memories read each eight.
Statistics paper_activity() {
  return {.cycles = kCycles,
          .pes = {{.entries = kCycles,
                   .queue_pushes = kCycles / 8,
                   .pointer_reads = kCycles / 8,
                   .matrix_reads = kCycles / 8,
                   .register_reads = kCycles,
                   .register_writes = kCycles}}};
}

double milliwatts(double pj, double clock_hz) {
  return pj * 1e-12 / (kCycles / clock_hz) * 1e3;
}

TEST(EieEnergy, OfOnePeIsThatOfTableTwo) {
  const Config one{.pes = 1};
  const auto spent = energy(paper_activity(), one);
  EXPECT_NEAR(milliwatts(spent.matrix_read_pj, 800e6), 4.955, 1e-3);
  EXPECT_NEAR(milliwatts(spent.pointer_read_pj, 800e6), 1.807, 1e-3);
  EXPECT_NEAR(milliwatts(spent.arithmetic_pj, 800e6), 1.162, 1e-3);
  EXPECT_NEAR(milliwatts(spent.activation_pj, 800e6), 1.122, 1e-3);
  EXPECT_NEAR(milliwatts(spent.queue_pj, 800e6), 0.112, 1e-3);
  EXPECT_NEAR(milliwatts(spent.total_pj(), 800e6), 9.157, 0.002);  // the modules add up to 9.158
}

TEST(EieEnergy, AnIdlePeBurnsTheClock) {
  const Statistics idle{.cycles = kCycles, .pes = {{.starved_cycles = kCycles}}};
  EXPECT_NEAR(milliwatts(energy(idle, {.pes = 1}).total_pj(), 800e6), 1.874, 0.002);
}

TEST(EieEnergy, WiderLinesAndWiderNumbersCostMore) {
  const auto of = [](const Config& config) { return energy(paper_activity(), config); };
  EXPECT_LT(of({.pes = 1, .sram_width_bits = 32}).matrix_read_pj, of({.pes = 1}).matrix_read_pj);
  EXPECT_GT(of({.pes = 1, .sram_width_bits = 128}).matrix_read_pj, of({.pes = 1}).matrix_read_pj);
  EXPECT_GT(of({.pes = 1, .arithmetic = Arithmetic::kFloat32}).arithmetic_pj,
            of({.pes = 1, .arithmetic = Arithmetic::kFixed32}).arithmetic_pj);
}

TEST(EieEnergy, AreaIsThatOfTableTwo) {
  EXPECT_NEAR(area({.pes = 1}).total_um2(), 638024, 1);  // one lane has no node
  EXPECT_NEAR(area({.pes = 64}).total_um2() / 1e6, 40.8, 0.1);
}

TEST(EieEnergy, AtTwentyEightNanometresIsThatOfTableFive) {
  const Config small = at_28nm({.pes = 256});
  EXPECT_DOUBLE_EQ(small.clock_hz, 1.2e9);
  EXPECT_NEAR(area(small).total_um2() / 1e6, 63.8, 0.2);
  auto statistics = paper_activity();
  statistics.pes.resize(256, statistics.pes[0]);
  EXPECT_NEAR(milliwatts(energy(statistics, small).total_pj(), 1.2e9) / 1e3, 2.36, 0.05);
}

}  // namespace
}  // namespace pomona::eie
