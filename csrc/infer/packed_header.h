#pragma once
// What the buffers of all packed layouts have in common: their first eight bytes, and how they are
// refused.

#include "pomona/error.h"
#include "pomona/packed.h"

#include "base/text.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace pomona {

// The arithmetic that a layout's bytes are for.
enum class PackedForm : uint8_t {
  kFloat32 = 0,   // x and codebook in float32
  kBFloat16 = 1,  // pairs of bfloat16
  kBytes = 2,     // bytes of fixed-point numbers
};

inline constexpr uint32_t kPackedMagic = 0x6b706d70;  // "pmpk"; then bytes for layout and version

template <class Got>
[[noreturn]] void refuse_packed(const std::string& condition, const Got& got) {
  throw InvalidArgument(text("check_packed: expected `packed` ", condition, ", got ", got,
                             ". Pack the weight again."));
}

// Throws InvalidArgument unless the buffer holds a header, is aligned to 8 bytes and begins as this
// layout and version do.
void check_packed_start(std::span<const std::byte> bytes, size_t header_bytes, Layout layout,
                        uint8_t version);
// The layout that a buffer of at least eight bytes names; a number that no layout has as it is.
Layout named_layout(std::span<const std::byte> bytes);

}  // namespace pomona
