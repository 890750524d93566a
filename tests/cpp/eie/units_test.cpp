// One rule of one unit each.
#include "eie/activation_queue.h"
#include "eie/activation_registers.h"
#include "eie/arithmetic.h"
#include "eie/leading_nonzero.h"
#include "eie/matrix_read.h"
#include "eie/pointer_read.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

namespace pomona::eie {
namespace {

TEST(EieLeadingNonZero, HasANodeForEachFourLanes) {
  EXPECT_EQ(LeadingNonZero(64).nodes(), 16 + 4 + 1);
  EXPECT_EQ(LeadingNonZero(256).nodes(), 64 + 16 + 4 + 1);
  EXPECT_EQ(LeadingNonZero(4).nodes(), 1);
  EXPECT_EQ(LeadingNonZero(5).nodes(), 2 + 1);
  EXPECT_EQ(LeadingNonZero(1).nodes(), 0);
}

TEST(EieLeadingNonZero, FindsTheNextLaneThatIsSet) {
  std::mt19937_64 rng(0);
  for (const int64_t lanes : {1, 2, 4, 5, 16, 63, 64, 65, 200}) {
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<bool> set(static_cast<size_t>(lanes));
      const uint64_t one_in = 1 + rng() % 40;
      for (size_t lane = 0; lane < set.size(); ++lane) set[lane] = rng() % one_in == 0;
      LeadingNonZero detection(lanes);
      detection.load([&](size_t lane) { return set[lane]; });
      for (int64_t first = 0; first < lanes; ++first) {
        int64_t expected = first;
        while (expected < lanes && !set[static_cast<size_t>(expected)]) ++expected;
        if (expected == lanes) expected = LeadingNonZero::kNone;
        ASSERT_EQ(detection.next(first), expected) << lanes << " lanes from " << first;
      }
    }
  }
}

TEST(EieActivationQueue, OfEightSlotsHoldsSevenInOrder) {
  ActivationQueue<int32_t> queue(8);
  EXPECT_TRUE(queue.is_empty());
  for (int round = 0; round < 3; ++round) {
    for (int32_t i = 0; i < 7; ++i) {
      EXPECT_FALSE(queue.is_full());
      queue.push({i, i + 100});
    }
    EXPECT_TRUE(queue.is_full());
    for (int32_t i = 0; i < 7; ++i) {
      const auto activation = queue.pop();
      EXPECT_EQ(activation.value, i);
      EXPECT_EQ(activation.column, i + 100);
    }
    EXPECT_TRUE(queue.is_empty());
  }
}

TEST(EiePointerRead, TakesBothPointersOfAColumnInOneRead) {
  const std::vector<int64_t> pointers = {5, 8, 8, 9};  // the tile begins at entry 5
  PointerRead read(pointers);
  EXPECT_EQ(read.read(0).begin, 0);
  EXPECT_EQ(read.read(0).end, 3);
  EXPECT_EQ(read.read(1).begin, read.read(1).end);
  EXPECT_EQ(read.read(2).end, 4);
  EXPECT_EQ(read.reads(), 5);
}

TEST(EieMatrixRead, ReadsALineOnlyWhenItChanges) {
  const std::vector<uint8_t> codes(20, 3), gaps(20, 1);
  MatrixRead read(codes, gaps, 8);
  EXPECT_EQ(read.read(6).code, 3);
  EXPECT_EQ(read.reads(), 1);
  read.read(7);  // the same line, as is the next column's
  EXPECT_EQ(read.reads(), 1);
  read.read(8);
  EXPECT_EQ(read.reads(), 2);
  read.read(19);
  EXPECT_EQ(read.reads(), 3);
  read.read(0);
  EXPECT_EQ(read.reads(), 4);
}

TEST(EieActivationRegisters, CountWhatTheyDo) {
  std::vector<int32_t> values = {1, 2};
  ActivationRegisters<int32_t> registers(values);
  registers.write(1, 7);
  EXPECT_EQ(registers.read(1), 7);
  EXPECT_EQ(values[1], 7);
  EXPECT_EQ(registers.reads(), 1);
  EXPECT_EQ(registers.writes(), 1);
}

TEST(EieArithmetic, RoundsHalvesUp) {
  EXPECT_EQ(to_fixed(0.5, 0, 16), 1);
  EXPECT_EQ(to_fixed(-0.5, 0, 16), 0);
  EXPECT_EQ(to_fixed(1.25, 2, 16), 5);
  EXPECT_EQ(to_fixed(1e9, 0, 16), 32767);
  EXPECT_EQ(to_fixed(-std::numeric_limits<double>::infinity(), 0, 16), -32768);
  EXPECT_EQ(to_fixed(std::numeric_limits<double>::quiet_NaN(), 3, 16), 0);
}

TEST(EieArithmetic, DigitsAreAsManyAsFit) {
  EXPECT_EQ(fraction_digits(1.0, 16), 14);       // 16384 fits, 32768 does not
  EXPECT_EQ(fraction_digits(0.999, 16), 15);     // 32735
  EXPECT_EQ(fraction_digits(0.99999, 16), 14);   // 32768 after rounding
  EXPECT_EQ(fraction_digits(100000.0, 16), -2);  // 25000
  EXPECT_EQ(fraction_digits(0.0, 8), 30);
  EXPECT_EQ(fraction_digits(1.0, 8), 6);
}

TEST(EieArithmetic, MultipliesShiftsAndAddsWithSaturation) {
  const std::vector<float> codebook = {0.0f, 1.5f, -2.0f};
  // weights x 4, inputs x 2, outputs x 2: products are shifted by 2
  const FixedArithmetic unit(codebook, {.weight = 2, .input = 1, .output = 1}, 16);
  EXPECT_EQ(unit.weight(0), 0);
  EXPECT_EQ(unit.weight(1), 6);
  EXPECT_EQ(unit.weight(2), -8);
  EXPECT_EQ(unit.input(2.5f), 5);
  bool is_saturated = false;
  EXPECT_EQ(unit.add(10, unit.multiply(6, 5), is_saturated), 10 + 8);   // 30 / 4 = 7.5
  EXPECT_EQ(unit.add(10, unit.multiply(6, -5), is_saturated), 10 - 7);  // -7.5
  EXPECT_EQ(unit.add(10, unit.multiply(-8, 1), is_saturated), 10 - 2);
  EXPECT_FALSE(is_saturated);
  EXPECT_EQ(unit.add(32760, unit.multiply(6, 20), is_saturated), 32767);  // 32790
  EXPECT_TRUE(is_saturated);
  is_saturated = false;
  EXPECT_EQ(unit.add(-32768, unit.multiply(-8, 1), is_saturated), -32768);
  EXPECT_TRUE(is_saturated);
  EXPECT_EQ(unit.output(5), 2.5f);
}

TEST(EieArithmetic, OfThirtyTwoBitsDoesNotOverflow) {
  const std::vector<float> codebook = {0.0f, 1.0f};
  const FixedArithmetic unit(codebook, {.weight = 30, .input = 30, .output = 0}, 32);
  const int32_t most = std::numeric_limits<int32_t>::max();
  bool is_saturated = false;
  EXPECT_EQ(unit.add(0, unit.multiply(most, most), is_saturated), 4);  // (2^31 - 1)^2 / 2^60
  EXPECT_EQ(unit.add(most - 1, unit.multiply(most, most), is_saturated), most);
  EXPECT_TRUE(is_saturated);
}

}  // namespace
}  // namespace pomona::eie
