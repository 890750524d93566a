#include "encode/codes.h"

#include "pomona/error.h"

#include "base/text.h"
#include "encode/context_codes.h"

#include <algorithm>
#include <utility>

namespace pomona {
namespace {

std::span<const uint8_t> codes_of(std::span<const uint8_t> codes, const Chunk& chunk) {
  return codes.subspan(static_cast<size_t>(chunk.kept_before), static_cast<size_t>(chunk.kept));
}

// Symbols that one table serves; symbols_of(chunk) gives those of a chunk.
template <class SymbolsOf>
CodedCodes encode_symbols_of(std::span<const Chunk> chunks, std::span<const uint64_t> counts,
                             const Coding& coding, SymbolsOf symbols_of) {
  std::optional<CodedCodes> best;
  for (const Coder coder : symbol_coders(coding.goal)) {
    CodedCodes coded{.coder = coder};
    const SymbolEncoder encoder(coder, counts);
    coded.part.table = encoder.table();
    coded.part.pieces.resize(chunks.size());
    run_tasks(coding.parallel, chunks.size(), [&](int64_t c) {
      const auto i = static_cast<size_t>(c);
      coded.part.pieces[i] = encoder.encode(symbols_of(chunks[i]));
    });
    if (!best || coded.part.size() < best->part.size()) best = std::move(coded);
  }
  return std::move(*best);
}

CodedCodes encode_in_context(std::span<const uint8_t> codes, const Mask& mask,
                             std::span<const Chunk> chunks, const CodedMatrix& shape,
                             int64_t centroids, const ParallelFor& parallel) {
  CodedCodes coded{.coder = Coder::kContext};
  coded.part.pieces.resize(chunks.size());
  run_tasks(parallel, chunks.size(), [&](int64_t c) {
    const Chunk& chunk = chunks[static_cast<size_t>(c)];
    const auto words = words_of(mask, chunk);
    coded.part.pieces[static_cast<size_t>(c)] = encode_codes(
        codes_of(codes, chunk), Mask(chunk.size, std::vector<uint64_t>(words.begin(), words.end())),
        matrix_of(shape, chunk), centroids);
  });
  return coded;
}

}  // namespace

CodedCodes encode_codes_part(std::span<const uint8_t> codes, const Mask& mask,
                             std::span<const Chunk> chunks, const CodedMatrix& shape,
                             int64_t centroids, const Coding& coding) {
  const bool may_have_context = takes_context(coding.goal) && fits_context(shape, chunks[0].size);
  if (may_have_context && coding.goal == Goal::kContext) {
    return encode_in_context(codes, mask, chunks, shape, centroids, coding.parallel);
  }
  auto best = encode_symbols_of(chunks, histogram(codes, centroids), coding,
                                [&](const Chunk& chunk) { return codes_of(codes, chunk); });
  if (may_have_context) {
    auto other = encode_in_context(codes, mask, chunks, shape, centroids, coding.parallel);
    if (other.part.size() < best.part.size()) best = std::move(other);
  }
  return best;
}

CodedCodes encode_in_codes(std::span<const uint8_t> codes, const Mask& mask,
                           std::span<const Chunk> chunks, int64_t centroids, const Coding& coding) {
  std::vector<uint64_t> counts{static_cast<uint64_t>(mask.size()) - codes.size()};
  const auto of_codes = histogram(codes, centroids);
  counts.insert(counts.end(), of_codes.begin(), of_codes.end());
  return encode_symbols_of(chunks, counts, coding, [&](const Chunk& chunk) {
    std::vector<uint8_t> symbols(static_cast<size_t>(chunk.size));
    auto code = codes_of(codes, chunk).begin();
    const auto words = words_of(mask, chunk);
    for (size_t i = 0; i < symbols.size(); ++i) {
      if ((words[i / 64] >> (i % 64) & 1) != 0) symbols[i] = static_cast<uint8_t>(*code++ + 1);
    }
    return symbols;
  });
}

CodesDecoder::CodesDecoder(const FileEntry& entry, std::span<const std::byte> bytes)
    : entry_(entry), shape_(coded_matrix(entry.shape)) {
  if (entry.code_coder == Coder::kContext) return;
  const bool has_zero = entry.positions == Positions::kInCodes;
  symbols_.emplace(entry.code_coder, bytes, entry.centroids + (has_zero ? 1 : 0));
}

std::vector<uint8_t> CodesDecoder::decode(std::span<const std::byte> piece, const Chunk& chunk,
                                          const Mask& mask) const {
  if (!symbols_) {
    return decode_codes_in_context(piece, mask, matrix_of(shape_, chunk), entry_.centroids);
  }
  std::vector<uint8_t> codes(static_cast<size_t>(chunk.kept));
  symbols_->decode(piece, codes);
  return codes;
}

CodesDecoder::MaskAndCodes CodesDecoder::decode_in_codes(std::span<const std::byte> piece,
                                                         const Chunk& chunk) const {
  std::vector<uint8_t> codes(static_cast<size_t>(chunk.size));
  symbols_->decode(piece, codes);
  std::vector<uint64_t> words((codes.size() + 63) / 64);
  size_t kept = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    const bool is_kept = codes[i] != 0;
    words[i / 64] |= uint64_t{is_kept} << (i % 64);
    codes[kept] = static_cast<uint8_t>(codes[i] - 1);
    kept += is_kept;
  }
  codes.resize(kept);
  return {Mask(chunk.size, std::move(words)), std::move(codes)};
}

}  // namespace pomona
