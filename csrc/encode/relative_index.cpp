#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/text.h"
#include "encode/gap_symbols.h"

namespace pomona {
namespace {

void check_gap_bits(int gap_bits) {
  if (gap_bits < kMinGapBits || gap_bits > kMaxGapBits) {
    throw InvalidArgument(text("relative index: expected `gap_bits` in ", kMinGapBits, "..",
                               kMaxGapBits, ", got ", gap_bits, "."));
  }
}

[[noreturn]] void refuse(const std::string& what) {
  throw InvalidArgument(text("to_mask: expected ", what, "."));
}

}  // namespace

RelativeIndex relative_index(const Mask& mask, int gap_bits) {
  check_gap_bits(gap_bits);
  RelativeIndex index{.gap_bits = gap_bits};
  index.gaps.reserve(static_cast<size_t>(mask.kept()));
  for_each_gap(mask.words(), [&](uint64_t gap) {
    const uint64_t fillers = gap >> gap_bits;
    index.gaps.insert(index.gaps.end(), fillers, index.filler());
    index.gaps.push_back(static_cast<uint32_t>(gap & (index.filler() - 1u)));
    index.fillers += static_cast<int64_t>(fillers);
  });
  return index;
}

Mask to_mask(const RelativeIndex& index, int64_t size) {
  check_gap_bits(index.gap_bits);
  Mask mask(size, false);
  const uint32_t filler = index.filler();
  int64_t next = 0, fillers = 0;
  for (size_t i = 0; i < index.gaps.size(); ++i) {
    const uint32_t gap = index.gaps[i];
    if (gap > filler) refuse(text("gaps of at most ", filler, ", got ", gap, " at ", i));
    next += gap;
    if (next >= size) refuse(text("positions below ", size, ", got ", next, " at ", i));
    fillers += gap == filler;
    if (gap != filler) mask.set(next++, true);
  }
  if (!index.gaps.empty() && index.gaps.back() == filler)
    refuse("a weight at the end, got a filler");
  if (fillers != index.fillers) refuse(text(index.fillers, " fillers, got ", fillers));
  return mask;
}

int best_gap_bits(const Mask& mask, Coder coder) {
  GapHistogram gaps;
  gaps.add(mask.words());
  return best_gaps(gaps, coder).gap_bits;
}

std::vector<StoredEntry> stored_entries(const RelativeIndex& index,
                                        std::span<const uint8_t> codes) {
  check_gap_bits(index.gap_bits);
  std::vector<StoredEntry> entries;
  entries.reserve(index.gaps.size());
  size_t weight = 0;
  for (const uint32_t gap : index.gaps) {
    const bool is_filler = gap == index.filler();
    if (is_filler) {
      entries.push_back({static_cast<uint16_t>(gap - 1), 0});
    } else if (weight < codes.size()) {
      entries.push_back({static_cast<uint16_t>(gap), static_cast<uint16_t>(codes[weight] + 1)});
    }
    weight += !is_filler;
  }
  if (weight != codes.size()) {
    throw InvalidArgument(
        text("stored_entries: expected `codes` for ", weight, " weights, got ", codes.size(), "."));
  }
  return entries;
}

}  // namespace pomona
