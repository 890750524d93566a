#include "encode/planes.h"

#include "pomona/error.h"

#include "base/little_endian.h"
#include "base/text.h"
#include "base/varint.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

namespace pomona {
namespace {

using Planes = std::vector<std::vector<uint8_t>>;  // [byte of an element][element]

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("values", offset, "expected " + what);
}

// An element beside the one `distance` before: floats by exclusive or, integers by difference.
template <class Bits>
Bits difference(Bits value, Bits before, bool is_float) {
  return is_float ? static_cast<Bits>(value ^ before) : static_cast<Bits>(value - before);
}
template <class Bits>
Bits undo_difference(Bits stored, Bits before, bool is_float) {
  return is_float ? static_cast<Bits>(stored ^ before) : static_cast<Bits>(stored + before);
}

template <class Bits>
Planes split(std::span<const std::byte> values, bool is_float, size_t distance) {
  const size_t count = values.size() / sizeof(Bits);
  Planes planes(sizeof(Bits), std::vector<uint8_t>(count));
  for (size_t i = 0; i < count; ++i) {
    Bits bits = load_little_endian<Bits>(values.data() + i * sizeof(Bits));
    if (distance > 0 && i >= distance) {
      const auto before = load_little_endian<Bits>(values.data() + (i - distance) * sizeof(Bits));
      bits = difference(bits, before, is_float);
    }
    if (is_float) bits = std::rotl(bits, 1);  // the sign goes last
    for (size_t p = 0; p < sizeof(Bits); ++p) planes[p][i] = static_cast<uint8_t>(bits >> (8 * p));
  }
  return planes;
}

template <class Bits>
void join(const Planes& planes, bool is_float, size_t distance, std::span<std::byte> values) {
  const size_t count = values.size() / sizeof(Bits);
  for (size_t i = 0; i < count; ++i) {
    uint64_t wide = 0;
    for (size_t p = 0; p < sizeof(Bits); ++p) wide |= uint64_t{planes[p][i]} << (8 * p);
    auto bits = static_cast<Bits>(wide);
    if (is_float) bits = std::rotr(bits, 1);
    std::byte* const at = values.data() + i * sizeof(Bits);
    if (distance > 0 && i >= distance) {
      const auto before = load_little_endian<Bits>(at - distance * sizeof(Bits));
      bits = undo_difference(bits, before, is_float);
    }
    std::memcpy(at, &bits, sizeof bits);
  }
}

// visit(zero of the unsigned type as wide as an element).
template <class Visit>
auto with_bits(DType dtype, Visit visit) {
  const int64_t item = item_size(dtype);
  if (item == 1) return visit(uint8_t{0});
  if (item == 2) return visit(uint16_t{0});
  if (item == 4) return visit(uint32_t{0});
  return visit(uint64_t{0});
}

Planes planes_of(std::span<const std::byte> values, DType dtype, int64_t distance) {
  return with_bits(dtype, [&](auto bits) {
    return split<decltype(bits)>(values, is_floating(dtype), static_cast<size_t>(distance));
  });
}

std::vector<Coder> plane_coders(Goal goal) {
  const auto allowed = symbol_coders(goal);
  std::vector<Coder> coders{Coder::kFixed};
  for (const Coder coder : allowed) {
    if (coder != Coder::kFixed) coders.push_back(coder);
  }
  return coders;
}

std::span<const std::byte> values_of(std::span<const std::byte> values, const Chunk& chunk,
                                     int64_t item) {
  return values.subspan(static_cast<size_t>(chunk.kept_before * item),
                        static_cast<size_t>(chunk.kept * item));
}

// Counts of each plane over all chunks.
using PlaneCounts = std::vector<std::vector<uint64_t>>;

PlaneCounts count_planes(std::span<const std::byte> values, DType dtype, int64_t distance,
                         std::span<const Chunk> chunks, const ParallelFor& parallel) {
  const int64_t item = item_size(dtype);
  std::vector<PlaneCounts> of_chunks(chunks.size());
  run_tasks(parallel, chunks.size(), [&](int64_t c) {
    const auto i = static_cast<size_t>(c);
    for (const auto& plane : planes_of(values_of(values, chunks[i], item), dtype, distance)) {
      of_chunks[i].push_back(count_bytes(plane));
    }
  });
  PlaneCounts counts(static_cast<size_t>(item), std::vector<uint64_t>(256));
  for (const auto& of_chunk : of_chunks) {
    for (size_t p = 0; p < counts.size(); ++p) {
      std::ranges::transform(counts[p], of_chunk[p], counts[p].begin(), std::plus<>{});
    }
  }
  return counts;
}

double size_bits(const PlaneCounts& counts, std::span<const Coder> coders) {
  double bits = 0;
  for (const auto& plane : counts) bits += cheapest_coder(plane, coders).size_bits;
  return bits;
}

Bytes encode_planes(const Planes& planes, std::span<const SymbolEncoder> encoders) {
  Bytes sizes, pieces;
  for (size_t p = 0; p < planes.size(); ++p) {
    const Bytes piece = encoders[p].encode(planes[p]);
    if (p + 1 < planes.size()) append_varint(sizes, piece.size());
    append(pieces, piece);
  }
  append(sizes, pieces);
  return sizes;
}

// Distances at which tensors repeat themselves: the element before, a row, half of one (the
// frequencies of rotary embeddings).
std::vector<int64_t> candidate_distances(const FileEntry& entry, std::span<const Chunk> chunks) {
  std::vector<int64_t> distances{0};
  if (entry.kept != entry.numel || entry.numel < 2) return distances;
  const int64_t row = entry.shape.empty() ? 1 : entry.shape.back();
  for (const int64_t distance : {int64_t{1}, row / 2, row}) {
    if (distance > 0 && distance < chunks[0].size &&
        std::ranges::find(distances, distance) == distances.end()) {
      distances.push_back(distance);
    }
  }
  return distances;
}

CodedPart raw_part(std::span<const std::byte> values, std::span<const Chunk> chunks, int64_t item) {
  CodedPart part;
  for (const Chunk& chunk : chunks) {
    const auto bytes = values_of(values, chunk, item);
    part.pieces.emplace_back(bytes.begin(), bytes.end());
  }
  return part;
}

}  // namespace

CodedValues encode_values(std::span<const std::byte> values, const FileEntry& entry,
                          std::span<const Chunk> chunks, const Coding& coding) {
  const int64_t item = item_size(entry.dtype);
  const auto coders = plane_coders(coding.goal);
  CodedValues coded;
  PlaneCounts best;
  auto least = 8.0 * static_cast<double>(values.size());
  for (const int64_t distance : candidate_distances(entry, chunks)) {
    auto counts = count_planes(values, entry.dtype, distance, chunks, coding.parallel);
    const double bits = size_bits(counts, coders) + 8.0 * static_cast<double>(2 * item);
    if (bits >= least) continue;
    least = bits;
    coded.form = ValueForm::kPlanes;
    coded.distance = distance;
    best = std::move(counts);
  }
  if (coded.form == ValueForm::kRaw) return {.part = raw_part(values, chunks, item)};
  std::vector<SymbolEncoder> encoders;
  for (const auto& counts : best) {
    const Coder coder = cheapest_coder(counts, coders).coder;
    encoders.emplace_back(coder, counts);
    coded.part.table.push_back(static_cast<std::byte>(coder));
    append(coded.part.table, encoders.back().table());
  }
  coded.part.pieces.resize(chunks.size());
  run_tasks(coding.parallel, chunks.size(), [&](int64_t c) {
    const auto i = static_cast<size_t>(c);
    coded.part.pieces[i] = encode_planes(
        planes_of(values_of(values, chunks[i], item), entry.dtype, coded.distance), encoders);
  });
  return coded;
}

ValuesDecoder::ValuesDecoder(DType dtype, ValueForm form, int64_t distance,
                             std::span<const std::byte> bytes)
    : dtype_(dtype), form_(form), distance_(distance) {
  if (form == ValueForm::kRaw) return;
  for (int64_t p = 0; p < item_size(dtype); ++p) {
    if (table_size_ == bytes.size()) refuse(table_size_, "a coder for each byte, got fewer");
    const auto coder = static_cast<int>(bytes[table_size_]);
    if (coder > static_cast<int>(Coder::kRans)) {
      refuse(table_size_, text("a coder in 0..2, got ", coder));
    }
    ++table_size_;
    planes_.emplace_back(static_cast<Coder>(coder), bytes.subspan(table_size_), 256);
    table_size_ += planes_.back().table_size();
  }
}

void ValuesDecoder::decode(std::span<const std::byte> piece, std::span<std::byte> values) const {
  if (form_ == ValueForm::kRaw) {
    if (piece.size() != values.size()) {
      refuse(0, text(values.size(), " bytes of values, got ", piece.size()));
    }
    if (!values.empty()) std::memcpy(values.data(), piece.data(), piece.size());
    return;
  }
  size_t at = 0;
  std::vector<size_t> sizes;
  size_t total = 0;
  for (size_t p = 0; p + 1 < planes_.size(); ++p) {
    const auto size = read_varint(piece, at);
    if (!size || *size > piece.size()) refuse(at, "the size of a plane, got another");
    sizes.push_back(*size);
    total += *size;
  }
  if (total > piece.size() - at) refuse(at, "planes within their piece, got larger ones");
  sizes.push_back(piece.size() - at - total);
  Planes planes;
  for (size_t p = 0; p < planes_.size(); ++p) {
    planes.emplace_back(values.size() / planes_.size());
    planes_[p].decode(piece.subspan(at, sizes[p]), planes.back());
    at += sizes[p];
  }
  with_bits(dtype_, [&](auto bits) {
    join<decltype(bits)>(planes, is_floating(dtype_), static_cast<size_t>(distance_), values);
  });
}

}  // namespace pomona
