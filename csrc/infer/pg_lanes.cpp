#include "infer/pg_lanes.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>

namespace pomona {
namespace {

// A row longer than this many times the mean of its block is split: where there are few groups, and
// so nobody as long beside it; and where there are many.
constexpr double kLongOfFew = 1.5, kLongOfMany = 12;
constexpr double kShortestOfFew = 8, kShortestOfMany = 64;

// The codes of the centroids; 0 for those that have none.
struct Chosen {
  std::vector<float> values;     // [code]
  std::vector<uint8_t> code_of;  // [centroid]
  int64_t without = 0;           // nonzeros that have no code
};

// How many nonzeros each centroid has. By turns in four counters, so that one does not wait for
// another of the same code.
std::array<int64_t, 256> counts_of(std::span<const uint8_t> codes) {
  std::array<std::array<uint32_t, 256>, 4> turns{};
  for (size_t i = 0; i < codes.size(); ++i) ++turns[i % 4][codes[i]];
  std::array<int64_t, 256> counts{};
  for (size_t c = 0; c < counts.size(); ++c) {
    for (const auto& turn : turns) counts[c] += turn[c];
  }
  return counts;
}

Chosen choose_codes(const Weight& matrix, int codes) {
  const auto& codebook = matrix.codebook;
  const auto counts = counts_of(matrix.codes);
  std::vector<size_t> order(codebook.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  Chosen chosen{.values = {0.0f}, .code_of = std::vector<uint8_t>(codebook.size())};
  while (order.size() > static_cast<size_t>(codes - 1)) {
    chosen.without += counts[order.back()];
    order.pop_back();
  }
  std::ranges::sort(order);
  for (const size_t centroid : order) {
    chosen.code_of[centroid] = static_cast<uint8_t>(chosen.values.size());
    chosen.values.push_back(codebook[centroid]);
  }
  return chosen;
}

void append_row(uint32_t row, int64_t begin, int64_t end, int64_t most,
                std::vector<PgLane>& lanes) {
  const int64_t size = end - begin, parts = std::max<int64_t>(1, (size + most - 1) / most);
  for (int64_t p = 0; p < parts; ++p) {
    lanes.push_back({row, begin + size * p / parts, begin + size * (p + 1) / parts});
  }
}

// The lanes of a block of rows, longest first.
std::vector<PgLane> lanes_of_block(const PgEntries& entries, int64_t first, int64_t last) {
  const auto start = [&](int64_t row) { return entries.starts[static_cast<size_t>(row)]; };
  const double mean = static_cast<double>(start(last) - start(first)) /
                      static_cast<double>(std::max<int64_t>(1, last - first));
  const double most = last - first <= 2 * kPgLanes ? std::max(kShortestOfFew, kLongOfFew * mean)
                                                   : std::max(kShortestOfMany, kLongOfMany * mean);
  std::vector<PgLane> lanes;
  for (int64_t row = first; row < last; ++row) {
    append_row(static_cast<uint32_t>(row), start(row), start(row + 1), static_cast<int64_t>(most),
               lanes);
  }
  std::ranges::stable_sort(lanes,
                           [](const PgLane& a, const PgLane& b) { return a.size() > b.size(); });
  return lanes;
}

}  // namespace

int64_t pg_nonzeros_without_code(const Weight& matrix, int codes) {
  return choose_codes(matrix, codes).without;
}

PgEntries make_pg_entries(const Weight& matrix, int codes) {
  const auto chosen = choose_codes(matrix, codes);
  const size_t count = matrix.codes.size();
  PgEntries entries{.starts = std::vector<int64_t>(static_cast<size_t>(matrix.shape[0]) + 1),
                    .columns = std::vector<uint32_t>(count),
                    .codes = std::vector<uint8_t>(count),
                    .code_values = chosen.values};
  const auto cols = static_cast<size_t>(matrix.shape[1]);
  size_t e = 0, row = 0, row_begin = 0;
  for_each_kept(matrix.mask, [&](size_t i) {
    while (i - row_begin >= cols)
      entries.starts[++row] = static_cast<int64_t>(e), row_begin += cols;
    entries.columns[e] = static_cast<uint32_t>(i - row_begin);
    entries.codes[e] = chosen.code_of[matrix.codes[e]];
    ++e;
  });
  std::fill(entries.starts.begin() + static_cast<std::ptrdiff_t>(row) + 1, entries.starts.end(),
            static_cast<int64_t>(e));
  return entries;
}

PgDeal deal_pg_lanes(const PgEntries& entries) {
  PgDeal deal;
  deal.blocks = {0};
  const int64_t rows = std::ssize(entries.starts) - 1;
  for (int64_t first = 0; first < rows; first += kPgBlockRows) {
    auto lanes = lanes_of_block(entries, first, std::min(first + kPgBlockRows, rows));
    for (size_t begin = 0; begin < lanes.size(); begin += kPgLanes) {
      const size_t count = std::min<size_t>(kPgLanes, lanes.size() - begin);
      deal.groups.push_back({.vectors = static_cast<uint32_t>((count + 15) / 16)});
    }
    lanes.resize((lanes.size() + kPgLanes - 1) / kPgLanes * kPgLanes);
    deal.lanes.insert(deal.lanes.end(), lanes.begin(), lanes.end());
    deal.blocks.push_back(static_cast<uint32_t>(deal.groups.size()));
  }
  return deal;
}

}  // namespace pomona
