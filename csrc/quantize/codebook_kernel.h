#pragma once
// The loops of `lookup` and `centroid_grad` (thesis §4.3: forward W = C[I], backward the sum over
// each cluster). No torch.
//
// Codes of 1, 2, 4 or 8 bits lie in bytes, low bits first, so eight codes are always `bits` whole
// bytes:
//
//   bits = 4    byte 0: code 1 | code 0    byte 1: code 3 | code 2    ...
//
// `group` elements in a row share a codebook of k entries; the last group may be shorter. Elements
// are looked up as bit patterns by their size, so one loop serves every dtype.

#include "pomona/export.h"

#include "base/isa.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace pomona {

inline constexpr int64_t kCodeValues = 256;  // of a byte, and of the longest codebook
// What one accumulator adds up in its own precision before chunks are added in double. Fixed: the
// sum must not depend on the number of threads.
inline constexpr int64_t kChunk = 1 << 16;

// How elements and codebooks go together.
struct CodeLayout {
  std::span<const uint8_t> codes;  // packed; 8 * codes.size() >= bits * size
  int bits;
  int64_t size;   // elements
  int64_t group;  // elements of a codebook, at least 1
  int64_t k;      // entries of a codebook

  int64_t groups() const { return (size + group - 1) / group; }
  uint8_t code(int64_t i) const {
    const int64_t bit = i * bits;
    const unsigned byte = codes[static_cast<size_t>(bit / 8)];
    return static_cast<uint8_t>((byte >> (bit % 8)) & ((1u << bits) - 1));
  }
};

// out[i - begin] = codebooks[i / group][code i] for i in [begin, end); codes from k on give all
// ones, which is a NaN in every floating-point format. `codebooks` [groups, k]. Element: the
// unsigned integer of an element's size. REQUIRES: has_isa(isa); out holds end - begin elements.
template <class Element>
POMONA_API void lookup_range(std::span<const Element> codebooks, const CodeLayout& layout,
                             Element* out, int64_t begin, int64_t end, Isa isa = Isa::kBest);

// Calls f with `bits` as a constant. REQUIRES: bits is 1, 2, 4 or 8.
template <class Function>
auto with_bits(int64_t bits, const Function& f) {
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

namespace detail {

// sums[code i] += grad[i], for elements that begin at a whole byte of codes. Accumulators take
// turns, so that equal codes in a row do not wait for one another's sum; sixteen codes are read at
// once. (Plain code is the fastest here: comparing with each code in AVX-512, and gathering and
// scattering, take longer.)
template <int kBits, class Grad, class Sum>
void add_codes(std::span<const Grad> grad, const uint8_t* codes, std::span<Sum, kCodeValues> sums) {
  constexpr size_t kCopies = 8, kBlock = 16;
  constexpr unsigned kMask = (1u << kBits) - 1;
  std::array<std::array<Sum, kCodeValues>, kCopies> copies{};
  size_t i = 0;
  for (; i + kBlock <= grad.size(); i += kBlock, codes += 2 * kBits) {
    std::array<uint64_t, 2> words{};
    std::memcpy(words.data(), codes, 2 * kBits);
    for (size_t j = 0; j < kBlock; ++j) {
      const size_t bit = j * kBits;
      const auto code = static_cast<unsigned>(words[bit / 64] >> (bit % 64)) & kMask;
      copies[j % kCopies][code] += static_cast<Sum>(grad[i + j]);
    }
  }
  for (size_t j = 0; i + j < grad.size(); ++j) {
    const unsigned byte = codes[j * kBits / 8];
    copies[0][(byte >> (j * kBits % 8)) & kMask] += static_cast<Sum>(grad[i + j]);
  }
  for (size_t code = 0; code < kCodeValues; ++code) {
    for (const auto& copy : copies) sums[code] += copy[code];
  }
}

}  // namespace detail

// The chunks that sums are split into: those of one group after those of another.
struct Chunks {
  int64_t per_group;
  int64_t count;

  explicit Chunks(const CodeLayout& layout)
      : per_group((std::min(layout.group, std::max<int64_t>(layout.size, 1)) + kChunk - 1) /
                  kChunk),
        count(per_group * layout.groups()) {}
  // The elements of chunk c.
  std::pair<int64_t, int64_t> range(const CodeLayout& layout, int64_t c) const {
    const int64_t first = c / per_group * layout.group;
    const int64_t last = std::min(first + layout.group, layout.size);
    const int64_t begin = std::min(first + c % per_group * kChunk, last);
    return {begin, std::min(begin + kChunk, last)};
  }
};

// partials[chunk][code] = the sum of grad over the chunk, for chunks [begin, end); codes from k on
// are dropped. REQUIRES: partials.size() == Chunks(layout).count * k.
template <class Grad, class Sum>
void add_chunks(const Grad* grad, const CodeLayout& layout, std::span<Sum> partials, int64_t begin,
                int64_t end) {
  constexpr int64_t kShort = 512;  // below, clearing the copies would take longer than the sum
  const Chunks chunks(layout);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const auto range = chunks.range(layout, chunk);
    int64_t i = range.first;
    const int64_t last = range.second;
    std::array<Sum, kCodeValues> sums{};
    const auto add_one = [&] {
      sums[layout.code(i)] += static_cast<Sum>(grad[i]);
      ++i;
    };
    while (i < last && (i * layout.bits % 8 != 0 || last - i < kShort)) add_one();
    if (i < last) {
      with_bits(layout.bits, [&](auto bits) {
        detail::add_codes<bits()>(std::span(grad + i, static_cast<size_t>(last - i)),
                                  layout.codes.data() + i * bits() / 8,
                                  std::span<Sum, kCodeValues>(sums));
      });
    }
    std::copy_n(sums.begin(), layout.k, partials.begin() + chunk * layout.k);
  }
}

// sums[group][code] = the partial sums of the group's chunks, in their order.
template <class Sum>
void add_partials(std::span<const Sum> partials, const CodeLayout& layout, std::span<Sum> sums) {
  const Chunks chunks(layout);
  for (int64_t g = 0; g < layout.groups(); ++g) {
    for (int64_t code = 0; code < layout.k; ++code) {
      double sum = 0;
      for (int64_t c = g * chunks.per_group; c < (g + 1) * chunks.per_group; ++c) {
        sum += double{partials[static_cast<size_t>(c * layout.k + code)]};
      }
      sums[static_cast<size_t>(g * layout.k + code)] = static_cast<Sum>(sum);
    }
  }
}

}  // namespace pomona
