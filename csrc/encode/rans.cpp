#include "encode/rans.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <utility>

namespace pomona {
namespace {

constexpr int kWidthBeforeTheFirst = 8;  // widths are stored as differences; most are near it

int width_of(uint16_t frequency) {
  return static_cast<int>(std::bit_width(frequency));
}

uint64_t zigzag(int difference) {
  return static_cast<uint64_t>(difference >= 0 ? 2 * difference : -2 * difference - 1);
}

// ln(1 + 1 / f) in units of 2^-61: what one unit more than f saves each time that the symbol
// occurs. 2 artanh(z) = 2 (z + z^3 / 3 + z^5 / 5 + ...) with z = 1 / (2 f + 1), in integers, so
// that every machine rounds to the same probabilities.
constexpr uint64_t saving_of(uint64_t f) {
  const uint64_t n = 2 * f + 1;
  uint64_t sum = 0, power = (uint64_t{1} << 62) / n;
  for (uint64_t k = 1; power > 0; k += 2, power /= n * n) sum += power / k;
  return sum;
}

constexpr auto kSavings = [] {
  std::array<uint64_t, kRansOne + 1> savings{};  // by f; without a meaning for 0
  for (uint64_t f = 1; f < savings.size(); ++f) savings[f] = saving_of(f);
  return savings;
}();

// Probabilities on their way to the least coded size, which is convex in each of them: it is
// reached when no unit is worth more at another symbol. REQUIRES: the last count is not 0.
class Rounding {
 public:
  explicit Rounding(std::span<const uint64_t> counts)
      : counts_(counts),
        frequencies_(counts.size()),
        gains_(counts.size()),
        losses_(counts.size()) {
    const uint64_t total = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
    for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
      losses_[symbol] = kNever;
      if (counts[symbol] > 0) set(symbol, std::max<uint64_t>(counts[symbol] * kRansOne / total, 1));
    }
  }

  std::vector<uint16_t> round() && {
    auto sum = std::accumulate(frequencies_.begin(), frequencies_.end(), uint32_t{0});
    for (; sum < kRansOne; ++sum) give(most_gained());
    for (; sum > kRansOne; --sum) take(least_lost());
    while (true) {
      const size_t to = most_gained(), from = least_lost();
      if (gains_[to] <= losses_[from]) return std::move(frequencies_);
      give(to);
      take(from);
    }
  }

 private:
  using Saving = unsigned __int128;  // a count of 48 bits times 62 bits
  static constexpr Saving kNever = ~Saving{0};

  size_t most_gained() const { return index(gains_, std::ranges::max_element(gains_)); }
  size_t least_lost() const { return index(losses_, std::ranges::min_element(losses_)); }
  static size_t index(const std::vector<Saving>& savings, std::vector<Saving>::const_iterator at) {
    return static_cast<size_t>(at - savings.begin());
  }
  void give(size_t symbol) { set(symbol, frequencies_[symbol] + 1u); }
  void take(size_t symbol) { set(symbol, frequencies_[symbol] - 1u); }
  void set(size_t symbol, uint64_t frequency) {
    frequencies_[symbol] = static_cast<uint16_t>(frequency);
    gains_[symbol] = Saving{counts_[symbol]} * kSavings[frequency];
    losses_[symbol] = frequency == 1 ? kNever : Saving{counts_[symbol]} * kSavings[frequency - 1];
  }

  std::span<const uint64_t> counts_;
  std::vector<uint16_t> frequencies_;
  std::vector<Saving> gains_, losses_;  // of one unit more, and of one unit less
};

}  // namespace

std::vector<uint16_t> rans_frequencies(std::span<const uint64_t> counts) {
  while (!counts.empty() && counts.back() == 0) counts = counts.first(counts.size() - 1);
  if (counts.empty()) return {static_cast<uint16_t>(kRansOne)};
  return Rounding(counts).round();
}

void put_frequencies(BitWriter& out, std::span<const uint16_t> frequencies) {
  out.put_gamma(frequencies.size());
  int before = kWidthBeforeTheFirst;
  for (const uint16_t frequency : frequencies.first(frequencies.size() - 1)) {
    const int width = width_of(frequency);
    out.put_gamma(1 + zigzag(width - before));
    if (width > 1) out.put(frequency & ((1u << (width - 1)) - 1), width - 1);
    before = width;
  }
}

uint64_t frequencies_size_bits(std::span<const uint16_t> frequencies) {
  const auto gamma_bits = [](uint64_t x) {
    return 2 * static_cast<uint64_t>(std::bit_width(x)) - 1;
  };
  uint64_t bits = gamma_bits(frequencies.size());
  int before = kWidthBeforeTheFirst;
  for (const uint16_t frequency : frequencies.first(frequencies.size() - 1)) {
    const int width = width_of(frequency);
    bits += gamma_bits(1 + zigzag(width - before)) + static_cast<uint64_t>(std::max(width - 1, 0));
    before = width;
  }
  return bits;
}

std::vector<uint16_t> get_frequencies(BitReader& in, int64_t alphabet,
                                      std::optional<std::string>& problem) {
  const auto size = static_cast<int64_t>(in.get_gamma());
  if (size < 1 || size > alphabet) {
    problem = text("1 to ", alphabet, " probabilities, got ", size);
    return {};
  }
  std::vector<uint16_t> frequencies;
  uint32_t sum = 0;
  int width = kWidthBeforeTheFirst;
  for (int64_t symbol = 0; symbol + 1 < size; ++symbol) {
    const auto zigzagged = static_cast<int>(in.get_gamma()) - 1;
    width += zigzagged % 2 == 0 ? zigzagged / 2 : -(zigzagged + 1) / 2;
    if (zigzagged < 0 || width < 0 || width > kRansBits) {
      problem = text("probabilities of 0..", kRansBits, " bits, got another of symbol ", symbol);
      return {};
    }
    uint64_t frequency = width == 0 ? 0 : uint64_t{1} << (width - 1);
    if (width > 1) frequency |= in.get(width - 1);
    frequencies.push_back(static_cast<uint16_t>(frequency));
    sum += static_cast<uint32_t>(frequency);
  }
  if (sum >= kRansOne) {
    problem =
        text("probabilities that leave some for the last symbol, got ", sum, " of ", kRansOne);
    return {};
  }
  frequencies.push_back(static_cast<uint16_t>(kRansOne - sum));
  return frequencies;
}

}  // namespace pomona
