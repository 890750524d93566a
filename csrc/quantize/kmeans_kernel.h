#pragma once
// What Sharer needs of k-means beside pomona/codebook.h. No torch. (Exported from one library of
// ours to the other; not installed.)

#include "pomona/codebook.h"

namespace pomona {

// Drops the entries that no code names and renumbers the codes: rounding a codebook to a narrower
// dtype can leave an entry without members, and a mean over none is NaN.
POMONA_API void drop_unused(std::vector<uint8_t>& codes, std::vector<float>& entries);

// Who is in each cluster: how many, and the first of them (-1 where there is none).
struct Members {
  std::vector<double> counts;
  std::vector<int64_t> first;
};

// Cluster c of group g is g * k + c; `group` elements in a row are one group. REQUIRES: codes are
// below k, group >= 1.
POMONA_API Members members_of(std::span<const uint8_t> codes, int64_t k, int64_t group);

}  // namespace pomona
