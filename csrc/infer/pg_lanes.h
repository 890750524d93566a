#pragma once
// Permute-gather tiles: which lane takes which nonzeros. Rows are sorted by their nonzeros within
// blocks of 512, so that the lanes of a group are about as long; a row much longer than its
// neighbours is split over several lanes.

#include "pomona/weight.h"

#include "infer/pg_layout.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// The nonzeros of a matrix, row after row. Code 0: its value has no code, so it always spills.
struct PgEntries {
  std::vector<int64_t> starts;  // rows + 1
  std::vector<uint32_t> columns;
  std::vector<uint8_t> codes;
  std::vector<float> code_values;  // [0] is 0
};

// A row, or a part of one.
struct PgLane {
  uint32_t row = kPgNoRow;
  int64_t begin = 0, end = 0;  // its nonzeros
  int64_t size() const { return end - begin; }
};

struct PgDeal {
  std::vector<PgLane> lanes;  // 64 of each group
  std::vector<PgGroup> groups;
  std::vector<uint32_t> blocks;  // the first group of each 512 rows, and an end
};

// How many nonzeros have a value without a code, when there are so many codes, 0 among them.
int64_t pg_nonzeros_without_code(const Weight& matrix, int codes);
// The most frequent values get the codes, ascending. REQUIRES: the matrix is shared.
PgEntries make_pg_entries(const Weight& matrix, int codes);
PgDeal deal_pg_lanes(const PgEntries& entries);

}  // namespace pomona
