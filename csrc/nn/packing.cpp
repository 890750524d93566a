#include "pomona/packing.h"

#include "pomona/error.h"

#include "base/text.h"
#include "format/weight_rows.h"
#include "infer/csr16_kernel.h"
#include "infer/float_weight.h"
#include "infer/lut_layout.h"

#include <algorithm>

namespace pomona {
namespace {

// A matrix that keeps more than this and shares nothing is loaded as it is.
constexpr double kMostKept = 0.5;

std::optional<PackOptions> likely_fastest(const Weight& weight, Precision precision) {
  const auto found = layouts_for(weight, precision);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

Packed pack_or_float32(const Weight& weight, const Packing& packing,
                       const ParallelFor& parallel_for) {
  if (packing.layout) return pack_fastest(weight, packing, parallel_for);
  const auto found = likely_fastest(weight, packing.precision);
  return found ? pack(weight, *found, parallel_for) : pack_fastest(weight, {}, parallel_for);
}

bool is_shared(const FileEntry& entry) {
  return entry.centroids > 0 && !entry.is_plain;
}

// About what pack_rows() would make: compressed rows, or a code for each weight.
int64_t packed_row_bytes(const FileEntry& table) {
  constexpr int64_t kStartBytes = 8, kColumnBytes = 2, kFloatBytes = 4, kMostValues = 256;
  const int64_t rows = table.shape[0], cols = table.shape[1];
  const bool has_codes = is_shared(table) && table.group == 0;
  const int64_t entry_bytes = kColumnBytes + (has_codes ? 1 : kFloatBytes);
  const auto sparse = static_cast<int64_t>(sizeof(Csr16Header)) +
                      kStartBytes * (rows * csr16_panels(cols) + 1) + entry_bytes * table.kept +
                      kFloatBytes * (has_codes ? table.centroids : 0);
  const int64_t values = table.centroids + (table.kept < table.numel ? 1 : 0);
  if (!has_codes || values > kMostValues) return sparse;
  return std::min(sparse, lut_bytes(rows, cols, values));
}

}  // namespace

Precision fast_or_float32(Precision precision) {
  const auto fast = fast_precisions();
  const bool is_fast = std::ranges::find(fast, precision) != fast.end();
  return is_fast ? precision : Precision::kFloat32;
}

Packed pack_fastest(const Weight& weight, const Packing& packing, const ParallelFor& parallel_for) {
  if (packing.layout) {
    return pack(weight, {.layout = *packing.layout, .precision = packing.precision}, parallel_for);
  }
  if (const auto found = likely_fastest(weight, packing.precision)) {
    return pack(weight, *found, parallel_for);
  }
  // Its error says why not.
  const bool is_tiles = packing.precision == Precision::kBFloat16;
  return pack(weight,
              {.layout = is_tiles ? Layout::kPg32 : Layout::kPgv, .precision = packing.precision});
}

Packed read_packed(const FileReader& reader, std::string_view name, const Packing& packing,
                   const ParallelFor& parallel_for) {
  return pack_or_float32(reader.read(name, parallel_for), packing, parallel_for);
}

std::vector<Packed> read_packed_parts(const FileReader& reader, std::string_view name,
                                      int64_t parts, const Packing& packing,
                                      const ParallelFor& parallel_for) {
  Weight weight = reader.read(name, parallel_for);
  if (weight.shape.empty() || parts < 1 || weight.shape[0] % parts != 0) {
    throw InvalidArgument(text("read_packed_parts: expected `parts` to divide the rows of `", name,
                               "`, got ", parts, "."));
  }
  const int64_t rows = weight.shape[0] / parts;
  // A codebook of several that would be cut has no half: then each weight has its value.
  const bool is_cut = weight.group != 0 && weight.numel() / parts % weight.group != 0;
  if (parts > 1 && is_cut) weight = float_weight(weight);
  std::vector<Packed> packed;
  for (int64_t part = 0; part < parts; ++part) {
    const Weight cut = parts == 1 ? weight : rows_of(weight, part * rows, (part + 1) * rows);
    packed.push_back(pack_or_float32(cut, packing, parallel_for));
  }
  return packed;
}

Packed read_packed_rows(const FileReader& reader, std::string_view name,
                        const ParallelFor& parallel_for) {
  return pack_rows(reader.read(name, parallel_for));
}

bool is_worth_packing(const FileEntry& matrix) {
  const bool is_packable = matrix.dtype == DType::kFloat32 || matrix.dtype == DType::kFloat16 ||
                           matrix.dtype == DType::kBFloat16;
  if (matrix.numel == 0 || matrix.shape.size() != 2 || !is_packable) return false;
  return is_shared(matrix) ||
         static_cast<double>(matrix.kept) <= kMostKept * static_cast<double>(matrix.numel);
}

bool is_worth_packing_rows(const FileEntry& table) {
  return is_worth_packing(table) && packed_row_bytes(table) < table.numel * item_size(table.dtype);
}

}  // namespace pomona
