#pragma once
// CRC-32C (Castagnoli): reflected polynomial 0x82F63B78, start and final xor 0xFFFFFFFF. It finds
// every burst of up to 32 bits and any other damage but one in 2^32.

#include "pomona/export.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona {

// crc32c("123456789") == 0xE3069283; crc32c("6789", crc32c("12345")) as well. Uses the CPU's
// instruction where there is one.
POMONA_API uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

// The same without the instruction: eight bytes a step from eight tables.
POMONA_API uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace pomona
