#include "encode/context_codes.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "layers.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace {

using pomona::CodedMatrix;
using pomona::CorruptFile;
using pomona::decode_codes_in_context;
using pomona::encode_codes;
using pomona::InvalidArgument;
using pomona::Mask;
using pomona::testing::Layer;
using pomona::testing::random_layer;
using pomona::testing::structured_layer;

using Bytes = std::vector<std::byte>;
using Codes = std::vector<uint8_t>;

constexpr CodedMatrix kShapes[] = {{1, 1, 1},    {1, 300, 1},  {300, 1, 1},  {10, 784, 1},
                                   {6, 3072, 1}, {20, 25, 25}, {16, 144, 9}, {50, 500, 25},
                                   {7, 65, 1},   {64, 48, 16}, {40, 700, 1}, {33, 31 * 2, 2}};

Bytes encode(const Layer& layer) {
  return encode_codes(layer.codes, layer.mask, layer.shape, layer.alphabet);
}

Codes decode(const Layer& layer, std::span<const std::byte> bytes) {
  return decode_codes_in_context(bytes, layer.mask, layer.shape, layer.alphabet);
}

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(ContextCodes, EveryAlphabetComesBack) {
  for (int64_t alphabet = 1; alphabet <= 256; ++alphabet) {
    const Layer layer = random_layer({20, 81, 9}, 0.3, alphabet, 1);
    EXPECT_EQ(decode(layer, encode(layer)), layer.codes) << alphabet;
  }
}

TEST(ContextCodes, EveryShapeComesBack) {
  for (const CodedMatrix& shape : kShapes) {
    for (const double density : {0.0, 0.02, 0.3, 1.0}) {
      for (const int64_t alphabet : {2, 5, 16, 31, 256}) {
        for (const Layer& layer : {structured_layer(shape, density, alphabet, 2),
                                   random_layer(shape, density, alphabet, 3)}) {
          EXPECT_EQ(decode(layer, encode(layer)), layer.codes)
              << shape.rows << " x " << shape.cols << ", alphabet " << alphabet;
        }
      }
    }
  }
}

TEST(ContextCodes, NothingToCodeTakesNoBytes) {
  EXPECT_TRUE(encode(random_layer({20, 30, 1}, 0.5, 1, 4)).empty());
  EXPECT_TRUE(encode(random_layer({20, 30, 1}, 0, 16, 4)).empty());
  EXPECT_TRUE(encode(random_layer({0, 30, 1}, 0.5, 16, 4)).empty());
  EXPECT_THROW(decode(random_layer({20, 30, 1}, 0.5, 1, 4), Bytes(1)), CorruptFile);
}

TEST(ContextCodes, RandomCodesCostLittleMoreThanTheirEntropy) {
  for (const int64_t alphabet : {8, 20, 64}) {
    const Layer layer = random_layer({300, 400, 1}, 0.3, alphabet, 5);
    const double entropy =
        static_cast<double>(layer.codes.size()) * std::log2(static_cast<double>(alphabet)) / 8;
    EXPECT_LT(static_cast<double>(encode(layer).size()), 1.03 * entropy) << alphabet;
  }
}

TEST(ContextCodes, SignsThatKeepTogetherTakeSixPercentOffHuffman) {
  for (const CodedMatrix& shape : {CodedMatrix{100, 400, 1}, {100, 784, 1}, {100, 450, 9}}) {
    const Layer layer = structured_layer(shape, 0.4, 4, 6);
    const auto huffman =
        static_cast<double>(pomona::encode_symbols(layer.codes, layer.alphabet).size());
    EXPECT_LT(static_cast<double>(encode(layer).size()), 0.94 * huffman) << shape.cols;
  }
}

TEST(ContextCodes, BytesStayWhatTheyWere) {
  const Layer layer = structured_layer({12, 30, 5}, 0.2, 11, 5);
  std::string hex;
  for (const std::byte byte : encode(layer)) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[static_cast<int>(byte) >> 4];
    hex += kDigits[static_cast<int>(byte) & 15];
  }
  EXPECT_EQ(hex, "92b4ab46bd95e45a6ce2a83bdc7509614644e624fa9c61f63a");
}

TEST(ContextCodes, RefusesArgumentsThatDoNotFit) {
  const Mask mask(6);
  const CodedMatrix shape{2, 3, 1};
  EXPECT_EQ(refusal([&] {
              encode_codes(Codes(6), mask, {2, 4, 1}, 4);
            }),
            "codes in context: expected mask.size() == rows * cols, got 6 and 2 * 4.");
  EXPECT_EQ(refusal([&] { encode_codes(Codes(6), mask, shape, 257); }),
            "codes in context: expected alphabet in 1..256, got 257.");
  EXPECT_EQ(refusal([&] { decode_codes_in_context({}, mask, shape, 0); }),
            "codes in context: expected alphabet in 1..256, got 0.");
  EXPECT_EQ(refusal([&] { encode_codes(Codes(5), mask, shape, 4); }),
            "codes in context: expected one code for each of 6 kept weights, got 5.");
  EXPECT_EQ(refusal([&] { encode_codes(Codes(6, uint8_t{4}), mask, shape, 4); }),
            "codes in context: expected codes below the alphabet, 4, got 4.");
}

TEST(ContextCodes, RefusesBytesThatAreLeftOver) {
  const Layer layer = structured_layer({20, 36, 9}, 0.2, 13, 6);
  Bytes bytes = encode(layer);
  for (const std::byte more : {std::byte{0}, std::byte{1}, std::byte{255}}) {
    bytes.push_back(more);
    try {
      decode(layer, bytes);
      FAIL();
    } catch (const CorruptFile& error) {
      EXPECT_EQ(error.section, "symbol stream");
      EXPECT_EQ(error.offset, bytes.size());
    }
  }
}

TEST(ContextCodes, BytesCutShortDecodeToOtherCodesOrAreRefused) {
  const Layer layer = structured_layer({20, 36, 9}, 0.2, 13, 6);
  const Bytes bytes = encode(layer);
  int refused = 0;
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    try {
      EXPECT_NE(decode(layer, std::span(bytes).first(cut)), layer.codes) << cut;
    } catch (const CorruptFile&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(ContextCodes, DamagedBytesDecodeToOtherCodesBelowTheAlphabetOrAreRefused) {
  std::mt19937_64 rng(7);
  for (const CodedMatrix& shape : kShapes) {
    const Layer layer = structured_layer(shape, 0.2, 3 + static_cast<int64_t>(rng() % 250), 8);
    const Bytes bytes = encode(layer);
    for (int trial = 0; trial < 40 && !bytes.empty(); ++trial) {
      Bytes damaged = bytes;
      damaged[rng() % damaged.size()] ^= static_cast<std::byte>(1 + rng() % 255);
      try {
        const Codes codes = decode(layer, damaged);
        EXPECT_NE(codes, layer.codes);
        EXPECT_LT(*std::ranges::max_element(codes), layer.alphabet);
      } catch (const CorruptFile& error) {
        EXPECT_EQ(error.section, "symbol stream");
      }
    }
  }
}

}  // namespace
