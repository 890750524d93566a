#include "base/float16.h"
#include "quantize/assign_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

namespace {

using pomona::Isa;

std::vector<uint8_t> literal(const std::vector<float>& values,
                             const std::vector<double>& boundaries) {
  std::vector<uint8_t> codes;
  for (const float value : values) {
    const auto below = std::count_if(boundaries.begin(), boundaries.end(),
                                     [&](double boundary) { return boundary < double{value}; });
    codes.push_back(static_cast<uint8_t>(below));
  }
  return codes;
}

TEST(AssignKernel, CountsTheBoundariesBelowWithEveryInstructionSet) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (const size_t count : {0u, 1u, 3u, 14u, 15u, 16u, 17u, 31u, 100u, 254u, 255u}) {
    std::vector<double> boundaries;
    for (size_t j = 0; j < count; ++j) boundaries.push_back(double{normal(rng)} * 1.000000001);
    std::sort(boundaries.begin(), boundaries.end());
    std::vector<float> values;
    for (int i = 0; i < 333; ++i) values.push_back(normal(rng));
    for (const double boundary : boundaries) values.push_back(static_cast<float>(boundary));
    const float most = std::numeric_limits<float>::max();
    values.insert(values.end(), {most, -most, 0.0F, -0.0F});
    for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kBest}) {
      if (!pomona::has_isa(isa)) continue;
      std::vector<uint8_t> codes(values.size());
      pomona::assign_codes(values, boundaries, codes, isa);
      EXPECT_EQ(codes, literal(values, boundaries)) << count << " " << int(isa);
    }
  }
}

TEST(AssignKernel, LooksManyHalvesUp) {
  std::vector<uint16_t> halves;
  std::vector<float> values;
  for (uint32_t i = 0; i < 70'000; ++i) {
    const auto bits = static_cast<uint16_t>(i * 31 % 0x7c00);  // finite
    halves.push_back(bits);
    values.push_back(pomona::float_from_float16(bits));
  }
  const std::vector<double> boundaries{1e-7, 0.01, 1.0, 300.5};
  std::vector<uint8_t> codes(halves.size());
  pomona::assign_codes({halves.data(), 70'000, pomona::DType::kFloat16}, boundaries, codes);
  EXPECT_EQ(codes, literal(values, boundaries));
}

}  // namespace
