// Coding and decoding of one piece. The fast loop decodes six streams side by side while all are
// sure to stay within their bounds, so it checks nothing; the plain loop, a symbol at a time, does
// the rest and sees to it that each stream ends where it should.
//
// A look-up gives one symbol, or up to three, or up to six. Many are better for short codes; but a
// table of 2^12 entries takes 16 KB or 32 KB, and one that does not leave the L1 cache anything is
// slower than a smaller one that gives less.

#include "encode/huffman_kernel.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/bit_io.h"
#include "base/text.h"
#include "base/varint.h"
#include "encode/huffman.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

namespace pomona {
namespace {

// What a look-up gives: symbols, a byte each from the lowest on; above them how many bits they take
// and, where there may be several, how many they are.
template <class Entry>
struct Layout;
template <>
struct Layout<uint16_t> {
  static constexpr size_t kMost = 1;
  static constexpr int kBitsAt = 8;
};
template <>
struct Layout<uint32_t> {
  static constexpr size_t kMost = 3;
  static constexpr int kBitsAt = 24, kCountAt = 30;
};
template <>
struct Layout<uint64_t> {
  static constexpr size_t kMost = 6;
  static constexpr int kBitsAt = 48, kCountAt = 56;
};
constexpr unsigned kBitsMask = 63;  // also what a shift of 64 bits takes: it costs nothing

template <class Entry>
size_t count_of(Entry entry) {
  if constexpr (Layout<Entry>::kMost == 1) {
    return 1;
  } else {
    return entry >> Layout<Entry>::kCountAt;
  }
}

constexpr int kLengthAt = 16;  // in a code of the encoder

// After a refill 56 bits are there.
constexpr size_t kCodesPerRefill = 56 / kMaxCodeLength;

// Measured: symbols of a piece from which on making a table of several symbols pays, and bits of
// the mean code from which on three or one a look-up are faster than six: their tables are smaller.
constexpr size_t kFirstWithMany = 32768;
constexpr double kFirstOfThree = 3.4;
constexpr double kFirstOfOne = 7.0;

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("symbol stream", offset, "expected " + what);
}

// The symbols [begin, end) of a stream.
struct Part {
  size_t begin, end;
};

Part part_of(size_t symbols, size_t stream, size_t streams) {
  const size_t each = (symbols + streams - 1) / streams;
  return {std::min(stream * each, symbols), std::min((stream + 1) * each, symbols)};
}

size_t most_bytes(size_t symbols) {
  return (symbols * kMaxCodeLength + 7) / 8 + sizeof(uint64_t);
}

// Bits of one code, or of several: the first lowest.
struct Bits {
  uint64_t bits;
  uint32_t length;
};

Bits then(Bits first, Bits second) {
  return {first.bits | second.bits << first.length, first.length + second.length};
}

// Writes codes from `to` on and returns the end. Four codes are joined before they are appended,
// since what is appended waits for what was. REQUIRES: most_bytes(symbols.size()) of room.
std::byte* put_codes(std::span<const uint8_t> symbols, const std::array<uint32_t, 256>& codes,
                     std::byte* to) {
  static_assert(kCodesPerRefill == 4);
  constexpr uint32_t kCode = (uint32_t{1} << kLengthAt) - 1;
  Bits held{0, 0};  // below 8 bits between stores
  const auto code_of = [&](size_t i) {
    const uint32_t code = codes[symbols[i]];
    return Bits{code & kCode, code >> kLengthAt};
  };
  const auto store = [&] {
    std::memcpy(to, &held.bits, sizeof held.bits);
    to += held.length / 8;
    held = {held.bits >> (held.length / 8 * 8), held.length % 8};
  };
  size_t i = 0;
  for (; i + 4 <= symbols.size(); i += 4) {
    held = then(held, then(then(code_of(i), code_of(i + 1)), then(code_of(i + 2), code_of(i + 3))));
    store();
  }
  for (; i < symbols.size(); ++i) {
    held = then(held, code_of(i));
    store();
  }
  if (held.length > 0) *to++ = static_cast<std::byte>(held.bits);
  return to;
}

// One stream while it is decoded.
struct Stream {
  std::span<const std::byte> bytes;
  std::span<uint8_t> symbols;
  size_t done = 0;             // symbols
  uint64_t position_bits = 0;  // in `bytes`
};
using Streams = std::array<Stream, kHuffmanStreams>;

size_t read_size(std::span<const std::byte> piece, size_t& at) {
  const size_t begin = at;
  const auto size = read_varint(piece, at);
  if (!size) refuse(begin, "the size of a stream, got the end of the piece");
  if (at - begin > 1 && piece[at - 1] == std::byte{0}) {
    refuse(begin, text("the size ", *size, " in as few bytes as it takes, got ", at - begin));
  }
  return *size;
}

Streams cut(std::span<const std::byte> piece, std::span<uint8_t> symbols) {
  const size_t count = huffman_streams(symbols.size());
  std::array<size_t, kHuffmanStreams> sizes{};
  size_t at = 0;
  for (size_t s = 0; s + 1 < count; ++s) sizes[s] = read_size(piece, at);
  Streams streams;
  for (size_t s = 0; s < count; ++s) {
    const size_t left = piece.size() - at;
    if (s + 1 == count) sizes[s] = left;
    if (sizes[s] > left) refuse(at, text("a stream of ", sizes[s], " bytes, got ", left));
    const auto [first, last] = part_of(symbols.size(), s, count);
    streams[s] = {piece.subspan(at, sizes[s]), symbols.subspan(first, last - first)};
    at += sizes[s];
  }
  return streams;
}

// Where decode_fast() is in each stream. The highest one of a buffer is no bit of the stream: as
// many zeros are above it as bits were taken since the load, so nothing else counts them.
template <size_t kCount>
struct Cursors {
  const std::byte* from[kCount];
  uint64_t buffer[kCount];
  uint8_t* to[kCount];
  uint8_t* last[kCount];
};
constexpr uint64_t kMark = uint64_t{1} << 63;

// Rounds of a refill and its look-ups that stay within symbols and bytes whatever the bits are.
template <class Entry, size_t kCount>
size_t safe_rounds(const Cursors<kCount>& at, const std::byte* end) {
  constexpr size_t kSymbolsPerRound = kCodesPerRefill * Layout<Entry>::kMost;
  constexpr size_t kStoredBeyond = sizeof(Entry) - Layout<Entry>::kMost;
  constexpr size_t kBytesPerRound = (7 + kCodesPerRefill * kMaxCodeLength) / 8;
  size_t rounds = SIZE_MAX;
  for (size_t s = 0; s < kCount; ++s) {
    const auto room = static_cast<size_t>(at.last[s] - at.to[s]);
    const auto bytes = static_cast<size_t>(end - at.from[s]);
    if (room < kStoredBeyond || bytes < sizeof(uint64_t)) return 0;
    rounds = std::min({rounds, (room - kStoredBeyond) / kSymbolsPerRound,
                       (bytes - sizeof(uint64_t)) / kBytesPerRound});
  }
  return rounds;
}

template <class Entry, size_t kCount>
inline void decode_round(Cursors<kCount>& at, const Entry* table, size_t index) {
#pragma GCC unroll 6
  for (size_t s = 0; s < kCount; ++s) {
    const int taken = std::countl_zero(at.buffer[s]);
    at.from[s] += taken / 8;
    at.buffer[s] = (load_little_endian<uint64_t>(at.from[s]) | kMark) >> (taken % 8);
  }
#pragma GCC unroll 4
  for (size_t lookup = 0; lookup < kCodesPerRefill; ++lookup) {
#pragma GCC unroll 6
    for (size_t s = 0; s < kCount; ++s) {
      const Entry entry = table[at.buffer[s] & index];
      std::memcpy(at.to[s], &entry, sizeof entry);
      at.to[s] += count_of(entry);
      at.buffer[s] >>= (entry >> Layout<Entry>::kBitsAt) & kBitsMask;
    }
  }
}

// All these streams at once, until one is near its end of symbols or the end of the piece. A
// damaged stream may run into the next: decode_rest() sees it.
template <size_t kCount, class Entry>
void decode_fast(Stream* streams, const std::vector<Entry>& table, const std::byte* end) {
  Cursors<kCount> at;
  for (size_t s = 0; s < kCount; ++s) {
    const auto& [bytes, symbols, done, position_bits] = streams[s];
    at.from[s] = bytes.data() + position_bits / 8;
    at.buffer[s] = kMark >> (position_bits % 8);
    at.to[s] = symbols.data() + done;
    at.last[s] = symbols.data() + symbols.size();
  }
  const Entry* const entries = table.data();
  const size_t index = table.size() - 1;
  while (const size_t rounds = safe_rounds<Entry>(at, end)) {
    for (size_t round = 0; round < rounds; ++round) decode_round(at, entries, index);
  }
  for (size_t s = 0; s < kCount; ++s) {
    auto& [bytes, symbols, done, position_bits] = streams[s];
    done = static_cast<size_t>(at.to[s] - symbols.data());
    position_bits = 8 * static_cast<uint64_t>(at.from[s] - bytes.data()) +
                    static_cast<uint64_t>(std::countl_zero(at.buffer[s]));
  }
}

// The streams side by side, and what the first to end has left of each of the others.
template <class Entry>
void decode_fast(Streams& streams, const std::vector<Entry>& table, const std::byte* end) {
  decode_fast<kHuffmanStreams>(streams.data(), table, end);
  for (auto& stream : streams) decode_fast<1>(&stream, table, end);
}

// The plain decoder, a symbol at a time. `offset` is that of the stream in its piece.
void decode_rest(Stream& stream, const std::vector<uint16_t>& singles, uint64_t offset) {
  const std::span<const std::byte> bytes = stream.bytes;
  const std::span<uint8_t> symbols = stream.symbols;
  const uint64_t position_bits = stream.position_bits;
  size_t& done = stream.done;
  const auto refuse_end = [&](const std::string& got) {
    refuse(offset + bytes.size(),
           text("codes of ", symbols.size(), " symbols in ", bytes.size(), " bytes, got ", got));
  };
  if (position_bits > 8 * bytes.size()) refuse_end("longer ones");
  BitReader in(bytes.subspan(position_bits / 8));
  in.refill();
  in.skip(static_cast<int>(position_bits % 8));
  const int longest = std::countr_zero(singles.size());
  while (done < symbols.size()) {
    in.refill();
    const size_t end = std::min(done + kCodesPerRefill, symbols.size());
    while (done < end) {
      const uint16_t entry = singles[in.peek(longest)];
      symbols[done++] = static_cast<uint8_t>(entry);
      in.skip(entry >> Layout<uint16_t>::kBitsAt);
    }
  }
  if (in.is_overrun()) refuse_end("longer ones");
  if (!in.is_at_end()) refuse_end("others after them");
}

std::vector<uint16_t> table_of_singles(std::span<const uint8_t> lengths) {
  const auto codes = reversed_codes(lengths);
  std::vector<uint16_t> table(size_t{1} << std::ranges::max(lengths));
  for (size_t symbol = 0; symbol < codes.size(); ++symbol) {
    const uint8_t length = lengths[symbol];
    if (length == 0) continue;
    for (size_t bits = codes[symbol]; bits < table.size(); bits += size_t{1} << length) {
      table[bits] = static_cast<uint16_t>(symbol | size_t{length} << Layout<uint16_t>::kBitsAt);
    }
  }
  return table;
}

template <class Entry>
std::vector<Entry> table_of_many(const std::vector<uint16_t>& singles) {
  std::vector<Entry> table(size_t{1} << kMaxCodeLength);
  for (size_t bits = 0; bits < table.size(); ++bits) {
    Entry entry = 0;
    size_t count = 0;
    int used = 0;
    while (count < Layout<Entry>::kMost) {
      const uint16_t next = singles[(bits >> used) & (singles.size() - 1)];
      const int length = next >> Layout<uint16_t>::kBitsAt;
      if (used + length > kMaxCodeLength) break;  // its last bits are not here
      entry |= Entry{next & 0xffu} << (8 * count++);
      used += length;
    }
    table[bits] = entry | static_cast<Entry>(used) << Layout<Entry>::kBitsAt |
                  static_cast<Entry>(count) << Layout<Entry>::kCountAt;
  }
  return table;
}

// Of a stream that the code fits: a symbol of length l has the probability 2^-l.
double mean_length(std::span<const uint8_t> lengths) {
  double mean = 0;
  for (const uint8_t length : lengths) mean += std::ldexp(length, -length);
  return mean;
}

}  // namespace

HuffmanEncoder::HuffmanEncoder(std::span<const uint8_t> lengths)
    : is_lone_(lone_symbol(lengths).has_value()) {
  const auto codes = reversed_codes(lengths);
  for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
    codes_[symbol] = uint32_t{codes[symbol]} | uint32_t{lengths[symbol]} << kLengthAt;
  }
}

std::vector<std::byte> HuffmanEncoder::encode(std::span<const uint8_t> symbols) const {
  if (is_lone_ || symbols.empty()) return {};
  const size_t streams = huffman_streams(symbols.size());
  const auto codes = std::make_unique_for_overwrite<std::byte[]>(most_bytes(symbols.size()) +
                                                                 streams * sizeof(uint64_t));
  std::vector<std::byte> piece;
  std::byte* end = codes.get();
  for (size_t stream = 0; stream < streams; ++stream) {
    std::byte* const begin = end;
    const auto [first, last] = part_of(symbols.size(), stream, streams);
    end = put_codes(symbols.subspan(first, last - first), codes_, begin);
    if (stream + 1 < streams) append_varint(piece, static_cast<uint64_t>(end - begin));
  }
  piece.insert(piece.end(), codes.get(), end);
  return piece;
}

// What the next kMaxCodeLength bits of a stream begin with: up to three symbols, or six.
struct HuffmanDecoder::Many {
  std::once_flag once;
  std::vector<uint32_t> threes;
  std::vector<uint64_t> sixes;
};

HuffmanDecoder::HuffmanDecoder(std::span<const uint8_t> lengths)
    : mean_length_(mean_length(lengths)) {
  if (const auto lone = lone_symbol(lengths)) {
    lone_ = static_cast<uint8_t>(*lone);
    return;
  }
  singles_ = table_of_singles(lengths);
  many_ = std::make_shared<Many>();
}

const HuffmanDecoder::Many& HuffmanDecoder::many() const {
  std::call_once(many_->once, [&] {
    if (mean_length_ < kFirstOfThree) {
      many_->sixes = table_of_many<uint64_t>(singles_);
    } else {
      many_->threes = table_of_many<uint32_t>(singles_);
    }
  });
  return *many_;
}

void HuffmanDecoder::decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const {
  if (singles_.empty() || symbols.empty()) {
    if (!piece.empty()) refuse(0, text("no bytes, got ", piece.size()));
    std::ranges::fill(symbols, lone_);
    return;
  }
  auto streams = cut(piece, symbols);
  const size_t count = huffman_streams(symbols.size());
  const std::byte* const end = piece.data() + piece.size();
  if (count > 1 && (symbols.size() < kFirstWithMany || mean_length_ >= kFirstOfOne)) {
    decode_fast(streams, singles_, end);
  } else if (count > 1) {
    const auto& [once, threes, sixes] = many();
    threes.empty() ? decode_fast(streams, sixes, end) : decode_fast(streams, threes, end);
  }
  for (size_t s = 0; s < count; ++s) {
    const auto offset = static_cast<uint64_t>(streams[s].bytes.data() - piece.data());
    decode_rest(streams[s], singles_, offset);
  }
}

}  // namespace pomona
