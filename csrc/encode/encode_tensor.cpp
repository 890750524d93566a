// The writing half of sections.h.
#include "base/varint.h"
#include "encode/codebooks.h"
#include "encode/sections.h"
#include "format/find_codebooks.h"

#include <utility>

namespace pomona {
namespace {

// Of the elements that decode on their own: the context coder learns as it goes, so it gets more.
constexpr int64_t kWantedChunk = int64_t{1} << 20;
constexpr int64_t kWantedContextChunk = int64_t{1} << 22;

struct Parts {
  Bytes codebook;
  CodedPart positions;
  std::vector<int64_t> fillers{};
  CodedPart payload;  // codes or values
};

bool has_kept_counts(Positions kind) {
  return kind == Positions::kGaps || kind == Positions::kBitmask || kind == Positions::kContext;
}

void set_positions(FileEntry& entry, Parts& parts, CodedPositions coded) {
  entry.positions = coded.kind;
  entry.position_coder = coded.coder;
  entry.gap_bits = coded.gap_bits;
  for (const int64_t fillers : coded.fillers) entry.fillers += fillers;
  entry.position_bytes = coded.part.size();
  parts.positions = std::move(coded.part);
  parts.fillers = std::move(coded.fillers);
}

void set_codes(FileEntry& entry, Parts& parts, CodedCodes coded) {
  entry.code_coder = coded.coder;
  entry.code_bytes = coded.part.size();
  parts.payload = std::move(coded.part);
}

// Positions and codes, apart or as one.
void encode_shared(const Weight& weight, std::span<const Chunk> chunks, const Coding& coding,
                   FileEntry& entry, Parts& parts) {
  const CodedMatrix shape = coded_matrix(entry.shape);
  auto codebooks = encode_codebooks(weight, coding);
  entry.codebook_form = codebooks.form;
  entry.codebook_bytes = codebooks.bytes.size();
  parts.codebook = std::move(codebooks.bytes);
  CodedPositions positions;
  const bool is_pruned = entry.kept < entry.numel;
  if (is_pruned) positions = encode_positions(weight.mask, chunks, shape, coding);
  CodedCodes codes;
  if (entry.centroids >= 2) {
    codes = encode_codes_part(weight.codes, weight.mask, chunks, shape, entry.centroids, coding);
  }
  const bool may_be_one = is_pruned && entry.centroids < 256 && coding.gap_bits == 0 &&
                          (coding.goal == Goal::kSmallest || coding.goal == Goal::kFast);
  constexpr int64_t kLeastDensity = 4;  // below one in so many kept, gaps are always smaller
  if (may_be_one && entry.kept >= entry.numel / kLeastDensity) {
    auto one = encode_in_codes(weight.codes, weight.mask, chunks, entry.centroids, coding);
    if (one.part.size() < positions.part.size() + codes.part.size()) {
      entry.positions = Positions::kInCodes;
      return set_codes(entry, parts, std::move(one));
    }
  }
  set_positions(entry, parts, std::move(positions));
  set_codes(entry, parts, std::move(codes));
}

void encode_plain(const Weight& weight, std::span<const Chunk> chunks, const Coding& coding,
                  FileEntry& entry, Parts& parts) {
  if (entry.kept < entry.numel) {
    set_positions(entry, parts,
                  encode_positions(weight.mask, chunks, coded_matrix(entry.shape), coding));
  }
  auto values = encode_values(weight.values, entry, chunks, coding);
  entry.value_form = values.form;
  entry.distance = values.distance;
  entry.value_bytes = values.part.size();
  parts.payload = std::move(values.part);
}

// What lies where, of a tensor of several chunks.
Bytes chunk_table(const FileEntry& entry, const Parts& parts, std::span<const Chunk> chunks) {
  Bytes table;
  for (size_t c = 0; c < chunks.size(); ++c) {
    if (has_kept_counts(entry.positions)) {
      append_varint(table, static_cast<uint64_t>(chunks[c].kept));
    }
    if (entry.positions == Positions::kGaps) {
      append_varint(table, static_cast<uint64_t>(parts.fillers[c]));
    }
    if (entry.positions == Positions::kGaps || entry.positions == Positions::kContext) {
      append_varint(table, parts.positions.pieces[c].size());
    }
    const bool is_raw = entry.centroids == 0 && entry.value_form == ValueForm::kRaw;
    if (!is_raw && !parts.payload.pieces.empty()) {
      append_varint(table, parts.payload.pieces[c].size());
    }
  }
  return table;
}

Bytes join(FileEntry& entry, const Parts& parts, std::span<const Chunk> chunks) {
  Bytes section = parts.codebook;
  append(section, parts.positions.table);
  append(section, parts.payload.table);
  if (chunks.size() > 1) {
    const Bytes table = chunk_table(entry, parts, chunks);
    entry.chunk_bytes = table.size();
    append(section, table);
  }
  for (size_t c = 0; c < chunks.size(); ++c) {
    if (!parts.positions.pieces.empty()) append(section, parts.positions.pieces[c]);
    if (!parts.payload.pieces.empty()) append(section, parts.payload.pieces[c]);
  }
  return section;
}

CodedTensor encode_as_it_is(const Weight& weight, const Coding& coding) {
  CodedTensor coded{.entry = {.name = weight.name,
                              .dtype = weight.dtype,
                              .shape = weight.shape,
                              .numel = weight.numel(),
                              .kept = weight.mask.kept(),
                              .centroids = weight.centroids(),
                              .group = weight.group}};
  FileEntry& entry = coded.entry;
  if (entry.kept == 0) entry.centroids = entry.group = 0;
  if (entry.kept == 0) return coded;
  entry.chunk = chunk_size(coded_matrix(entry.shape),
                           takes_context(coding.goal) ? kWantedContextChunk : kWantedChunk);
  const auto chunks = cut_into_chunks(weight.mask, entry.chunk);
  Parts parts;
  if (weight.is_shared()) {
    encode_shared(weight, chunks, coding, entry, parts);
  } else {
    encode_plain(weight, chunks, coding, entry, parts);
  }
  coded.section = join(entry, parts, chunks);
  return coded;
}

}  // namespace

CodedTensor encode_tensor(const Weight& weight, const Coding& coding) {
  CodedTensor coded = encode_as_it_is(weight, coding);
  constexpr int64_t kSmall = 1024;  // weights; of more, make_weight has found the codebook
  if (weight.is_shared() || coded.entry.kept > kSmall) return coded;
  if (const auto shared = with_codebook(weight)) {
    CodedTensor other = encode_as_it_is(*shared, coding);
    other.entry.is_plain = true;
    if (other.section.size() < coded.section.size()) coded = std::move(other);
  }
  return coded;
}

}  // namespace pomona
