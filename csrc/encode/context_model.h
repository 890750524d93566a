#pragma once
// Predictions of a bit, and their mixture. Probabilities are p / 2^16; mixing works on logits,
// 256 ln(p / (1 - p)), so that a prediction counts by how sure it is (logistic mixing, Mahoney
// 2005). Integers throughout, tables included: a file that one machine writes every other reads.
// Source: docs/format.md, "Context coder".

#include "pomona/export.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

inline constexpr int kMostLogit = 2815;  // 11 * 256 - 1: p = 1.7e-5
inline constexpr uint32_t kHalf = 1u << 15;

namespace context {

// 2^16 * 256 ln(1 + i / 256), by 2 artanh(i / (512 + i)) in 32 fractional bits.
constexpr std::array<int32_t, 256> make_logarithms() {
  std::array<int32_t, 256> logarithms{};
  for (uint64_t i = 0; i < 256; ++i) {
    const uint64_t z = (i << 32) / (512 + i);
    uint64_t power = z, sum = 0;
    for (uint64_t k = 1; power > 0; k += 2) {
      sum += power / k;
      power = (((power * z) >> 32) * z) >> 32;
    }
    logarithms[i] = static_cast<int32_t>(sum >> 7);
  }
  return logarithms;
}
inline constexpr auto kLogarithms = make_logarithms();
inline constexpr int64_t kLogarithmOf2 = 11629080;  // 2^16 * 256 ln 2

}  // namespace context

// 256 ln x, from the nine highest bits of x. REQUIRES: x > 0.
constexpr int log256(uint64_t x) {
  const int high = static_cast<int>(std::bit_width(x)) - 1;
  const uint64_t next = (high >= 8 ? x >> (high - 8) : x << (8 - high)) & 255;
  return static_cast<int>((high * context::kLogarithmOf2 + context::kLogarithms[next]) >> 16);
}

// 256 ln(p / (1 - p)), of p in steps of 2^-12. REQUIRES: p < 2^16.
POMONA_API int logit(uint32_t p);
// Its inverse, kept within 4 .. 65532. `x` may lie outside +-kMostLogit.
POMONA_API uint32_t probability(int x);

// 256 ln((seen + prior) / (expected + prior)), kept within +-1500: what a place adds to the logit
// of a weight. All three in units of 2^-16.
constexpr int surplus(uint64_t seen, uint64_t expected, uint64_t prior) {
  constexpr int kMost = 1500;
  const int x = log256(seen + prior) - log256(expected + prior);
  return x < -kMost ? -kMost : x > kMost ? kMost : x;
}

// What a context adds to a logit: bits seen in it against those that were expected.
class Residual {
 public:
  int logit() const { return logit_; }
  // The bit, and the probability that it was expected with.
  void update(bool bit, uint32_t p) {
    seen_ += static_cast<uint32_t>(bit) << 16;
    expected_ += p;
    if (seen_ >= kLimit || expected_ >= kLimit) {
      seen_ /= 2;
      expected_ /= 2;
    }
    logit_ = surplus(seen_, expected_, kPrior);
  }

 private:
  static constexpr uint32_t kLimit = 2048u << 16;
  static constexpr uint32_t kPrior = 11u << 12;

  uint32_t seen_ = 0;
  uint32_t expected_ = 0;
  int logit_ = 0;
};

// A probability that learns: the mean of what it has seen, and of the recent past once it has seen
// `limit`.
class POMONA_API Counter {
 public:
  uint32_t p() const { return p_ >> 6; }
  // Its logit, nearer to 0 the less it has seen.
  int shy_logit() const;
  // REQUIRES: limit < kMostSeen.
  void update(bool bit, uint32_t limit);

  static constexpr uint32_t kMostSeen = 1024;

 private:
  uint32_t p_ = kHalf << 6;  // in 22 bits
  uint32_t seen_ = 0;
};

// How fast a mixer's weights move: slow + fast * span / (span + n) when n bits were mixed.
struct MixerRate {
  int32_t slow, fast, span;
};

// Weighs predictions. Each context has weights of its own.
template <size_t kInputs>
class Mixer {
 public:
  using Logits = std::array<int32_t, kInputs>;

  // `weights` in units of 2^-16: where all contexts begin.
  Mixer(size_t contexts, const Logits& weights, MixerRate rate)
      : rate_(rate), contexts_(contexts, Context{weights}) {}

  // The mixture of `logits`, as a logit. REQUIRES: |logit| < 2^12.
  int mix(const Logits& logits, size_t context) {
    at_ = &contexts_[context];
    int32_t sum = 0;
    for (size_t i = 0; i < kInputs; ++i) sum += (at_->weights[i] * logits[i]) >> 4;
    const int x = sum >> 12;
    at_x_ = x < -kMostLogit ? -kMostLogit : x > kMostLogit ? kMostLogit : x;
    return at_x_;
  }
  // What became of it. REQUIRES: the logits of the last mix().
  void update(const Logits& logits, bool bit) {
    const int32_t error = (bit ? 65535 : 0) - static_cast<int32_t>(probability(at_x_));
    const int32_t rate = rate_.slow + rate_.fast * rate_.span / (rate_.span + at_->seen);
    const int32_t step = (error * rate) >> 10;
    for (size_t i = 0; i < kInputs; ++i) {
      const int32_t weight = at_->weights[i] + ((step * logits[i]) >> 12);
      at_->weights[i] = weight < -kMost ? -kMost : weight > kMost ? kMost : weight;
    }
    if (at_->seen < kMostSeen) ++at_->seen;
  }

 private:
  static constexpr int32_t kMost = 1 << 18;
  static constexpr int32_t kMostSeen = 65535;
  struct Context {
    Logits weights;
    int32_t seen = 0;
  };

  MixerRate rate_;
  std::vector<Context> contexts_;
  Context* at_ = nullptr;  // the context of the last mix()
  int at_x_ = 0;           // what it made
};

// The period of a matrix's columns: the window of a convolution, or the width of the image that
// the inputs of a first layer are (square, of one or three channels, at least 4 wide). 0: none.
POMONA_API int64_t period_of(int64_t cols, int64_t inner);

}  // namespace pomona
