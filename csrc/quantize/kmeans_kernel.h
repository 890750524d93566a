#pragma once
// What Sharer needs of k-means beside pomona/codebook.h. No torch. (Exported from one library of
// ours to the other; not installed.)

#include "pomona/codebook.h"

namespace pomona {

// assign_codes, then drops the entries that no value takes and renumbers the codes: rounding a
// codebook to a narrower dtype can leave an entry without members, and a mean over none is NaN.
POMONA_API std::vector<uint8_t> assign_used_codes(std::span<const float> values,
                                                  std::vector<float>& codebook);

// Who is in each cluster: how many, and the first of them (-1 where there is none).
struct Members {
  std::vector<double> counts;
  std::vector<int64_t> first;
};
// REQUIRES: codes are below k.
POMONA_API Members members_of(std::span<const uint8_t> codes, int64_t k);

}  // namespace pomona
