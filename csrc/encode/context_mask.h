#pragma once
// The mask of a layer by the context coder: one decision for each weight of the rows and columns
// that have any. What pays is that pruned layers are far from uniform: neurons and pixels die, rows
// and columns have densities of their own, and in windows and images weights keep together.
// Source: docs/format.md, "Context coder".

#include "pomona/export.h"
#include "pomona/mask.h"

#include "encode/chunks.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// Row by row or column by column, whichever is smaller (a large matrix is judged by the rows in its
// middle). About 75 ns a decision, and as much for each view tried. Throws InvalidArgument unless
// mask.size() == shape.rows * shape.cols.
POMONA_API std::vector<std::byte> encode_mask(const Mask& mask, const CodedMatrix& shape);

// The inverse. `kept` is what mask.kept() was; whether it is so again is for the caller to see.
// About 75 ns a decision; a line without weights takes one. Throws CorruptFile (section "symbol
// stream", offset within `bytes`) for bytes that encode_mask would not make.
POMONA_API Mask decode_mask(std::span<const std::byte> bytes, const CodedMatrix& shape,
                            int64_t kept);

}  // namespace pomona
