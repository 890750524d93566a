#pragma once
// The loops of `snap_weights_` that codebook_kernel.h has not. No torch.

#include "quantize/codebook_kernel.h"

namespace pomona {

// partials[chunk][code] = the sum of weights[i] - first[cluster of i] over the chunk, in double,
// for chunks [begin, end). Members that are equal stay exactly equal to the first plus the mean of
// these. REQUIRES: codes are below k; first.size() == groups * k.
template <class Float>
void add_distances(const Float* weights, const CodeLayout& layout, std::span<const double> first,
                   std::span<double> partials, int64_t begin, int64_t end) {
  const Chunks chunks(layout);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    std::array<double, kCodeValues> sums{};
    const double* row = first.data() + chunk / chunks.per_group * layout.k;
    const auto [from, last] = chunks.range(layout, chunk);
    for (int64_t i = from; i < last; ++i) {
      const uint8_t code = layout.code(i);
      sums[code] += static_cast<double>(weights[i]) - row[code];
    }
    std::copy_n(sums.begin(), layout.k, partials.begin() + chunk * layout.k);
  }
}

// Whether an element of [begin, end) has other bits than its entry of `codebooks`: -0.0 is not 0.0
// here, and a file would count it as a kept weight.
template <class Element>
bool differs(const Element* elements, std::span<const Element> codebooks, const CodeLayout& layout,
             int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 2048;  // stays in the first cache
  alignas(64) std::array<Element, kBlock> expected;
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t last = std::min(i + kBlock, end);
    lookup_range(codebooks, layout, expected.data(), i, last);
    const auto bytes = static_cast<size_t>(last - i) * sizeof(Element);
    if (std::memcmp(expected.data(), elements + i, bytes) != 0) return true;
  }
  return false;
}

}  // namespace pomona
