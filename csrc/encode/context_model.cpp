#include "encode/context_model.h"

#include <algorithm>

namespace pomona {
namespace {

constexpr int kLogitSteps = 1 << 12;
constexpr uint32_t kLeast = 4, kMost = 65536 - 4;  // a probability that can be coded

constexpr std::array<int16_t, kLogitSteps> make_logits() {
  std::array<int16_t, kLogitSteps> logits{};
  for (uint64_t i = 0; i < kLogitSteps; ++i) {
    logits[i] = static_cast<int16_t>(log256(2 * i + 1) - log256(2 * kLogitSteps - 2 * i - 1));
  }
  return logits;
}

// 2^16 / (1 + e^(-x / 256)), from powers of e^(-1 / 256) in 31 fractional bits.
constexpr std::array<uint16_t, 2 * kMostLogit + 1> make_probabilities() {
  constexpr uint64_t kOne = uint64_t{1} << 31;
  constexpr uint64_t kStep = 4278222805;  // 2^32 e^(-1 / 256)
  std::array<uint16_t, 2 * kMostLogit + 1> probabilities{};
  uint64_t power = kOne;
  for (size_t x = 0; x <= kMostLogit; ++x) {
    const auto p = static_cast<uint32_t>(((power << 16) + (kOne + power) / 2) / (kOne + power));
    probabilities[kMostLogit - x] = static_cast<uint16_t>(std::clamp(p, kLeast, kMost));
    probabilities[kMostLogit + x] = static_cast<uint16_t>(std::clamp(65536 - p, kLeast, kMost));
    power = (power * kStep + kOne) >> 32;
  }
  return probabilities;
}

// 2^16 / (n + 1.5): how far a counter that has seen n moves.
constexpr std::array<uint32_t, Counter::kMostSeen> make_rates() {
  std::array<uint32_t, Counter::kMostSeen> rates{};
  for (uint32_t n = 0; n < rates.size(); ++n) rates[n] = 2 * 65536 / (2 * n + 3);
  return rates;
}

// (n + 1/4) / (n + 6/4) in units of 2^-12: how much a counter that has seen n counts.
constexpr std::array<int32_t, Counter::kMostSeen> make_trusts() {
  std::array<int32_t, Counter::kMostSeen> trusts{};
  for (int32_t n = 0; n < static_cast<int32_t>(trusts.size()); ++n) {
    trusts[static_cast<size_t>(n)] = 4096 * (4 * n + 1) / (4 * n + 6);
  }
  return trusts;
}

constexpr auto kLogits = make_logits();
constexpr auto kProbabilities = make_probabilities();
constexpr auto kRates = make_rates();
constexpr auto kTrusts = make_trusts();

// The whole number whose square is `x`, or 0.
int64_t square_root(int64_t x) {
  int64_t root = 0;
  for (int64_t bit = int64_t{1} << 30; bit > 0; bit /= 2) {
    if ((root + bit) * (root + bit) <= x) root += bit;
  }
  return root * root == x ? root : 0;
}

}  // namespace

int logit(uint32_t p) {
  return kLogits[p >> 4];
}

uint32_t probability(int x) {
  return kProbabilities[static_cast<size_t>(std::clamp(x, -kMostLogit, kMostLogit) + kMostLogit)];
}

int Counter::shy_logit() const {
  return (logit(p()) * kTrusts[seen_]) >> 12;
}

void Counter::update(bool bit, uint32_t limit) {
  const int64_t target = bit ? (1 << 22) - 1 : 0;
  const int64_t step = (target - static_cast<int64_t>(p_)) * kRates[seen_];
  p_ = static_cast<uint32_t>(static_cast<int64_t>(p_) + (step >> 16));
  if (seen_ < limit) ++seen_;
}

int64_t period_of(int64_t cols, int64_t inner) {
  constexpr int64_t kLeastWidth = 4;
  if (inner > 1) return inner;
  for (const int64_t channels : {1, 3}) {
    const int64_t width = cols % channels == 0 ? square_root(cols / channels) : 0;
    if (width >= kLeastWidth) return width;
  }
  return 0;
}

}  // namespace pomona
