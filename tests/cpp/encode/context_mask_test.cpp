#include "encode/context_mask.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "layers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

namespace {

using pomona::CodedMatrix;
using pomona::CorruptFile;
using pomona::decode_mask;
using pomona::encode_mask;
using pomona::Mask;
using pomona::testing::Layer;
using pomona::testing::random_layer;
using pomona::testing::structured_layer;

using Bytes = std::vector<std::byte>;

constexpr CodedMatrix kShapes[] = {{1, 1, 1},    {1, 300, 1},  {300, 1, 1},   {10, 784, 1},
                                   {6, 3072, 1}, {20, 25, 25}, {16, 144, 9},  {50, 500, 25},
                                   {7, 65, 1},   {64, 48, 16}, {200, 700, 1}, {33, 31 * 2, 2}};

void expect_round_trip(const Mask& mask, const CodedMatrix& shape) {
  const Bytes bytes = encode_mask(mask, shape);
  EXPECT_EQ(decode_mask(bytes, shape, mask.kept()), mask)
      << shape.rows << " x " << shape.cols << ", window " << shape.inner;
}

// Entropy in bytes of weights that are kept with one probability.
double entropy_bytes(const Mask& mask) {
  const double p = static_cast<double>(mask.kept()) / static_cast<double>(mask.size());
  return -static_cast<double>(mask.size()) * (p * std::log2(p) + (1 - p) * std::log2(1 - p)) / 8;
}

TEST(ContextMask, RandomMasksComeBack) {
  for (const CodedMatrix& shape : kShapes) {
    for (const double density : {0.005, 0.1, 0.5, 0.97}) {
      expect_round_trip(random_layer(shape, density, 2, 1).mask, shape);
    }
  }
}

TEST(ContextMask, MasksWithDeadRowsAndColumnsComeBack) {
  for (const CodedMatrix& shape : kShapes) {
    for (const double density : {0.01, 0.1, 0.4}) {
      expect_round_trip(structured_layer(shape, density, 2, 2).mask, shape);
    }
  }
}

TEST(ContextMask, AllAndNoneComeBackInAFewBytes) {
  for (const CodedMatrix& shape : kShapes) {
    for (const bool keep : {false, true}) {
      const Mask mask(shape.rows * shape.cols, keep);
      expect_round_trip(mask, shape);
      EXPECT_LE(encode_mask(mask, shape).size(), 20u) << shape.rows << " x " << shape.cols;
    }
  }
}

TEST(ContextMask, AnEmptyMatrixTakesNoBytes) {
  for (const CodedMatrix& shape : {CodedMatrix{0, 0, 1}, {0, 5, 1}, {5, 0, 1}}) {
    const Mask mask(0);
    EXPECT_TRUE(encode_mask(mask, shape).empty());
    EXPECT_EQ(decode_mask({}, shape, 0), mask);
    EXPECT_THROW(decode_mask(Bytes(1), shape, 0), CorruptFile);
  }
}

TEST(ContextMask, OneWeightAnywhereComesBack) {
  const CodedMatrix shape{9, 16, 1};
  for (int64_t i = 0; i < shape.rows * shape.cols; ++i) {
    Mask mask(shape.rows * shape.cols, false);
    mask.set(i, true);
    expect_round_trip(mask, shape);
  }
}

TEST(ContextMask, RandomBitsCostLittleMoreThanTheirEntropy) {
  for (const double density : {0.02, 0.1, 0.3}) {
    const CodedMatrix shape{300, 400, 1};
    const Mask mask = random_layer(shape, density, 2, 3).mask;
    const auto size = static_cast<double>(encode_mask(mask, shape).size());
    EXPECT_LT(size, 1.012 * entropy_bytes(mask)) << density;
  }
}

TEST(ContextMask, StructureTakesAFifthOffGaps) {
  for (const double density : {0.015, 0.1, 0.2}) {
    const CodedMatrix shape{300, 400, 1};
    const Mask mask = structured_layer(shape, density, 2, 4).mask;
    const auto index = pomona::relative_index(mask, pomona::best_gap_bits(mask));
    std::vector<uint64_t> counts(size_t{1} << 16);
    for (const uint32_t gap : index.gaps) ++counts[gap];
    const double gaps = pomona::coded_size_bits(counts) / 8;
    EXPECT_LT(static_cast<double>(encode_mask(mask, shape).size()), 0.8 * gaps) << density;
  }
}

TEST(ContextMask, DeadPixelsAroundARoundImageTakeAFewBytes) {
  const CodedMatrix image{4, 28 * 28, 1}, line{4, 28 * 28 + 1, 1};
  Mask of_image(image.rows * image.cols), of_line(line.rows * line.cols);
  for (int64_t row = 0; row < image.rows; ++row) {
    for (int64_t pixel = 0; pixel < image.cols; ++pixel) {
      const int64_t y = pixel / 28 - 14, x = pixel % 28 - 14;
      const bool is_kept = x * x + y * y < 100;
      of_image.set(row * image.cols + pixel, is_kept);
      of_line.set(row * line.cols + pixel, is_kept);
    }
  }
  expect_round_trip(of_image, image);
  EXPECT_LT(3 * encode_mask(of_image, image).size(), 2 * encode_mask(of_line, line).size());
}

TEST(ContextMask, RefusesAMaskOfAnotherSize) {
  try {
    encode_mask(Mask(5), {2, 3, 1});
    FAIL();
  } catch (const pomona::InvalidArgument& error) {
    EXPECT_STREQ(error.what(),
                 "mask in context: expected mask.size() == rows * cols, got 5 and 2 * 3.");
  }
}

TEST(ContextMask, BytesStayWhatTheyWere) {
  const Layer layer = structured_layer({12, 30, 5}, 0.2, 2, 5);
  const Bytes bytes = encode_mask(layer.mask, layer.shape);
  std::string hex;
  for (const std::byte byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[static_cast<int>(byte) >> 4];
    hex += kDigits[static_cast<int>(byte) & 15];
  }
  EXPECT_EQ(hex, "9de7665dca6cfe5b700f15ca4ef099e02974d12d");
}

TEST(ContextMask, RefusesBytesThatAreLeftOver) {
  const Layer layer = structured_layer({20, 36, 9}, 0.2, 2, 6);
  Bytes bytes = encode_mask(layer.mask, layer.shape);
  for (const std::byte more : {std::byte{0}, std::byte{1}, std::byte{255}}) {
    bytes.push_back(more);
    try {
      decode_mask(bytes, layer.shape, layer.mask.kept());
      FAIL();
    } catch (const CorruptFile& error) {
      EXPECT_EQ(error.section, "symbol stream");
      EXPECT_EQ(error.offset, bytes.size());
    }
  }
}

TEST(ContextMask, BytesCutShortDecodeToAnotherMaskOrAreRefused) {
  const Layer layer = structured_layer({20, 36, 9}, 0.2, 2, 6);
  const Bytes bytes = encode_mask(layer.mask, layer.shape);
  int refused = 0;
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    try {
      const auto some = std::span(bytes).first(cut);
      EXPECT_NE(decode_mask(some, layer.shape, layer.mask.kept()), layer.mask) << cut;
    } catch (const CorruptFile&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(ContextMask, FlippedBytesDecodeToAnotherMaskOrAreRefused) {
  std::mt19937_64 rng(7);
  for (const CodedMatrix& shape : kShapes) {
    const Layer layer = structured_layer(shape, 0.2, 2, 8);
    const Bytes bytes = encode_mask(layer.mask, shape);
    for (int trial = 0; trial < 40 && !bytes.empty(); ++trial) {
      Bytes damaged = bytes;
      damaged[rng() % damaged.size()] ^= static_cast<std::byte>(1 + rng() % 255);
      try {
        EXPECT_NE(decode_mask(damaged, shape, layer.mask.kept()), layer.mask);
      } catch (const CorruptFile& error) {
        EXPECT_EQ(error.section, "symbol stream");
      }
    }
  }
}

TEST(ContextMask, NoiseUnderAnyCountDecodesOrIsRefused) {
  std::mt19937_64 rng(9);
  for (int trial = 0; trial < 300; ++trial) {
    const CodedMatrix& shape = kShapes[rng() % std::size(kShapes)];
    Bytes noise(rng() % 60);
    for (auto& byte : noise) byte = static_cast<std::byte>(rng());
    const auto kept = static_cast<int64_t>(rng() % 200000);  // more than there are, too
    try {
      decode_mask(noise, shape, kept);
    } catch (const CorruptFile& error) {
      EXPECT_EQ(error.offset, noise.size());
    }
  }
}

}  // namespace
