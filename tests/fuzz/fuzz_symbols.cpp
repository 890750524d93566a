// Tables and pieces of the coders of symbols, and gaps. First byte: which coder; then the alphabet
// and the number of symbols. What decodes is encoded again and must decode to the same.
#include "pomona/encode.h"
#include "pomona/error.h"

#include "encode/gap_symbols.h"
#include "encode/symbol_coder.h"

#include <algorithm>
#include <cstdlib>

namespace {

void decode(std::span<const std::byte> bytes, pomona::Coder coder, int64_t alphabet, size_t count) {
  const pomona::SymbolDecoder decoder(coder, bytes, alphabet);
  std::vector<uint8_t> symbols(count), again(count);
  decoder.decode(bytes.subspan(decoder.table_size()), symbols);
  const pomona::SymbolEncoder encoder(coder, pomona::histogram(symbols, alphabet));
  const auto piece = encoder.encode(symbols);
  pomona::SymbolDecoder(coder, encoder.table(), alphabet).decode(piece, again);
  if (symbols != again) std::abort();
}

void decode_gaps(std::span<const std::byte> bytes, int gap_bits, size_t count) {
  std::vector<uint8_t> symbols;
  for (const std::byte byte : bytes.first(std::min(count, bytes.size()))) {
    symbols.push_back(
        static_cast<uint8_t>(static_cast<int>(byte) % pomona::gap_alphabet(gap_bits)));
  }
  const auto filler = static_cast<uint8_t>(pomona::gap_alphabet(gap_bits) - 1);
  const auto fillers = std::count(symbols.begin(), symbols.end(), filler);
  pomona::words_from_gaps(symbols, bytes.subspan(symbols.size()), fillers, 100000, gap_bits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(4);
  const size_t count = (size_t{data[2]} << 8 | data[3]) << (data[0] >> 7);  // both sides of 32768
  try {
    if (data[0] % 4 == 3) {
      decode_gaps(bytes, 2 + data[1] % 15, count);
    } else {
      decode(bytes, static_cast<pomona::Coder>(data[0] % 4), 1 + data[1], count);
    }
  } catch (const pomona::CorruptFile&) {
  }
  return 0;
}
