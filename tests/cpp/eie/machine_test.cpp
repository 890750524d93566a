// The machine as a whole: cycles counted by hand, then a model of the queues alone, and the
// outputs.
#include "pomona/eie.h"
#include "pomona/error.h"

#include "eie/arithmetic.h"
#include "error_of.h"
#include "matrices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <string>
#include <vector>

namespace pomona::eie {
namespace {

using testing::error_of;
using testing::matrix;
using testing::random_activations;
using testing::random_values;

constexpr Format kFormat{.weight = 4, .input = 4, .output = 8};  // exact for the values here
// The first group is read (1 cycle); behind the last entry come four stages of the arithmetic unit
// and the cycle that finds nothing to do: 6 more than the queues take.
constexpr int64_t kFillAndDrain = 6;

Run run(const Weight& weight, const std::vector<float>& activations, const Config& config,
        const RunOptions& options = {}) {
  return Machine(config).run(Layer(weight, {}, config), activations, kFormat, options);
}

TEST(EieMachine, OneWeightTakesThePipelineFromEndToEnd) {
  // group, broadcast, pointers, matrix, codebook, multiply, add, write, and nothing: 9 cycles
  const auto all = run(matrix(1, 1, {0.5f}), {2.0f}, {.pes = 1}, {.trace_last = 20});
  EXPECT_EQ(all.statistics.cycles, 9);
  EXPECT_EQ(all.trace, "cycles 0 to 8\nCCU  |gB.......|\nPE 0 |...#.....|\n");
  EXPECT_EQ(all.outputs, std::vector<float>{1.0f});
  EXPECT_EQ(all.integers, std::vector<int32_t>{256});
  const auto& pe = all.statistics.pes[0];
  EXPECT_EQ(pe.entries, 1);
  EXPECT_EQ(pe.starved_cycles, 8);
  EXPECT_EQ(pe.pointer_reads, 1);
  EXPECT_EQ(pe.matrix_reads, 1);
  EXPECT_EQ(pe.register_reads, 1);
  EXPECT_EQ(pe.register_writes, 1);
  EXPECT_EQ(pe.queue_pushes, 1);
}

TEST(EieMachine, EntriesOfAColumnFollowOneAnother) {
  // 3 rows and 2 columns in one PE: 6 entries without a gap between the columns
  const auto all =
      run(matrix(3, 2, {1, 1, 1, 1, 1, 1}), {1.0f, 1.0f}, {.pes = 1}, {.trace_last = 99});
  EXPECT_EQ(all.trace, "cycles 0 to 13\nCCU  |gBB...........|\nPE 0 |...######.....|\n");
}

TEST(EieMachine, AColumnWithoutEntriesTakesABubble) {
  // PE 1 has no entry in column 0; PE 0 none in column 1
  const auto all = run(matrix(2, 2, {1, 0, 0, 1}), {1.0f, 1.0f}, {.pes = 2}, {.trace_last = 99});
  EXPECT_EQ(all.trace, "cycles 0 to 9\nCCU  |gBB.......|\nPE 0 |...#o.....|\nPE 1 |...o#.....|\n");
  EXPECT_EQ(all.statistics.pes[0].bubble_cycles, 1);
}

TEST(EieMachine, AFillerTakesACycleAndWritesNothing) {
  // row 20 of a PE: a gap of 20 zeros is a filler (16) and a gap of 4
  std::vector<float> values(21);
  values[20] = 1.0f;
  const auto all = run(matrix(21, 1, values), {1.0f}, {.pes = 1}, {.trace_last = 99});
  EXPECT_EQ(all.trace, "cycles 0 to 9\nCCU  |gB........|\nPE 0 |...f#.....|\n");
  EXPECT_EQ(all.statistics.pes[0].fillers, 1);
  EXPECT_EQ(all.statistics.pes[0].register_writes, 1);
  EXPECT_EQ(all.outputs[20], 1.0f);
  EXPECT_EQ(std::ranges::count(all.outputs, 0.0f), 20);
}

TEST(EieMachine, ABroadcastWaitsWhileAnyQueueIsFull) {
  // Two slots hold one activation. PE 0 takes three cycles a column, PE 1 one. The control sees a
  // queue as it was when the cycle began.
  const auto weight = matrix(6, 3, {1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0});
  const auto all = run(weight, {1, 1, 1}, {.pes = 2, .queue_slots = 2}, {.trace_last = 99});
  EXPECT_EQ(all.trace,
            "cycles 0 to 16\n"
            "CCU  |gBsBssBg.........|\n"
            "PE 0 |...#########.....|\n"
            "PE 1 |...#.o..#........|\n");
  EXPECT_EQ(all.statistics.stall_cycles, 3);
}

TEST(EieMachine, TheAccumulatorOfTheLastCycleComesFromTheAdder) {
  // one row: each column hits the same accumulator in the next cycle
  const auto all = run(matrix(1, 3, {0.25f, 0.5f, 1.0f}), {1, 1, 1}, {.pes = 1});
  EXPECT_EQ(all.statistics.pes[0].bypasses, 2);
  EXPECT_EQ(all.statistics.pes[0].register_reads, 1);
  EXPECT_EQ(all.outputs[0], 1.75f);
  // two rows, alternating: two cycles apart the register has been written
  const auto two = run(matrix(2, 2, {1, 1, 1, 1}), {1, 1}, {.pes = 1});
  EXPECT_EQ(two.statistics.pes[0].bypasses, 0);
  EXPECT_EQ(two.outputs, (std::vector<float>{2.0f, 2.0f}));
}

TEST(EieMachine, ALineOfTwoShortColumnsIsReadOnce) {
  const auto all = run(matrix(3, 4, std::vector<float>(12, 1.0f)), {1, 1, 1, 1}, {.pes = 1});
  EXPECT_EQ(all.statistics.pes[0].matrix_reads, 2);  // 12 entries, 8 a line
  const auto narrow = run(matrix(3, 4, std::vector<float>(12, 1.0f)), {1, 1, 1, 1},
                          {.pes = 1, .sram_width_bits = 32});
  EXPECT_EQ(narrow.statistics.pes[0].matrix_reads, 3);
  EXPECT_EQ(narrow.statistics.cycles, all.statistics.cycles);
}

// Rules 1 to 3 alone: each PE is busy max(1, entries) cycles with a column.
int64_t cycles_of_queues(const Layer& layer, const std::vector<float>& activations, int64_t pes,
                         int64_t slots) {
  constexpr int64_t kLost = -1;
  std::vector<int64_t> sequence;  // columns to pass on, and lost cycles
  const auto cols = static_cast<int64_t>(activations.size());
  for (int64_t group = 0; group < cols; group += pes) {
    bool is_last_set = false;
    for (int64_t j = group; j < std::min(group + pes, cols); ++j) {
      if (!(activations[static_cast<size_t>(j)] > 0)) continue;
      sequence.push_back(j);
      is_last_set = j == group + pes - 1;
    }
    if (!is_last_set) sequence.push_back(kLost);
  }
  const auto& banks = layer.row_tiles()[0].banks;
  std::vector<std::deque<int64_t>> queues(static_cast<size_t>(pes));
  std::vector<int64_t> busy(static_cast<size_t>(pes));
  int64_t cycles = 0;
  for (size_t at = 0;; ++cycles) {
    const bool is_idle = std::ranges::all_of(queues, &std::deque<int64_t>::empty) &&
                         std::ranges::all_of(busy, [](int64_t b) { return b == 0; });
    if (at == sequence.size() && is_idle) return cycles;
    const bool is_full = std::ranges::any_of(
        queues, [&](const auto& queue) { return std::ssize(queue) == slots - 1; });
    for (size_t pe = 0; pe < queues.size(); ++pe) {
      if (busy[pe] > 0) --busy[pe];
      if (busy[pe] > 0 || queues[pe].empty()) continue;
      const auto column = static_cast<size_t>(queues[pe].front());
      queues[pe].pop_front();
      const auto& starts = banks[pe].starts;
      busy[pe] = std::max<int64_t>(1, starts[column + 1] - starts[column]);
    }
    if (at == sequence.size() || (sequence[at] != kLost && is_full)) continue;
    if (sequence[at] != kLost) {
      for (auto& queue : queues) queue.push_back(sequence[at]);
    }
    ++at;
  }
}

TEST(EieMachine, TakesTheCyclesOfItsQueuesAndSixMore) {
  uint64_t seed = 0;
  for (const int64_t pes : {1, 2, 5, 16, 64}) {
    for (const int64_t slots : {2, 3, 8, 64}) {
      for (const double density : {0.02, 0.1, 0.5}) {
        const auto weight = matrix(150, 90, random_values(150 * 90, density, ++seed));
        const auto activations = random_activations(90, 0.4, ++seed);
        const Config config = unbounded({.pes = pes, .queue_slots = slots});
        const Layer layer(weight, {}, config);
        const auto all = Machine(config).run(layer, activations, kFormat);
        ASSERT_EQ(all.statistics.cycles,
                  cycles_of_queues(layer, activations, pes, slots) + kFillAndDrain)
            << pes << " PEs, " << slots << " slots, density " << density;
      }
    }
  }
}

TEST(EieMachine, EveryCycleOfAPeIsAnEntryABubbleOrStarved) {
  const auto weight = matrix(150, 90, random_values(150 * 90, 0.1, 1));
  const auto all = run(weight, random_activations(90, 0.5, 2), {.pes = 16});
  int64_t active = 0;
  for (const auto& pe : all.statistics.pes) {
    EXPECT_EQ(pe.entries + pe.bubble_cycles + pe.starved_cycles, all.statistics.cycles);
    EXPECT_EQ(pe.register_writes, pe.entries - pe.fillers);
    EXPECT_EQ(pe.register_reads + pe.bypasses, pe.register_writes);
    EXPECT_EQ(pe.queue_pushes, all.statistics.broadcasts);
    EXPECT_EQ(pe.pointer_reads, all.statistics.broadcasts);
    active += pe.entries;
  }
  EXPECT_EQ(all.statistics.theoretical_cycles(), static_cast<double>(active) / 16);
  EXPECT_EQ(all.statistics.lnzd_cycles, all.statistics.cycles * lnzd_nodes(16));
  EXPECT_EQ(all.statistics.total().saturations, 0);
}

// Every output in the arithmetic of one PE, row by row.
std::vector<int32_t> reference(const std::vector<float>& values, const std::vector<float>& bias,
                               const std::vector<float>& activations, const Format& format,
                               int bits, bool relu) {
  const int shift = format.weight + format.input - format.output;
  const int64_t most = (int64_t{1} << (bits - 1)) - 1;
  std::vector<int32_t> outputs;
  for (size_t row = 0; row < values.size() / activations.size(); ++row) {
    int64_t sum = bias.empty() ? 0 : to_fixed(bias[row], format.output, bits);
    for (size_t j = 0; j < activations.size(); ++j) {
      const float w = values[row * activations.size() + j];
      if (w == 0 || !(activations[j] > 0)) continue;
      const int64_t product =
          int64_t{to_fixed(w, format.weight, bits)} * to_fixed(activations[j], format.input, bits);
      const int64_t half = shift > 0 ? int64_t{1} << (shift - 1) : 0;
      sum = std::clamp(sum + ((product + half) >> shift), -most - 1, most);
    }
    outputs.push_back(static_cast<int32_t>(relu ? std::max<int64_t>(sum, 0) : sum));
  }
  return outputs;
}

TEST(EieMachine, OutputsAreThoseOfTheArithmeticAlone) {
  uint64_t seed = 100;
  for (const auto arithmetic : {Arithmetic::kFixed8, Arithmetic::kFixed16, Arithmetic::kFixed32}) {
    for (const int64_t pes : {1, 3, 64}) {
      for (const bool relu : {false, true}) {
        for (const Format& format : {Format{6, 5, 3}, Format{5, 3, 6}}) {  // the second saturates
          const auto values = random_values(130 * 70, 0.2, ++seed);
          const auto activations = random_activations(70, 0.5, ++seed);
          const auto bias = random_values(130, 0.8, ++seed);
          const Config config = unbounded({.pes = pes, .arithmetic = arithmetic});
          const Layer layer(matrix(130, 70, values), bias, config);
          const Machine machine(config);
          const auto all = machine.run(layer, activations, format, {.relu = relu});
          EXPECT_EQ(all.integers,
                    reference(values, bias, activations, format, bits_of(arithmetic), relu));
          EXPECT_EQ(all.outputs, machine.outputs(layer, activations, format, relu));
        }
      }
    }
  }
}

TEST(EieMachine, FloatIsTheOracle) {
  const auto values = random_values(100 * 80, 0.3, 7);
  const auto activations = random_activations(80, 0.6, 8);
  const Config config{.pes = 8, .arithmetic = Arithmetic::kFloat32};
  const Layer layer(matrix(100, 80, values), {}, config);
  const auto all = Machine(config).run(layer, activations, {});
  EXPECT_TRUE(all.integers.empty());
  for (size_t row = 0; row < 100; ++row) {
    double exact = 0;
    for (size_t j = 0; j < 80; ++j) exact += double{values[row * 80 + j]} * activations[j];
    EXPECT_NEAR(all.outputs[row], exact, 1e-5);
  }
  EXPECT_EQ(all.outputs, Machine(config).outputs(layer, activations, {}));
}

TEST(EieMachine, PassesOnWhatIsAboveZeroAndSaysWhatItSkips) {
  const auto weight = matrix(1, 4, {1, 1, 1, 1});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto all = run(weight, {1.0f, -2.0f, nan, 0.5f}, {.pes = 2});
  EXPECT_EQ(all.outputs[0], 1.5f);
  EXPECT_EQ(all.statistics.skipped_negative, 1);
  EXPECT_EQ(all.statistics.skipped_nan, 1);
  const auto both = run(weight, {1.0f, -2.0f, nan, 0.5f}, {.pes = 2, .signed_activations = true});
  EXPECT_EQ(both.outputs[0], -0.5f);
  EXPECT_EQ(both.statistics.skipped_negative, 0);
  const float infinite = std::numeric_limits<float>::infinity();
  EXPECT_EQ(run(weight, {infinite, 0, 0, 0}, {.pes = 2}).integers[0], 32767);
}

TEST(EieMachine, RefusesWhatDoesNotFitIt) {
  const Config config{.pes = 2};
  const Layer layer(matrix(1, 2, {1, 1}), {}, config);
  const std::vector<float> two = {1, 1}, three = {1, 1, 1};
  EXPECT_EQ(error_of([&] { Machine(config).run(layer, three, kFormat); }),
            "eie: expected `fc` to get 2 activations, got 3.");
  EXPECT_EQ(error_of([&] { Machine(config).outputs(layer, three, kFormat); }),
            "eie: expected `fc` to get 2 activations, got 3.");
  EXPECT_EQ(error_of([&] { Machine({.pes = 4}).run(layer, two, kFormat); }),
            "eie: expected `fc` to be laid out for this machine, got a layer for another.");
  EXPECT_EQ(error_of([&] {
              Machine(config).run(layer, two, {1, 1, 3});
            }),
            "eie: expected a format that shifts by 0 to 62 (weight + input - output digits), got "
            "-1.");
  EXPECT_EQ(error_of([] { Machine({.pes = 0}); }), "eie: expected `pes` in 1..1024, got 0.");
  EXPECT_EQ(error_of([] { Machine({.queue_slots = 1}); }),
            "eie: expected `queue_slots` in 2..4096, got 1.");
  EXPECT_EQ(error_of([] { Machine({.sram_width_bits = 96}); }),
            "eie: expected `sram_width_bits` to be 32, 64, 128, 256 or 512, got 96.");
  EXPECT_EQ(error_of([] { Machine({.code_bits = 9}); }),
            "eie: expected `code_bits` in 1..8, got 9.");
  EXPECT_EQ(error_of([] { Machine({.gap_bits = 0}); }), "eie: expected `gap_bits` in 1..8, got 0.");
  EXPECT_EQ(error_of([] { Machine({.clock_hz = 0}); }),
            "eie: expected `clock_hz` to be above 0, got 0.");
}

}  // namespace
}  // namespace pomona::eie
