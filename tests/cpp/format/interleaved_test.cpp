#include "pomona/interleaved.h"

#include "pomona/error.h"

#include "error_of.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace {

using pomona::deinterleaved_codes;
using pomona::interleaved_columns;
using pomona::InterleavedBank;
using pomona::InvalidArgument;
using pomona::Mask;
using pomona::Weight;
using pomona::testing::error_of;

using Bytes = std::vector<uint8_t>;

// A matrix from stored codes, 0 for a pruned weight; centroids 0, 1, 2, ...
Weight matrix(int64_t rows, int64_t cols, const Bytes& stored, int64_t centroids = 15) {
  Weight weight{.name = "fc", .shape = {rows, cols}, .mask = Mask(rows * cols, false)};
  for (size_t i = 0; i < stored.size(); ++i) {
    if (stored[i] == 0) continue;
    weight.mask.set(static_cast<int64_t>(i), true);
    weight.codes.push_back(static_cast<uint8_t>(stored[i] - 1));
  }
  for (int64_t c = 0; c < centroids; ++c) weight.codebook.push_back(static_cast<float>(c + 1));
  return weight;
}

// EIE, Figures 2 and 3: a 16 x 8 matrix on four PEs, and what PE 0 holds of it. Here the code of
// W[i][j] is i / 4 + 1, so that `codes` says which weight stands where.
TEST(InterleavedColumns, AreThoseOfEIEsFigureThree) {
  const std::vector<std::pair<int, int>> of_pe0 = {{0, 0},  {8, 0}, {12, 0}, {4, 1}, {0, 2},
                                                   {12, 2}, {0, 4}, {4, 4},  {0, 5}, {12, 5},
                                                   {0, 6},  {8, 7}, {12, 7}};
  Bytes stored(16 * 8);
  Bytes codes;
  for (const auto& [row, column] : of_pe0) {
    codes.push_back(static_cast<uint8_t>(row / 4 + 1));
    stored[static_cast<size_t>(row * 8 + column)] = codes.back();
  }
  stored[1 * 8 + 3] = 9;  // a row of another PE changes nothing
  const auto banks = interleaved_columns(matrix(16, 8, stored), 4);
  ASSERT_EQ(banks.size(), 4u);
  EXPECT_EQ(banks[0].codes, codes);
  EXPECT_EQ(banks[0].gaps, (Bytes{0, 1, 0, 1, 0, 2, 0, 0, 0, 2, 0, 2, 0}));
  EXPECT_EQ(banks[0].starts, (std::vector<int64_t>{0, 3, 4, 6, 6, 8, 10, 11, 13}));
  EXPECT_EQ(banks[1].codes, (Bytes{9}));
}

// EIE §III-B: the column [0,0,1,2,(18 zeros),3] is v = [1,2,0,3], z = [2,0,15,2].
TEST(InterleavedColumns, HaveTheFillerOfEIEsExample) {
  Bytes column(23);
  column[2] = 1, column[3] = 2, column[22] = 3;
  const auto banks = interleaved_columns(matrix(23, 1, column), 1);
  EXPECT_EQ(banks[0].codes, (Bytes{1, 2, 0, 3}));
  EXPECT_EQ(banks[0].gaps, (Bytes{2, 0, 15, 2}));
  EXPECT_EQ(banks[0].fillers, 1);
}

TEST(InterleavedColumns, ComeBackForAnyBanksAndGapBits) {
  std::mt19937 random(5);
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 0}, {0, 3}, {3, 0}, {1, 1}, {1, 70}, {70, 1}, {33, 17}, {64, 65}}) {
    for (const int percent : {0, 3, 40, 100}) {
      Bytes stored(static_cast<size_t>(rows * cols));
      for (auto& code : stored) {
        const bool is_kept = random() % 100 < static_cast<unsigned>(percent);
        code = is_kept ? static_cast<uint8_t>(1 + random() % 15) : uint8_t{0};
      }
      for (const int64_t count : {1, 2, 7, 64, 100}) {
        for (const int bits : {1, 4, 8}) {
          const auto banks = interleaved_columns(matrix(rows, cols, stored), count, bits);
          EXPECT_EQ(deinterleaved_codes(banks, rows, cols), stored)
              << rows << " x " << cols << ", " << percent << " %, " << count << " banks";
        }
      }
    }
  }
}

TEST(InterleavedColumns, RefuseWhatIsNoSharedMatrix) {
  Weight weight = matrix(2, 2, {1, 0, 2, 1});
  EXPECT_EQ(error_of([&] { interleaved_columns(weight, 0); }),
            "interleaved_columns: expected `banks` of at least 1, got 0.");
  EXPECT_EQ(error_of([&] { interleaved_columns(weight, 1, 9); }),
            "interleaved_columns: expected `gap_bits` in 1..8, got 9.");
  weight.shape = {4};
  EXPECT_EQ(error_of([&] { interleaved_columns(weight, 1); }),
            "interleaved_columns: expected `fc` to have 2 dimensions [rows, cols], got 1.");
  EXPECT_EQ(error_of([] { interleaved_columns(matrix(1, 1, {1}, 256), 1); }),
            "interleaved_columns: expected `fc` to have at most 255 centroids, got 256.");
  Weight grouped = matrix(2, 2, {1, 0, 2, 1}, 4);
  grouped.group = 2;
  EXPECT_EQ(error_of([&] { interleaved_columns(grouped, 1); }),
            "interleaved_columns: expected `fc` to have one codebook, got 2.");
  Weight plain{.name = "fc", .shape = {1, 1}, .mask = Mask(1)};
  plain.values.resize(4);
  EXPECT_EQ(error_of([&] { interleaved_columns(plain, 1); }),
            "interleaved_columns: expected `fc` to be shared, got plain values.");
}

TEST(DeinterleavedCodes, RefuseBanksThatDoNotFit) {
  const auto banks = interleaved_columns(matrix(4, 2, {1, 0, 2, 1, 0, 0, 3, 1}), 2);
  const auto refused = [&](auto damage, int64_t rows = 4) {
    auto damaged = banks;
    damage(damaged[0]);
    return error_of([&] { deinterleaved_codes(damaged, rows, 2); });
  };
  const auto nothing = [](InterleavedBank&) {};
  const std::string begin = "deinterleaved_codes: expected `banks` ";
  EXPECT_EQ(refused(nothing, -1), begin + "of a shape that is not negative, got -1 x 2.");
  EXPECT_EQ(refused(nothing, 3), begin + "with rows below 3, got 3.");
  EXPECT_EQ(refused([](auto& bank) { bank.starts.pop_back(); }), begin + "with 3 starts, got 2.");
  EXPECT_EQ(refused([](auto& bank) { bank.starts[1] = 50; }),
            begin + "with starts that rise, got 50.");
  EXPECT_EQ(refused([](auto& bank) { bank.gaps.pop_back(); }),
            begin + "with a gap and a code for each entry, got 0.");
}

}  // namespace
