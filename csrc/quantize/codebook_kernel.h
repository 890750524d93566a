#pragma once
// The loops of `lookup` and `centroid_grad` (thesis §4.3: forward W = C[I], backward the sum over
// each cluster). No torch.
//
// Codes of 1, 2, 4 or 8 bits lie in bytes, low bits first, so eight codes are always `bits` whole
// bytes:
//
//   bits = 4    byte 0: code 1 | code 0    byte 1: code 3 | code 2    ...
//
// Elements are looked up as bit patterns by their size, so one loop serves every dtype.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace pomona {

inline constexpr int64_t kCodeValues = 256;  // of a byte, and of the longest codebook
// Accumulators that take turns, so that equal codes in a row do not wait for one another's sum.
inline constexpr int64_t kCopies = 8;
// What one accumulator adds up in its own precision before chunks are added in double. A multiple
// of 8, so that a chunk begins at a byte. Fixed: the sum must not depend on the number of threads.
inline constexpr int64_t kChunk = 1 << 16;

constexpr int64_t chunk_count(int64_t elements) {
  return (elements + kChunk - 1) / kChunk;
}

// out[i] = table[code i]. The table has an entry for every byte (NaN past the codebook), so no code
// reads outside it. REQUIRES: 8 * codes.size() >= kBits * out.size().
template <int kBits, class Element>
void lookup_codes(std::span<const Element, kCodeValues> table, std::span<const uint8_t> codes,
                  std::span<Element> out) {
  constexpr size_t kPerByte = 8 / kBits;
  using Group = std::array<Element, kPerByte>;
  std::array<Group, kCodeValues> expanded;  // the elements of all codes in a byte
  for (size_t byte = 0; byte < kCodeValues; ++byte) {
    for (size_t j = 0; j < kPerByte; ++j) {
      expanded[byte][j] = table[(byte >> (j * kBits)) & ((1 << kBits) - 1)];
    }
  }
  const size_t whole = out.size() / kPerByte;
  for (size_t i = 0; i < whole; ++i) {
    std::memcpy(&out[i * kPerByte], &expanded[codes[i]], sizeof(Group));
  }
  for (size_t i = whole * kPerByte; i < out.size(); ++i) {
    out[i] = expanded[codes[whole]][i - whole * kPerByte];
  }
}

// sums[code i] += grad[i], over one chunk. REQUIRES: 8 * codes.size() >= kBits * grad.size().
template <int kBits, class Grad, class Sum>
void add_chunk(std::span<const Grad> grad, std::span<const uint8_t> codes,
               std::span<Sum, kCodeValues> sums) {
  const auto code_of = [&](size_t group, size_t j) {
    const unsigned byte = codes[group * kBits + j * kBits / 8];
    return (byte >> (j * kBits % 8)) & ((1u << kBits) - 1);
  };
  std::array<std::array<Sum, kCodeValues>, kCopies> copies{};
  const size_t whole = grad.size() / 8;
  for (size_t group = 0; group < whole; ++group) {
    for (size_t j = 0; j < 8; ++j) {
      copies[j % kCopies][code_of(group, j)] += static_cast<Sum>(grad[group * 8 + j]);
    }
  }
  for (size_t i = whole * 8; i < grad.size(); ++i) {
    copies[0][code_of(whole, i - whole * 8)] += static_cast<Sum>(grad[i]);
  }
  for (size_t code = 0; code < kCodeValues; ++code) {
    Sum sum = 0;
    for (const auto& copy : copies) sum += copy[code];
    sums[code] = sum;
  }
}

// Calls f with `bits` as a constant. REQUIRES: bits is 1, 2, 4 or 8.
template <class Function>
void with_bits(int64_t bits, const Function& f) {
  switch (bits) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    default:
      return f(std::integral_constant<int, 8>{});
  }
}

// Elements `begin` to `end` of lookup. REQUIRES: begin * bits is a multiple of 8.
template <class Element>
void lookup_range(std::span<const Element, kCodeValues> table, std::span<const uint8_t> codes,
                  int64_t bits, std::span<Element> out, int64_t begin, int64_t end) {
  const auto first = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
  with_bits(bits, [&](auto constant) {
    lookup_codes<constant()>(table, codes.subspan(first * constant() / 8),
                             out.subspan(first, count));
  });
}

// Chunks `begin` to `end` of centroid_grad: partials[chunk][code]. REQUIRES: partials.size() ==
// chunk_count(grad.size()) * kCodeValues.
template <class Grad, class Sum>
void add_chunks(std::span<const Grad> grad, std::span<const uint8_t> codes, int64_t bits,
                std::span<Sum> partials, int64_t begin, int64_t end) {
  with_bits(bits, [&](auto constant) {
    for (auto chunk = static_cast<size_t>(begin); chunk < static_cast<size_t>(end); ++chunk) {
      const size_t first = chunk * kChunk;
      const size_t count = std::min<size_t>(kChunk, grad.size() - first);
      add_chunk<constant()>(grad.subspan(first, count), codes.subspan(first * constant() / 8),
                            std::span<Sum, kCodeValues>(&partials[chunk * kCodeValues],
                                                        static_cast<size_t>(kCodeValues)));
    }
  });
}

// sums[code] = the chunks' partial sums in their order; codes from sums.size() on are dropped.
template <class Sum>
void add_partials(std::span<const Sum> partials, std::span<Sum> sums) {
  for (size_t code = 0; code < sums.size(); ++code) {
    double sum = 0;
    for (size_t i = code; i < partials.size(); i += kCodeValues) sum += double{partials[i]};
    sums[code] = static_cast<Sum>(sum);
  }
}

}  // namespace pomona
