#include "format/weight_rows.h"

#include "base/count_bits.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <span>
#include <vector>

namespace pomona {
namespace {

int64_t kept_before(const Mask& mask, int64_t end) {
  const auto words = mask.words();
  const int64_t kept = count_bits(words.first(static_cast<size_t>(end / 64)));
  if (end % 64 == 0) return kept;
  const uint64_t first_bits = (uint64_t{1} << (end % 64)) - 1;
  return kept + std::popcount(words[static_cast<size_t>(end / 64)] & first_bits);
}

Mask bits_of(const Mask& mask, int64_t begin, int64_t end) {
  const auto words = mask.words();
  std::vector<uint64_t> cut(static_cast<size_t>((end - begin + 63) / 64));
  const auto first = static_cast<size_t>(begin / 64);
  const auto shift = static_cast<unsigned>(begin % 64);
  for (size_t w = 0; w < cut.size(); ++w) {
    cut[w] = words[first + w] >> shift;
    if (shift != 0 && first + w + 1 < words.size()) cut[w] |= words[first + w + 1] << (64 - shift);
  }
  return {end - begin, std::move(cut)};
}

template <class Element>
std::vector<Element> between(const std::vector<Element>& elements, int64_t begin, int64_t end) {
  return {elements.begin() + begin, elements.begin() + end};
}

}  // namespace

Weight rows_of(const Weight& weight, int64_t first, int64_t last) {
  Weight rows{.name = weight.name, .dtype = weight.dtype, .shape = weight.shape};
  const int64_t of_row = weight.shape[0] == 0 ? 0 : weight.numel() / weight.shape[0];
  rows.shape[0] = last - first;
  rows.group = weight.group;
  const int64_t begin = first * of_row, end = last * of_row;
  rows.mask = bits_of(weight.mask, begin, end);
  const int64_t kept_begin = kept_before(weight.mask, begin);
  const int64_t kept_end = kept_before(weight.mask, end);
  if (!weight.is_shared()) {
    const int64_t item = item_size(weight.dtype);
    rows.values = between(weight.values, kept_begin * item, kept_end * item);
    return rows;
  }
  rows.codes = between(weight.codes, kept_begin, kept_end);
  const int64_t entries = weight.centroids();
  rows.codebook = weight.group == 0 ? weight.codebook
                                    : between(weight.codebook, begin / weight.group * entries,
                                              (end + weight.group - 1) / weight.group * entries);
  if (rows.group >= end - begin) rows.group = 0;  // one is left
  return rows;
}

}  // namespace pomona
