#pragma once
// Codes of 1, 2, 4 or 8 bits in bytes, low bits first: what the compact layers and `lookup` hold.

#include "pomona/export.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// Bytes that `count` codes of `bits` bits take. Throws InvalidArgument unless bits is 1, 2, 4 or 8.
POMONA_API int64_t packed_size(int64_t count, int bits);
// The least of 1, 2, 4, 8 that holds codes below `k`. Throws InvalidArgument unless 1 <= k <= 256.
POMONA_API int storage_bits(int64_t k);
// Throws InvalidArgument when a code does not fit.
POMONA_API std::vector<uint8_t> pack_bits(std::span<const uint8_t> codes, int bits);
POMONA_API std::vector<uint8_t> unpack_bits(std::span<const uint8_t> packed, int64_t count,
                                            int bits);

}  // namespace pomona
