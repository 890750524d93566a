#pragma once
// The codes of a layer by the context coder, bit by bit from the highest. What pays is that weights
// near each other, in a window of a convolution or in the image a first layer looks at, have the
// same sign, and that rows and columns have means and magnitudes of their own. The mask is known,
// so its densities count too. Source: docs/format.md, "Context coder".

#include "pomona/export.h"
#include "pomona/mask.h"

#include "encode/chunks.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// `codes` has one for each kept weight, row-major; with an alphabet of 1 they take no bytes. Throws
// InvalidArgument for an alphabet outside 1..256, a code outside the alphabet, another number of
// codes, or a mask of another size than `shape`.
POMONA_API std::vector<std::byte> encode_codes(std::span<const uint8_t> codes, const Mask& mask,
                                               const CodedMatrix& shape, int64_t alphabet);

// The inverse. Throws CorruptFile (section "symbol stream", offset within `bytes`) for bytes that
// encode_codes would not make.
POMONA_API std::vector<uint8_t> decode_codes_in_context(std::span<const std::byte> bytes,
                                                        const Mask& mask, const CodedMatrix& shape,
                                                        int64_t alphabet);

}  // namespace pomona
