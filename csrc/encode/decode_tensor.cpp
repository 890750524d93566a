// The reading half of sections.h.
#include "pomona/error.h"

#include "base/little_endian.h"
#include "base/text.h"
#include "base/varint.h"
#include "encode/codebooks.h"
#include "encode/directory.h"
#include "encode/sections.h"
#include "format/find_codebooks.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace pomona {
namespace {

// Entries at the places that a mask tells, as elements of a width.
template <class Bits>
void scatter_codes(const TensorDecoder::Decoded& decoded, std::span<const uint32_t> entries,
                   const FileEntry& entry, int64_t first, std::byte* dense) {
  auto code = decoded.codes.begin();
  const auto centroids = static_cast<size_t>(entry.centroids);
  const auto group = static_cast<size_t>(entry.group);
  for_each_kept(decoded.mask, [&](size_t i) {
    const size_t book = group == 0 ? 0 : (static_cast<size_t>(first) + i) / group * centroids;
    const auto bits = static_cast<Bits>(entries[book + *code++]);
    std::memcpy(dense + i * sizeof bits, &bits, sizeof bits);
  });
}

void scatter_values(const Mask& mask, std::span<const std::byte> values, size_t item,
                    std::byte* dense) {
  const std::byte* value = values.data();
  for_each_kept(mask, [&](size_t i) {
    std::memcpy(dense + i * item, value, item);
    value += item;
  });
}

// Entries one after the other.
void write_entries(std::span<const uint8_t> codes, std::span<const uint32_t> entries, size_t item,
                   std::byte* target) {
  for (const uint8_t code : codes) {
    std::memcpy(target, &entries[code], item);  // little-endian
    target += item;
  }
}

}  // namespace

// What decode() finds wrong becomes the damage of this part of the file.
template <class Decode>
auto TensorDecoder::in_part(std::string_view part, std::span<const std::byte> bytes,
                            Decode decode) const {
  const auto offset = entry_.offset + static_cast<uint64_t>(bytes.data() - section_.data());
  try {
    return decode();
  } catch (const CorruptFile& error) {
    throw CorruptFile(part_name(entry_, part), offset + error.offset, error.what());
  } catch (const InvalidArgument& error) {
    throw CorruptFile(part_name(entry_, part), offset, error.what());
  }
}

TensorDecoder::TensorDecoder(const FileEntry& entry, std::span<const std::byte> section)
    : entry_(entry), section_(section) {
  const int64_t count = entry.kept == 0 ? 0 : pomona::chunk_count(entry.numel, entry.chunk);
  chunks_.resize(static_cast<size_t>(count));
  position_sizes_.resize(chunks_.size());
  payload_sizes_.resize(chunks_.size());
  for (size_t c = 0; c < chunks_.size(); ++c) {
    Chunk& where = chunks_[c].where;
    where.begin = static_cast<int64_t>(c) * entry.chunk;
    where.size = entry.chunk == 0 ? entry.numel : std::min(entry.chunk, entry.numel - where.begin);
  }
  if (chunks_.empty()) return;
  read_tables();
  read_chunk_table();
  place_pieces();
}

void TensorDecoder::read_tables() {
  const auto codebook = section_.first(entry_.codebook_bytes);
  at_ = codebook.size();
  if (entry_.centroids > 0) {
    const int64_t groups = entry_.group == 0 ? 1 : (entry_.numel + entry_.group - 1) / entry_.group;
    codebook_ = in_part("codebook", codebook, [&] {
      return decode_codebooks(entry_.codebook_form, entry_.dtype, groups * entry_.centroids,
                              codebook);
    });
    in_part("codebook", codebook, [&] { check_codebooks(); });
    for (const float entry : codebook_) entry_bits_.push_back(bits_of(entry_.dtype, entry));
  }
  const auto positions = section_.subspan(at_);
  in_part("positions", positions, [&] { positions_.emplace(entry_, positions); });
  at_ += positions_->table_size();
  const auto payload = section_.subspan(at_);
  if (entry_.centroids >= 2 || entry_.positions == Positions::kInCodes) {
    in_part("codes", payload, [&] { codes_.emplace(entry_, payload); });
    at_ += codes_->table_size();
  } else if (entry_.centroids == 0) {
    in_part("values", payload,
            [&] { values_.emplace(entry_.dtype, entry_.value_form, entry_.distance, payload); });
    at_ += values_->table_size();
  }
}

void TensorDecoder::check_codebooks() const {
  const auto centroids = static_cast<size_t>(entry_.centroids);
  for (size_t at = 0; at < codebook_.size(); at += centroids) {
    const auto problem = codebook_problem(entry_.dtype, std::span(codebook_).subspan(at, centroids),
                                          entry_.group != 0);
    if (problem) throw CorruptFile("codebook", 0, "expected `codebook` " + *problem);
  }
}

void TensorDecoder::read_chunk_table() {
  const uint64_t position_table = positions_->table_size();
  const uint64_t payload_table = codes_    ? codes_->table_size()
                                 : values_ ? values_->table_size()
                                           : 0;
  const uint64_t payload_bytes = entry_.code_bytes + entry_.value_bytes;
  const auto part = section_.subspan(std::min(at_, section_.size()));
  in_part("chunks", part, [&] {
    if (position_table > entry_.position_bytes || payload_table > payload_bytes ||
        entry_.chunk_bytes > part.size()) {
      throw CorruptFile("chunks", 0, "expected tables within their parts, got larger ones");
    }
    if (chunks_.size() == 1) {
      position_sizes_[0] = entry_.position_bytes - position_table;
      payload_sizes_[0] = payload_bytes - payload_table;
      // In the codes: how many are kept is known when they are decoded.
      chunks_[0].where.kept = entry_.kept;
      chunks_[0].fillers = entry_.fillers;
      return;
    }
    const auto table = part.first(entry_.chunk_bytes);
    size_t at = 0;
    const auto number = [&](int64_t most) {
      const auto value = read_varint(table, at);
      if (!value || *value > static_cast<uint64_t>(most)) {
        throw CorruptFile("chunks", at,
                          text("expected a number of at most ", most, ", got another"));
      }
      return static_cast<int64_t>(*value);
    };
    const bool has_counts = entry_.positions == Positions::kGaps ||
                            entry_.positions == Positions::kBitmask ||
                            entry_.positions == Positions::kContext;
    const bool is_raw = entry_.centroids == 0 && entry_.value_form == ValueForm::kRaw;
    const auto size = static_cast<int64_t>(section_.size());
    const int64_t item = item_size(entry_.dtype);
    int64_t kept = 0, fillers = 0;
    uint64_t positions = position_table, payload = payload_table;
    for (size_t c = 0; c < chunks_.size(); ++c) {
      Chunk& where = chunks_[c].where;
      where.kept = has_counts ? number(where.size) : where.size;
      where.kept_before = kept;
      if (entry_.positions == Positions::kGaps) {
        chunks_[c].fillers = number(where.size >> entry_.gap_bits);
      }
      if (entry_.positions == Positions::kGaps || entry_.positions == Positions::kContext) {
        position_sizes_[c] = static_cast<uint64_t>(number(size));
      } else if (entry_.positions == Positions::kBitmask) {
        position_sizes_[c] = static_cast<uint64_t>(where.size + 7) / 8;
      }
      if (is_raw) {
        payload_sizes_[c] = static_cast<uint64_t>(where.kept * item);
      } else if (codes_ || values_) {
        payload_sizes_[c] = static_cast<uint64_t>(number(size));
      }
      kept += where.kept;
      fillers += chunks_[c].fillers;
      positions += position_sizes_[c];
      payload += payload_sizes_[c];
    }
    const bool has_all_kept = entry_.positions == Positions::kInCodes || kept == entry_.kept;
    if (at != table.size() || !has_all_kept || fillers != entry_.fillers ||
        positions != entry_.position_bytes || payload != payload_bytes) {
      throw CorruptFile("chunks", at, "expected chunks that add up to the tensor, got others");
    }
    at_ += table.size();
  });
}

void TensorDecoder::place_pieces() {
  for (size_t c = 0; c < chunks_.size(); ++c) {
    chunks_[c].positions = section_.subspan(at_, position_sizes_[c]);
    at_ += position_sizes_[c];
    chunks_[c].payload = section_.subspan(at_, payload_sizes_[c]);
    at_ += payload_sizes_[c];
  }
}

std::span<const std::byte> TensorDecoder::bytes_of(size_t index) const {
  const Place& place = chunks_[index];
  return {place.positions.data(), place.positions.size() + place.payload.size()};
}

TensorDecoder::Decoded TensorDecoder::decode(size_t index) const {
  const Place& place = chunks_[index];
  Decoded decoded;
  if (entry_.positions == Positions::kInCodes) {
    in_part("codes", place.payload, [&] {
      auto [mask, codes] = codes_->decode_in_codes(place.payload, place.where);
      decoded.mask = std::move(mask);
      decoded.codes = std::move(codes);
    });
    return decoded;
  }
  if (entry_.positions == Positions::kNone) {
    decoded.mask = Mask(place.where.size);
  } else {
    in_part("positions", place.positions, [&] {
      decoded.mask = positions_->decode(place.positions, place.where, place.fillers);
    });
  }
  if (values_) {
    decoded.values.resize(static_cast<size_t>(place.where.kept * item_size(entry_.dtype)));
    in_part("values", place.payload, [&] { values_->decode(place.payload, decoded.values); });
  } else if (codes_) {
    in_part("codes", place.payload,
            [&] { decoded.codes = codes_->decode(place.payload, place.where, decoded.mask); });
  } else {
    decoded.codes.resize(static_cast<size_t>(place.where.kept));  // one centroid: every code is 0
  }
  return decoded;
}

int64_t TensorDecoder::decode_into(size_t index, std::span<std::byte> dense) const {
  const Place& place = chunks_[index];
  if (values_ && entry_.positions == Positions::kNone) {
    in_part("values", place.payload, [&] { values_->decode(place.payload, dense); });
    return place.where.size;
  }
  const Decoded decoded = decode(index);
  if (!dense.empty()) std::memset(dense.data(), 0, dense.size());
  const auto item = static_cast<size_t>(item_size(entry_.dtype));
  if (values_) {
    scatter_values(decoded.mask, decoded.values, item, dense.data());
  } else if (item == 2) {
    scatter_codes<uint16_t>(decoded, entry_bits_, entry_, place.where.begin, dense.data());
  } else {
    scatter_codes<uint32_t>(decoded, entry_bits_, entry_, place.where.begin, dense.data());
  }
  return decoded.mask.kept();
}

void TensorDecoder::refuse_kept(size_t got) const {
  throw CorruptFile(part_name(entry_, "codes"), entry_.offset,
                    text("expected ", entry_.kept, " kept weights, got ", got));
}

Weight TensorDecoder::weight(const ParallelFor& parallel) const {
  Weight weight{.name = entry_.name, .dtype = entry_.dtype, .shape = entry_.shape};
  const bool has_values = entry_.centroids == 0 || entry_.is_plain;
  const auto item = has_values ? static_cast<size_t>(item_size(entry_.dtype)) : 1;
  size_t room = 0;  // for what is kept: exact, but for positions in the codes
  for (const Place& place : chunks_) room += static_cast<size_t>(place.where.kept) * item;
  has_values ? weight.values.resize(room) : weight.codes.resize(room);
  const auto kept =
      has_values ? std::span(weight.values) : std::as_writable_bytes(std::span(weight.codes));
  std::vector<uint64_t> words((static_cast<size_t>(entry_.numel) + 63) / 64);
  std::vector<size_t> sizes(chunks_.size());
  // Each chunk goes where it belongs, so that no second copy of the tensor is ever in memory.
  run_tasks(parallel, chunks_.size(), [&](int64_t index) {
    const auto c = static_cast<size_t>(index);
    const Chunk& where = chunks_[c].where;
    const Decoded decoded = decode(c);
    sizes[c] = values_ ? decoded.values.size() : decoded.codes.size() * item;
    if (sizes[c] > static_cast<size_t>(where.kept) * item) refuse_kept(sizes[c] / item);
    std::ranges::copy(decoded.mask.words(), words.begin() + where.begin / 64);
    std::byte* const target = kept.data() + static_cast<size_t>(where.kept_before) * item;
    if (values_) {
      std::ranges::copy(decoded.values, target);
    } else if (has_values) {
      write_entries(decoded.codes, entry_bits_, item, target);
    } else {
      std::ranges::copy(std::as_bytes(std::span(decoded.codes)), target);
    }
  });
  size_t end = 0;
  for (size_t c = 0; c < chunks_.size(); ++c) {
    const size_t begin = static_cast<size_t>(chunks_[c].where.kept_before) * item;
    if (begin != end) std::memmove(kept.data() + end, kept.data() + begin, sizes[c]);
    end += sizes[c];
  }
  has_values ? weight.values.resize(end) : weight.codes.resize(end);
  weight.mask = Mask(entry_.numel, std::move(words));
  if (weight.mask.kept() != entry_.kept) refuse_kept(static_cast<size_t>(weight.mask.kept()));
  if (!has_values) {
    weight.codebook = codebook_;
    weight.group = entry_.group;
  }
  return weight;
}

}  // namespace pomona
