#include "encode/rans.h"
#include "encode/rans_kernel.h"

#include <cstring>

namespace pomona {
namespace {

constexpr int kReciprocalBits = 44;

}  // namespace

RansEncoder::RansEncoder(std::span<const uint16_t> frequencies) {
  uint32_t before = 0;
  for (size_t symbol = 0; symbol < frequencies.size(); ++symbol) {
    const uint32_t frequency = frequencies[symbol];
    is_lone_ |= frequency == kRansOne;
    if (frequency == 0) continue;
    const uint64_t one = uint64_t{1} << kReciprocalBits;
    symbols_[symbol] = {frequency, before, (one + frequency - 1) / frequency};
    before += frequency;
  }
}

// As in decode_steps no branch depends on whether a word leaves the state: it is written anyhow,
// and counts or not.
inline uint32_t RansEncoder::put_symbol(const Symbol& symbol, uint32_t state, std::byte*& front) {
  const auto word = static_cast<uint16_t>(state);
  std::memcpy(front - sizeof word, &word, sizeof word);
  const uint32_t is_full = state >> (32 - kRansBits) >= symbol.frequency;
  front -= is_full * sizeof word;
  state >>= is_full * kRansWordBits;
  // Exact: state < frequency * 2^20 and frequency < 2^12.
  const auto quotient = static_cast<uint32_t>(state * symbol.reciprocal >> kReciprocalBits);
  return state + symbol.before + quotient * (kRansOne - symbol.frequency);
}

std::vector<std::byte> RansEncoder::encode(std::span<const uint8_t> symbols) const {
  if (is_lone_ || symbols.empty()) return {};
  const size_t lanes = rans_lanes(symbols.size());
  std::array<uint32_t, kMostRansLanes> states;
  states.fill(kLowestRansState);
  // From the last symbol to the first, and the words from the back to the front.
  std::vector<std::byte> bytes(lanes * sizeof(uint32_t) + symbols.size() * sizeof(uint16_t));
  std::byte* front = bytes.data() + bytes.size();
  const size_t whole = symbols.size() / lanes * lanes;
  for (size_t i = symbols.size(); i-- > whole;) {
    states[i - whole] = put_symbol(symbols_[symbols[i]], states[i - whole], front);
  }
  for (size_t i = whole; i > 0;) {
    for (size_t lane = lanes; lane-- > 0;) {
      states[lane] = put_symbol(symbols_[symbols[--i]], states[lane], front);
    }
  }
  front -= lanes * sizeof(uint32_t);
  std::memcpy(front, states.data(), lanes * sizeof(uint32_t));
  bytes.erase(bytes.begin(), bytes.begin() + (front - bytes.data()));
  return bytes;
}

}  // namespace pomona
