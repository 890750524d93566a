#pragma once
// What the buffers of all packed layouts have in common: their first eight bytes.

#include <cstdint>

namespace pomona {

inline constexpr uint32_t kPackedMagic =
    0x6b706d70;  // "pmpk"; then a byte for the layout, the version

}  // namespace pomona
