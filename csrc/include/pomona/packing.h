#pragma once
// How matrices are packed whose layout nobody has chosen, and straight from a file. No torch.

#include "pomona/export.h"
#include "pomona/file.h"
#include "pomona/packed.h"
#include "pomona/parallel.h"
#include "pomona/weight.h"

#include <optional>
#include <string_view>
#include <vector>

namespace pomona {

struct Packing {
  // None: for each matrix the one that is likely fastest on this machine.
  std::optional<Layout> layout{};
  Precision precision = Precision::kFloat32;
};

// `precision`, or kFloat32 where this processor has no instructions for it (fast_precisions()).
POMONA_API Precision fast_or_float32(Precision precision);

// pack() in the layout of `packing`. Throws InvalidArgument as pack(), also where no layout can
// hold the matrix in this precision.
POMONA_API Packed pack_fastest(const Weight& weight, const Packing& packing = {},
                               const ParallelFor& parallel_for = {});

// A matrix of a file as packed bytes; the dense weight is never made. Where no layout was chosen
// and none can hold it in this precision, in float32. Throws as pack_fastest() and
// FileReader::read().
POMONA_API Packed read_packed(const FileReader& reader, std::string_view name,
                              const Packing& packing = {}, const ParallelFor& parallel_for = {});
// The same of a matrix that is several, one above the other: parts of as many rows each. Throws
// InvalidArgument as well unless `parts` divides its rows.
POMONA_API std::vector<Packed> read_packed_parts(const FileReader& reader, std::string_view name,
                                                 int64_t parts, const Packing& packing = {},
                                                 const ParallelFor& parallel_for = {});
// The same for a table whose rows are looked up (pack_rows).
POMONA_API Packed read_packed_rows(const FileReader& reader, std::string_view name,
                                   const ParallelFor& parallel_for = {});

// Whether load_packed_ packs a matrix: one in float32, float16 or bfloat16 that is shared, or keeps
// at most half of its values.
POMONA_API bool is_worth_packing(const FileEntry& matrix);
// Whether it packs a table: one that is_worth_packing(), if that takes less memory than the table.
POMONA_API bool is_worth_packing_rows(const FileEntry& table);

}  // namespace pomona
