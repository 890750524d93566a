#include "encode/huffman.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace pomona {
namespace {

constexpr int kLengthBeforeTheFirst = 4;  // lengths are stored as differences; most are near it

struct Leaf {
  uint64_t count;
  size_t symbol;
};

// Ascending by count; among equals the higher symbol first, so that its code is the longer.
std::vector<Leaf> sorted_leaves(std::span<const uint64_t> counts) {
  std::vector<Leaf> leaves;
  for (size_t symbol = counts.size(); symbol-- > 0;) {
    if (counts[symbol] > 0) leaves.push_back({counts[symbol], symbol});
  }
  std::ranges::stable_sort(leaves, {}, &Leaf::count);
  return leaves;
}

// One list of package-merge, ascending by weight: leaves, and pairs of neighbours of the list
// before.
struct MergedList {
  std::vector<uint64_t> weights;
  std::vector<bool> is_leaf;
};

MergedList merge(std::span<const Leaf> leaves, const MergedList& before) {
  MergedList merged;
  const size_t pairs = before.weights.size() / 2;
  for (size_t leaf = 0, pair = 0; leaf < leaves.size() || pair < pairs;) {
    const uint64_t package =
        pair < pairs ? before.weights[2 * pair] + before.weights[2 * pair + 1] : 0;
    const bool takes_leaf =
        pair == pairs || (leaf < leaves.size() && leaves[leaf].count <= package);
    merged.weights.push_back(takes_leaf ? leaves[leaf].count : package);
    merged.is_leaf.push_back(takes_leaf);
    takes_leaf ? ++leaf : ++pair;
  }
  return merged;
}

void check_counts(std::span<const uint64_t> counts, size_t leaves, int limit) {
  constexpr uint64_t kTooMany = uint64_t{1} << 48;
  if (limit < 1 || limit > kMaxLengthAnywhere) {
    throw InvalidArgument(
        text("huffman_lengths: expected `limit` in 1..", kMaxLengthAnywhere, ", got ", limit, "."));
  }
  if (leaves > size_t{1} << limit) {
    throw InvalidArgument(text("huffman_lengths: expected at most ", size_t{1} << limit,
                               " symbols for codes of ", limit, " bits, got ", leaves, "."));
  }
  uint64_t total = 0;
  for (const uint64_t count : counts) {
    total += std::min(count, kTooMany);
    if (total >= kTooMany) {
      throw InvalidArgument("huffman_lengths: expected `counts` that add up to less than 2^48.");
    }
  }
}

uint64_t zigzag(int difference) {
  return static_cast<uint64_t>(difference >= 0 ? 2 * difference : -2 * difference - 1);
}

int gamma_size_bits(uint64_t x) {
  return 2 * static_cast<int>(std::bit_width(x)) - 1;
}

}  // namespace

std::vector<uint8_t> huffman_lengths(std::span<const uint64_t> counts, int limit) {
  const auto leaves = sorted_leaves(counts);
  check_counts(counts, leaves.size(), limit);
  std::vector<uint8_t> lengths(counts.size());
  if (leaves.size() == 1) lengths[leaves[0].symbol] = 1;
  if (leaves.size() <= 1) return lengths;

  std::vector<MergedList> lists(static_cast<size_t>(limit));
  for (size_t level = 0; level < lists.size(); ++level) {
    lists[level] = merge(leaves, level == 0 ? MergedList{} : lists[level - 1]);
  }
  // The 2n - 2 cheapest of the last list; a package among them takes its pair from the list before.
  // Each time that a leaf is taken its code grows by one bit.
  size_t taken = 2 * leaves.size() - 2;
  for (size_t level = lists.size(); level-- > 0;) {
    const auto& is_leaf = lists[level].is_leaf;
    const auto end = is_leaf.begin() + static_cast<std::ptrdiff_t>(taken);
    const auto leaves_taken = static_cast<size_t>(std::count(is_leaf.begin(), end, true));
    for (size_t leaf = 0; leaf < leaves_taken; ++leaf) ++lengths[leaves[leaf].symbol];
    taken = 2 * (taken - leaves_taken);
  }
  return lengths;
}

std::optional<size_t> lone_symbol(std::span<const uint8_t> lengths) {
  const auto has_code = [](uint8_t length) { return length > 0; };
  if (std::ranges::count_if(lengths, has_code) != 1) return std::nullopt;
  return static_cast<size_t>(std::ranges::find_if(lengths, has_code) - lengths.begin());
}

std::optional<std::string> problem_of(std::span<const uint8_t> lengths) {
  uint64_t sum = 0;  // of 2^-length, in units of 2^-kMaxLengthAnywhere
  for (const uint8_t length : lengths) {
    if (length > kMaxLengthAnywhere) {
      return text("code lengths of at most ", kMaxLengthAnywhere, ", got ", int{length});
    }
    if (length > 0) sum += uint64_t{1} << (kMaxLengthAnywhere - length);
  }
  if (const auto symbol = lone_symbol(lengths)) {
    if (lengths[*symbol] == 1) return std::nullopt;
    return text("length 1 for a single symbol, got ", int{lengths[*symbol]});
  }
  constexpr uint64_t kOne = uint64_t{1} << kMaxLengthAnywhere;
  if (sum > kOne) return "a complete Huffman code, got an over-subscribed one";
  if (sum < kOne) return "a complete Huffman code, got an under-subscribed one";
  return std::nullopt;
}

std::vector<uint16_t> canonical_codes(std::span<const uint8_t> lengths) {
  if (const auto problem = problem_of(lengths)) {
    throw InvalidArgument(text("canonical_codes: expected ", *problem, "."));
  }
  std::array<uint32_t, kMaxLengthAnywhere + 2> next{};  // the next code of each length
  for (const uint8_t length : lengths) next[length + 1u] += length > 0;
  // next[length + 1] counts codes of `length`: the first code of a length follows the last of the
  // length before, shifted.
  for (size_t length = 1; length < next.size(); ++length) {
    next[length] = (next[length] + next[length - 1]) << 1;
  }
  std::vector<uint16_t> codes(lengths.size());
  for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
    if (lengths[symbol] > 0) codes[symbol] = static_cast<uint16_t>(next[lengths[symbol]]++);
  }
  return codes;
}

std::vector<uint16_t> reversed_codes(std::span<const uint8_t> lengths) {
  auto codes = canonical_codes(lengths);
  for (size_t symbol = 0; symbol < codes.size(); ++symbol) {
    uint32_t reversed = 0;
    for (int bit = 0; bit < lengths[symbol]; ++bit) {
      reversed = (reversed << 1) | ((uint32_t{codes[symbol]} >> bit) & 1);
    }
    codes[symbol] = static_cast<uint16_t>(reversed);
  }
  return codes;
}

void put_lengths(BitWriter& out, std::span<const uint8_t> lengths) {
  out.put_gamma(lengths.size());
  int before = kLengthBeforeTheFirst;
  for (const uint8_t length : lengths) {
    out.put_gamma(1 + zigzag(length - before));
    before = length;
  }
}

uint64_t lengths_size_bits(std::span<const uint8_t> lengths) {
  auto bits = static_cast<uint64_t>(gamma_size_bits(lengths.size()));
  int before = kLengthBeforeTheFirst;
  for (const uint8_t length : lengths) {
    bits += static_cast<uint64_t>(gamma_size_bits(1 + zigzag(length - before)));
    before = length;
  }
  return bits;
}

std::vector<uint8_t> get_lengths(BitReader& in, int64_t alphabet,
                                 std::optional<std::string>& problem) {
  const auto size = static_cast<int64_t>(in.get_gamma());
  if (size < 1 || size > alphabet) {
    problem = text("1 to ", alphabet, " code lengths, got ", size);
    return {};
  }
  std::vector<uint8_t> lengths;
  int length = kLengthBeforeTheFirst;
  for (int64_t symbol = 0; symbol < size; ++symbol) {
    const auto zigzagged = static_cast<int>(in.get_gamma()) - 1;
    length += zigzagged % 2 == 0 ? zigzagged / 2 : -(zigzagged + 1) / 2;
    if (zigzagged < 0 || length < 0 || length > kMaxCodeLength) {
      problem = text("code lengths in 0..", kMaxCodeLength, ", got another for symbol ", symbol);
      return {};
    }
    lengths.push_back(static_cast<uint8_t>(length));
  }
  problem = lengths.back() == 0 ? "a code for the last symbol of the table, got none"
                                : problem_of(lengths);
  return lengths;
}

}  // namespace pomona
