#include "encode/sections.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/float16.h"
#include "base/little_endian.h"

#include <bit>
#include <utility>

namespace pomona {
namespace {

using Bytes = std::vector<std::byte>;

int64_t position_alphabet(int gap_bits) {
  return (int64_t{1} << gap_bits) + 1;
}

Bytes encode_codebook(const Weight& weight) {
  Bytes bytes;
  for (const float centroid : weight.codebook) {
    if (weight.dtype == DType::kFloat16) {
      append_little_endian(bytes, float16_from_float(centroid));
    } else if (weight.dtype == DType::kBFloat16) {
      append_little_endian(bytes, bfloat16_from_float(centroid));
    } else {
      append_little_endian(bytes, std::bit_cast<uint32_t>(centroid));
    }
  }
  return bytes;
}

std::vector<float> decode_codebook(const FileEntry& entry, const Bytes& bytes) {
  std::vector<float> codebook;
  const auto item = static_cast<size_t>(item_size(entry.dtype));
  for (size_t at = 0; at < bytes.size(); at += item) {
    const std::byte* from = bytes.data() + at;
    if (entry.dtype == DType::kFloat16) {
      codebook.push_back(float_from_float16(load_little_endian<uint16_t>(from)));
    } else if (entry.dtype == DType::kBFloat16) {
      codebook.push_back(float_from_bfloat16(load_little_endian<uint16_t>(from)));
    } else {
      codebook.push_back(std::bit_cast<float>(load_little_endian<uint32_t>(from)));
    }
  }
  return codebook;
}

Bytes encode_positions(const Mask& mask, const Coding& coding, FileEntry& entry) {
  if (entry.kept == 0 || entry.kept == entry.numel) return {};
  entry.gap_bits = coding.gap_bits != 0 ? coding.gap_bits : best_gap_bits(mask);
  const auto index = relative_index(mask, entry.gap_bits);
  entry.fillers = index.fillers;
  return encode_symbols(index.gaps, position_alphabet(entry.gap_bits));
}

Mask decode_positions(const FileEntry& entry, const Bytes& bytes) {
  if (entry.gap_bits == 0) return Mask(entry.numel, entry.kept > 0);
  RelativeIndex index{.gap_bits = entry.gap_bits, .fillers = entry.fillers};
  index.gaps = decode_gaps(bytes, entry.kept + entry.fillers, position_alphabet(entry.gap_bits));
  return to_mask(index, entry.numel);
}

std::vector<uint8_t> decode_section_codes(const FileEntry& entry, const Bytes& bytes) {
  if (entry.code_bytes > 0) return decode_codes(bytes, entry.kept, entry.centroids);
  const bool is_shared = entry.centroids > 0;  // one centroid: every code is 0
  return std::vector<uint8_t>(is_shared ? static_cast<size_t>(entry.kept) : 0);
}

// What decode() finds wrong becomes the damage of this section of the file.
template <class Decode>
auto in_section(const FileEntry& entry, Section section, Decode decode) {
  uint64_t offset = entry.offset;
  for (const Section before : kSections) {
    if (before < section) offset += section_size(entry, before);
  }
  try {
    return decode();
  } catch (const CorruptFile& error) {
    throw CorruptFile(section_name(entry, section), offset + error.offset, error.what());
  } catch (const InvalidArgument& error) {
    throw CorruptFile(section_name(entry, section), offset, error.what());
  }
}

}  // namespace

PerSection<Bytes> encode_sections(const Weight& weight, const Coding& coding, FileEntry& entry) {
  entry = {.name = weight.name,
           .dtype = weight.dtype,
           .shape = weight.shape,
           .numel = weight.numel(),
           .kept = weight.mask.kept(),
           .centroids = static_cast<int64_t>(weight.codebook.size())};
  PerSection<Bytes> sections;
  auto& [codebook, positions, codes, values] = sections;
  codebook = encode_codebook(weight);
  positions = encode_positions(weight.mask, coding, entry);
  if (entry.centroids >= 2 && entry.kept > 0) codes = encode_symbols(weight.codes, entry.centroids);
  values = weight.values;
  entry.codebook_bytes = codebook.size();
  entry.position_bytes = positions.size();
  entry.code_bytes = codes.size();
  entry.value_bytes = values.size();
  return sections;
}

Weight decode_sections(const FileEntry& entry, PerSection<Bytes> sections) {
  auto& [codebook, positions, codes, values] = sections;
  Weight weight{.name = entry.name, .dtype = entry.dtype, .shape = entry.shape};
  weight.mask =
      in_section(entry, Section::kPositions, [&] { return decode_positions(entry, positions); });
  weight.codes =
      in_section(entry, Section::kCodes, [&] { return decode_section_codes(entry, codes); });
  weight.values = std::move(values);
  weight.codebook = decode_codebook(entry, codebook);
  // All that check() can still find is a codebook that is not ascending.
  in_section(entry, Section::kCodebook, [&] { weight.check(); });
  return weight;
}

}  // namespace pomona
