#include "pomona/mask.h"

#include "pomona/error.h"

#include <gtest/gtest.h>

#include <vector>

namespace {

using pomona::InvalidArgument;
using pomona::Mask;

constexpr int64_t kSizes[] = {0, 1, 7, 63, 64, 65, 128, 785};

// Keeps every third weight.
Mask thirds(int64_t size) {
  Mask mask(size, false);
  for (int64_t i = 0; i < size; i += 3) mask.set(i, true);
  return mask;
}

TEST(Mask, CountsKeptBitsPastAWord) {
  for (const int64_t size : kSizes) {
    EXPECT_EQ(Mask(size).kept(), size);
    EXPECT_EQ(Mask(size, false).kept(), 0);
    EXPECT_EQ(thirds(size).kept(), (size + 2) / 3);
  }
}

TEST(Mask, NotClearsTheBitsPastItsSize) {
  for (const int64_t size : kSizes) {
    EXPECT_EQ((~thirds(size)).kept(), size - thirds(size).kept());
    EXPECT_EQ(~~thirds(size), thirds(size));
  }
}

TEST(Mask, AndOrFollowTheBits) {
  const Mask a = thirds(65), all(65);
  EXPECT_EQ(a & ~a, Mask(65, false));
  EXPECT_EQ(a | ~a, all);
  EXPECT_EQ(a & all, a);
}

TEST(Mask, ForEachKeptVisitsTheKeptInOrder) {
  for (const int64_t size : kSizes) {
    for (const Mask& mask : {thirds(size), Mask(size)}) {
      Mask seen(size, false);
      int64_t last = -1;
      EXPECT_TRUE(pomona::for_each_kept(mask, [&](size_t i) {
        EXPECT_LT(last, static_cast<int64_t>(i));
        last = static_cast<int64_t>(i);
        seen.set(last, true);
      }));
      EXPECT_EQ(seen, mask);
    }
  }
}

TEST(Mask, ForEachKeptEndsWhenAVisitReturnsFalse) {
  int visits = 0;
  EXPECT_FALSE(pomona::for_each_kept(Mask(200), [&](size_t) { return ++visits < 70; }));
  EXPECT_EQ(visits, 70);
}

TEST(Mask, HashTellsMasksAndSizesApart) {
  EXPECT_EQ(thirds(65).hash(), thirds(65).hash());
  EXPECT_NE(thirds(65).hash(), (~thirds(65)).hash());
  EXPECT_NE(Mask(64, false).hash(), Mask(65, false).hash());
}

TEST(Mask, RowBytesAreAlignedToRows) {
  Mask mask(2 * 9, false);
  mask.set(9, true);  // the first weight of row 1
  EXPECT_EQ(mask.to_row_bytes(2), (std::vector<uint8_t>{0, 0, 1, 0}));
}

TEST(Mask, RowBytesComeBack) {
  for (const int64_t rows : {1, 5, 13}) {
    const Mask mask = thirds(rows * 19);
    EXPECT_EQ(Mask::from_row_bytes(mask.to_row_bytes(rows), mask.size(), rows), mask);
  }
  EXPECT_EQ(Mask::from_row_bytes({}, 0, 0), Mask(0));
}

TEST(Mask, RefusesWrongSizes) {
  EXPECT_THROW(Mask(-1), InvalidArgument);
  EXPECT_THROW(Mask(65, std::vector<uint64_t>(1)), InvalidArgument);
  EXPECT_THROW(Mask(3) & Mask(4), InvalidArgument);
  EXPECT_THROW(Mask(10).to_row_bytes(3), InvalidArgument);
  EXPECT_THROW(Mask::from_row_bytes(std::vector<uint8_t>(3), 10, 2), InvalidArgument);
}

}  // namespace
