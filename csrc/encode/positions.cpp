#include "encode/positions.h"

#include "pomona/error.h"

#include "base/text.h"
#include "base/varint.h"
#include "encode/context_mask.h"
#include "encode/gap_symbols.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace pomona {
namespace {

constexpr int kFirstWithExtraBits = 8;  // gap bits from which gaps may have extra bits

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("positions", offset, "expected " + what);
}

GapHistogram histogram_of(const Mask& mask, std::span<const Chunk> chunks) {
  GapHistogram gaps;
  for (const Chunk& chunk : chunks) gaps.add(words_of(mask, chunk));
  return gaps;
}

// Symbols, and from kFirstWithExtraBits on where their extra bits begin.
Bytes gap_piece(const GapSymbols& gaps, const SymbolEncoder& encoder, int gap_bits) {
  Bytes symbols = encoder.encode(gaps.symbols);
  if (gap_bits < kFirstWithExtraBits) return symbols;
  Bytes piece;
  append_varint(piece, symbols.size());
  append(piece, symbols);
  append(piece, gaps.extra);
  return piece;
}

CodedPositions encode_gaps_with(Coder coder, const Mask& mask, std::span<const Chunk> chunks,
                                const GapHistogram& gaps, const Coding& coding) {
  CodedPositions coded{.kind = Positions::kGaps, .coder = coder};
  coded.gap_bits = coding.gap_bits != 0 ? coding.gap_bits : best_gaps(gaps, coder).gap_bits;
  const SymbolEncoder encoder(coder, gaps.width(coded.gap_bits).counts);
  coded.part.table = encoder.table();
  coded.part.pieces.resize(chunks.size());
  coded.fillers.resize(chunks.size());
  run_tasks(coding.parallel, chunks.size(), [&](int64_t c) {
    const auto i = static_cast<size_t>(c);
    const auto symbols = gap_symbols(words_of(mask, chunks[i]), chunks[i].kept, coded.gap_bits);
    coded.fillers[i] = symbols.fillers;
    coded.part.pieces[i] = gap_piece(symbols, encoder, coded.gap_bits);
  });
  return coded;
}

void take_smaller(CodedPositions& best, CodedPositions other) {
  if (best.kind == Positions::kNone || other.part.size() < best.part.size()) {
    best = std::move(other);
  }
}

CodedPositions encode_gaps(const Mask& mask, std::span<const Chunk> chunks, const Coding& coding) {
  const GapHistogram gaps = histogram_of(mask, chunks);
  CodedPositions best;
  for (const Coder coder : symbol_coders(coding.goal)) {
    take_smaller(best, encode_gaps_with(coder, mask, chunks, gaps, coding));
  }
  return best;
}

uint64_t bitmask_size(const Chunk& chunk) {
  return (static_cast<uint64_t>(chunk.size) + 7) / 8;
}

CodedPositions encode_bitmask(const Mask& mask, std::span<const Chunk> chunks) {
  CodedPositions coded{.kind = Positions::kBitmask, .fillers = std::vector<int64_t>(chunks.size())};
  for (const Chunk& chunk : chunks) {
    const auto bytes = std::as_bytes(words_of(mask, chunk)).first(bitmask_size(chunk));
    coded.part.pieces.emplace_back(bytes.begin(), bytes.end());
  }
  return coded;
}

Mask mask_of(std::span<const uint64_t> words, int64_t size) {
  return Mask(size, std::vector<uint64_t>(words.begin(), words.end()));
}

CodedPositions encode_in_context(const Mask& mask, std::span<const Chunk> chunks,
                                 const CodedMatrix& shape, const ParallelFor& parallel) {
  CodedPositions coded{.kind = Positions::kContext, .fillers = std::vector<int64_t>(chunks.size())};
  coded.part.pieces.resize(chunks.size());
  run_tasks(parallel, chunks.size(), [&](int64_t c) {
    const Chunk& chunk = chunks[static_cast<size_t>(c)];
    coded.part.pieces[static_cast<size_t>(c)] =
        encode_mask(mask_of(words_of(mask, chunk), chunk.size), matrix_of(shape, chunk));
  });
  return coded;
}

}  // namespace

std::span<const Coder> symbol_coders(Goal goal) {
  static constexpr std::array kAll{Coder::kFixed, Coder::kHuffman, Coder::kRans};
  if (goal == Goal::kHuffman) return std::span(kAll).subspan(1, 1);
  if (goal == Goal::kRans) return std::span(kAll).subspan(2, 1);
  return kAll;
}

CodedPositions encode_positions(const Mask& mask, std::span<const Chunk> chunks,
                                const CodedMatrix& shape, const Coding& coding) {
  const bool may_have_context =
      takes_context(coding.goal) && coding.gap_bits == 0 && fits_context(shape, chunks[0].size);
  if (coding.goal == Goal::kContext && may_have_context) {
    return encode_in_context(mask, chunks, shape, coding.parallel);
  }
  auto best = encode_gaps(mask, chunks, coding);
  if (coding.gap_bits != 0 || coding.goal == Goal::kHuffman || coding.goal == Goal::kRans) {
    return best;
  }
  take_smaller(best, encode_bitmask(mask, chunks));
  if (may_have_context) {
    take_smaller(best, encode_in_context(mask, chunks, shape, coding.parallel));
  }
  return best;
}

PositionsDecoder::PositionsDecoder(const FileEntry& entry, std::span<const std::byte> bytes)
    : entry_(entry), shape_(coded_matrix(entry.shape)) {
  if (entry.positions == Positions::kGaps) {
    gaps_.emplace(entry.position_coder, bytes, gap_alphabet(entry.gap_bits));
  }
}

Mask PositionsDecoder::decode(std::span<const std::byte> piece, const Chunk& chunk,
                              int64_t fillers) const {
  Mask mask;
  if (entry_.positions == Positions::kGaps) return decode_gaps(piece, chunk, fillers);
  if (entry_.positions == Positions::kContext) {
    mask = decode_mask(piece, matrix_of(shape_, chunk), chunk.kept);
  } else {
    mask = decode_bitmask(piece, chunk);
  }
  if (mask.kept() != chunk.kept) {
    refuse(0, text(chunk.kept, " kept weights, got ", mask.kept()));
  }
  return mask;
}

Mask PositionsDecoder::decode_gaps(std::span<const std::byte> piece, const Chunk& chunk,
                                   int64_t fillers) const {
  std::span<const std::byte> coded = piece, extra;
  if (entry_.gap_bits >= kFirstWithExtraBits) {
    size_t at = 0;
    const auto size = read_varint(piece, at);
    if (!size || *size > piece.size() - at) refuse(at, "the size of the gaps, got another");
    coded = piece.subspan(at, *size);
    extra = piece.subspan(at + *size);
  }
  std::vector<uint8_t> symbols(static_cast<size_t>(chunk.kept + fillers));
  gaps_->decode(coded, symbols);
  return Mask(chunk.size, words_from_gaps(symbols, extra, fillers, chunk.size, entry_.gap_bits));
}

Mask PositionsDecoder::decode_bitmask(std::span<const std::byte> piece, const Chunk& chunk) const {
  if (piece.size() != bitmask_size(chunk)) {
    refuse(0, text("a bitmask of ", bitmask_size(chunk), " bytes, got ", piece.size()));
  }
  std::vector<uint64_t> words((static_cast<size_t>(chunk.size) + 63) / 64);
  if (!piece.empty()) std::memcpy(words.data(), piece.data(), piece.size());
  const auto last_bits = chunk.size % 8;
  if (last_bits != 0 && (static_cast<int>(piece.back()) >> last_bits) != 0) {
    refuse(piece.size() - 1, "zero bits to the end of the last byte, got others");
  }
  return Mask(chunk.size, std::move(words));
}

}  // namespace pomona
