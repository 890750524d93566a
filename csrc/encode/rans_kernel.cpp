// Decoding in three forms: AVX-512 and AVX2, which find the symbols of a small alphabet by binary
// search in registers (no table, no gather) and others by gathers from a table of 4096 entries, and
// plain C++, which the others must equal. All take steps of one symbol for each state, while a step
// surely has its words; the last words are decoded from a copy with zeros after them.

#include "encode/rans_kernel.h"

#include "pomona/error.h"

#include "base/little_endian.h"
#include "base/text.h"
#include "encode/rans.h"

#include <algorithm>
#include <cstring>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pomona {
namespace {

constexpr uint32_t kSlot = kRansOne - 1;
constexpr int kFrequencyAt = 8, kWithinAt = 20;  // in an entry of the table

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("symbol stream", offset, "expected " + what);
}

// What one step of that many symbols can take in: a word for each state.
constexpr std::ptrdiff_t step_bytes(size_t lanes) {
  return static_cast<std::ptrdiff_t>(lanes * sizeof(uint16_t));
}

// States and where their next word is. Bytes in [next, end) may be read.
struct Cursor {
  std::array<uint32_t, kMostRansLanes> states{};
  const std::byte* next;
  const std::byte* end;
  size_t done = 0;  // symbols
};

struct Tables {
  const uint32_t* table;
  const uint16_t* begins;
  const uint16_t* frequencies;
  size_t alphabet;
};

// The next symbol of a state, which then is below 2^16 where it needs a word.
inline uint8_t take_symbol(uint32_t& state, const uint32_t* table) {
  const uint32_t entry = table[state & kSlot];
  state = ((entry >> kFrequencyAt) & kSlot) * (state >> kRansBits) + (entry >> kWithinAt);
  return static_cast<uint8_t>(entry);
}

// Steps of kLanes symbols while a step has words for all states. Whether a state needs a word is as
// good as random, so no branch depends on it: the word is read anyhow, and taken in or not.
template <size_t kLanes>
void decode_steps(Cursor& cursor, const uint32_t* table, std::span<uint8_t> symbols) {
  std::array<uint32_t, kLanes> states;
  std::copy_n(cursor.states.begin(), kLanes, states.begin());
  const std::byte* next = cursor.next;
  size_t i = cursor.done;
  for (; i + kLanes <= symbols.size() && cursor.end - next >= step_bytes(kLanes); i += kLanes) {
#pragma GCC unroll 8
    for (size_t lane = 0; lane < kLanes; ++lane) {
      uint32_t& state = states[lane];
      symbols[i + lane] = take_symbol(state, table);
      const auto if_low =
          static_cast<uint64_t>((int64_t{state} - kLowestRansState) >> 63);  // all ones
      const uint64_t word = load_little_endian<uint16_t>(next);
      state = static_cast<uint32_t>(state << (if_low & kRansWordBits) | (word & if_low));
      next += if_low & sizeof(uint16_t);
    }
  }
  std::ranges::copy(states, cursor.states.begin());
  cursor.next = next;
  cursor.done = i;
}

#if defined(__x86_64__)

constexpr std::ptrdiff_t kWordsOfAStep = step_bytes(kMostRansLanes);

// Permutations that put the next words where the bits of a mask of eight are set.
struct Expansions {
  alignas(32) uint32_t order[256][8];
};
constexpr Expansions make_expansions() {
  Expansions expansions{};
  for (uint32_t mask = 0; mask < 256; ++mask) {
    uint32_t next = 0;
    for (uint32_t lane = 0; lane < 8; ++lane) {
      expansions.order[mask][lane] = next;
      next += mask >> lane & 1;
    }
  }
  return expansions;
}
constexpr Expansions kExpansions = make_expansions();

#define POMONA_AVX2 __attribute__((target("avx2,popcnt"), always_inline)) inline

// Eight states, of which those below 2^16 take in the next words.
POMONA_AVX2 __m256i refill(__m256i state, const std::byte*& next) {
  // state < 2^16: its upper half is 0.
  const __m256i is_low =
      _mm256_cmpeq_epi32(_mm256_srli_epi32(state, kRansWordBits), _mm256_setzero_si256());
  const auto mask = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(is_low)));
  const __m256i words =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next)));
  const __m256i order =
      _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpansions.order[mask]));
  const __m256i taken = _mm256_permutevar8x32_epi32(words, order);
  const __m256i refilled = _mm256_or_si256(_mm256_slli_epi32(state, kRansWordBits), taken);
  next += sizeof(uint16_t) * static_cast<size_t>(_mm_popcnt_u32(mask));
  return _mm256_blendv_epi8(state, refilled, is_low);
}

// Eight states and their symbols, found in the table by gathers.
struct Gathers256 {
  static constexpr size_t kStates = 8;
  const int* table;

  POMONA_AVX2 explicit Gathers256(const Tables& tables)
      : table(reinterpret_cast<const int*>(tables.table)) {}
  POMONA_AVX2 void step(__m256i* states, const std::byte*& next, uint8_t* symbols) const {
    const __m256i slot_mask = _mm256_set1_epi32(kSlot);
    const __m256i bytes_to_front =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i entry =
        _mm256_i32gather_epi32(table, _mm256_and_si256(*states, slot_mask), sizeof(uint32_t));
    const __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(entry, kFrequencyAt), slot_mask);
    const __m256i state =
        _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(*states, kRansBits)),
                         _mm256_srli_epi32(entry, kWithinAt));
    const __m256i packed = _mm256_shuffle_epi8(entry, bytes_to_front);
    const auto low = static_cast<uint32_t>(_mm256_extract_epi32(packed, 0));
    const auto high = static_cast<uint32_t>(_mm256_extract_epi32(packed, 4));
    const uint64_t eight = uint64_t{high} << 32 | low;
    std::memcpy(symbols, &eight, sizeof eight);
    *states = refill(state, next);
  }
};

// Sixteen states and their symbols, of at most 16, found by binary search: the numbers of both
// vectors go side by side into one of 16. A byte shuffle fetches the low bytes of thresholds,
// another the high bytes; a symbol stands in both bytes of its place, so that both find it.
struct Search256 {
  static constexpr size_t kStates = 16;
  struct Words {
    __m256i low, high;  // bytes of 16 words, twice
  };
  __m256i middle, lower, upper;  // thresholds of the first two steps, less 1
  Words third, fourth, begins, frequencies;

  POMONA_AVX2 static __m256i twice(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  // Of a symbol the word of `symbol | step`, less `less`.
  POMONA_AVX2 static Words words_of(const uint16_t* from, size_t step, int less) {
    alignas(16) uint8_t low[16], high[16];
    for (size_t symbol = 0; symbol < 16; ++symbol) {
      const int word = from[symbol | step] - less;
      low[symbol] = static_cast<uint8_t>(word);
      high[symbol] = static_cast<uint8_t>(word >> 8);
    }
    return {twice(low), twice(high)};
  }
  POMONA_AVX2 explicit Search256(const Tables& tables)
      : middle(_mm256_set1_epi16(static_cast<int16_t>(tables.begins[8] - 1))),
        lower(_mm256_set1_epi16(static_cast<int16_t>(tables.begins[4] - 1))),
        upper(_mm256_set1_epi16(static_cast<int16_t>(tables.begins[12] - 1))),
        third(words_of(tables.begins, 2, 1)),
        fourth(words_of(tables.begins, 1, 1)),
        begins(words_of(tables.begins, 0, 0)),
        frequencies(words_of(tables.frequencies, 0, 0)) {}

  POMONA_AVX2 static __m256i fetch(const Words& from, __m256i at) {
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(from.low, at), _mm256_shuffle_epi8(from.high, at),
                              _mm256_set1_epi16(static_cast<int16_t>(0xff00)));
  }
  POMONA_AVX2 static __m256i bits_above(__m256i slots, __m256i thresholds, int bits) {
    return _mm256_and_si256(_mm256_cmpgt_epi16(slots, thresholds),
                            _mm256_set1_epi16(static_cast<int16_t>(bits)));
  }
  POMONA_AVX2 __m256i find(__m256i slots) const {
    const __m256i second = _mm256_blendv_epi8(lower, upper, _mm256_cmpgt_epi16(slots, middle));
    __m256i symbols =
        _mm256_or_si256(bits_above(slots, middle, 0x0808), bits_above(slots, second, 0x0404));
    symbols = _mm256_or_si256(symbols, bits_above(slots, fetch(third, symbols), 0x0202));
    return _mm256_or_si256(symbols, bits_above(slots, fetch(fourth, symbols), 0x0101));
  }
  POMONA_AVX2 void step(__m256i* states, const std::byte*& next, uint8_t* out) const {
    const __m256i slot_mask = _mm256_set1_epi32(kSlot), low = _mm256_set1_epi32(0xffff);
    const __m256i a = states[0], b = states[1];
    const __m256i slots =
        _mm256_or_si256(_mm256_and_si256(a, slot_mask),
                        _mm256_slli_epi32(_mm256_and_si256(b, slot_mask), kRansWordBits));
    const __m256i symbols = find(slots), frequency = fetch(frequencies, symbols);
    const __m256i within = _mm256_sub_epi16(slots, fetch(begins, symbols));
    const __m256i bytes_to_front =
        _mm256_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, 2,
                         6, 10, 14, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i sixteen = _mm256_permutevar8x32_epi32(
        _mm256_shuffle_epi8(symbols, bytes_to_front), _mm256_setr_epi32(0, 4, 1, 5, 2, 2, 2, 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(sixteen));
    states[0] = refill(_mm256_add_epi32(_mm256_mullo_epi32(_mm256_and_si256(frequency, low),
                                                           _mm256_srli_epi32(a, kRansBits)),
                                        _mm256_and_si256(within, low)),
                       next);
    states[1] =
        refill(_mm256_add_epi32(_mm256_mullo_epi32(_mm256_srli_epi32(frequency, kRansWordBits),
                                                   _mm256_srli_epi32(b, kRansBits)),
                                _mm256_srli_epi32(within, kRansWordBits)),
               next);
  }
};

template <class Step>
__attribute__((target("avx2,popcnt"))) void decode_avx2(Cursor& cursor, const Tables& tables,
                                                        std::span<uint8_t> symbols) {
  const Step step(tables);
  __m256i states[kMostRansLanes / 8];
  std::memcpy(states, cursor.states.data(), sizeof states);
  const std::byte* next = cursor.next;
  size_t i = cursor.done;
  for (; i + kMostRansLanes <= symbols.size() && cursor.end - next >= kWordsOfAStep;
       i += kMostRansLanes) {
#pragma GCC unroll 8
    for (size_t at = 0; at < kMostRansLanes; at += Step::kStates) {
      step.step(&states[at / 8], next, &symbols[i + at]);
    }
  }
  std::memcpy(cursor.states.data(), states, sizeof states);
  cursor.next = next;
  cursor.done = i;
}

#undef POMONA_AVX2

#define POMONA_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"), always_inline))

// 32 numbers of 12 bits -> symbols, probabilities and numbers within the symbol, 16 bits each.
// Found by binary search in registers: vpermw fetches 32 thresholds as fast as a gather one.
template <int kSteps>
struct SearchInRegisters {
  __m512i begins[2], frequencies[2];

  POMONA_AVX512 explicit SearchInRegisters(const Tables& tables) {
    for (int half = 0; half < 2; ++half) {
      begins[half] = _mm512_loadu_si512(tables.begins + 32 * half);
      frequencies[half] = _mm512_loadu_si512(tables.frequencies + 32 * half);
    }
  }
  POMONA_AVX512 __m512i fetch(const __m512i (&from)[2], __m512i at) const {
    if constexpr (kSteps <= 5) return _mm512_permutexvar_epi16(at, from[0]);
    return _mm512_permutex2var_epi16(from[0], at, from[1]);
  }
  POMONA_AVX512 void operator()(__m512i slots, __m512i& symbols, __m512i& frequency,
                                __m512i& within) const {
    symbols = _mm512_setzero_si512();
    for (int step = kSteps - 1; step >= 0; --step) {
      const __m512i middle = _mm512_add_epi16(symbols, _mm512_set1_epi16(int16_t(1 << step)));
      const __mmask32 is_above = _mm512_cmpge_epu16_mask(slots, fetch(begins, middle));
      symbols = _mm512_mask_mov_epi16(symbols, is_above, middle);
    }
    frequency = fetch(frequencies, symbols);
    within = _mm512_sub_epi16(slots, fetch(begins, symbols));
  }
};

// Two vectors of 16 states, A and B, of which the numbers go side by side into one vector of 32.
template <int kSteps>
POMONA_AVX512 inline void step_of_32(const SearchInRegisters<kSteps>& search, __m512i& a,
                                     __m512i& b, const std::byte*& next, uint8_t* symbols) {
  const __m512i low = _mm512_set1_epi32(0xffff), slot_mask = _mm512_set1_epi32(kSlot);
  const __m512i slots =
      _mm512_or_si512(_mm512_and_si512(a, slot_mask),
                      _mm512_slli_epi32(_mm512_and_si512(b, slot_mask), kRansWordBits));
  __m512i symbol, frequency, within;
  search(slots, symbol, frequency, within);
  a = _mm512_add_epi32(
      _mm512_mullo_epi32(_mm512_and_si512(frequency, low), _mm512_srli_epi32(a, kRansBits)),
      _mm512_and_si512(within, low));
  b = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_srli_epi32(frequency, kRansWordBits),
                                          _mm512_srli_epi32(b, kRansBits)),
                       _mm512_srli_epi32(within, kRansWordBits));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(symbols), _mm512_cvtepi32_epi8(symbol));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(symbols + 16),
                   _mm512_cvtepi32_epi8(_mm512_srli_epi32(symbol, kRansWordBits)));
  const __m512i lowest = _mm512_set1_epi32(kLowestRansState);
  for (__m512i* state : {&a, &b}) {
    const __mmask16 is_low = _mm512_cmplt_epu32_mask(*state, lowest);
    const __m512i words = _mm512_maskz_expand_epi32(
        is_low, _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(next))));
    *state = _mm512_mask_or_epi32(*state, is_low, _mm512_slli_epi32(*state, kRansWordBits), words);
    next += sizeof(uint16_t) * static_cast<size_t>(_mm_popcnt_u32(is_low));
  }
}

template <int kSteps>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt"))) void decode_in_registers(
    Cursor& cursor, const Tables& tables, std::span<uint8_t> symbols) {
  const SearchInRegisters<kSteps> search(tables);
  __m512i a = _mm512_loadu_si512(&cursor.states[0]), b = _mm512_loadu_si512(&cursor.states[16]);
  __m512i c = _mm512_loadu_si512(&cursor.states[32]), d = _mm512_loadu_si512(&cursor.states[48]);
  const std::byte* next = cursor.next;
  size_t i = cursor.done;
  for (; i + kMostRansLanes <= symbols.size() && cursor.end - next >= kWordsOfAStep;
       i += kMostRansLanes) {
    step_of_32(search, a, b, next, &symbols[i]);
    step_of_32(search, c, d, next, &symbols[i + 32]);
  }
  _mm512_storeu_si512(&cursor.states[0], a);
  _mm512_storeu_si512(&cursor.states[16], b);
  _mm512_storeu_si512(&cursor.states[32], c);
  _mm512_storeu_si512(&cursor.states[48], d);
  cursor.next = next;
  cursor.done = i;
}

// More than 64 symbols: from the table by gathers.
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt"))) void decode_by_gathers(
    Cursor& cursor, const Tables& tables, std::span<uint8_t> symbols) {
  constexpr size_t kVectors = kMostRansLanes / 16;
  __m512i states[kVectors];
  for (size_t v = 0; v < kVectors; ++v) states[v] = _mm512_loadu_si512(&cursor.states[16 * v]);
  const __m512i slot_mask = _mm512_set1_epi32(kSlot), lowest = _mm512_set1_epi32(kLowestRansState);
  const std::byte* next = cursor.next;
  size_t i = cursor.done;
  for (; i + kMostRansLanes <= symbols.size() && cursor.end - next >= kWordsOfAStep;
       i += kMostRansLanes) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const __m512i entry = _mm512_i32gather_epi32(_mm512_and_si512(states[v], slot_mask),
                                                   tables.table, sizeof(uint32_t));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(&symbols[i + 16 * v]),
                       _mm512_cvtepi32_epi8(entry));
      const __m512i frequency = _mm512_and_si512(_mm512_srli_epi32(entry, kFrequencyAt), slot_mask);
      const __m512i state =
          _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(states[v], kRansBits)),
                           _mm512_srli_epi32(entry, kWithinAt));
      const __mmask16 is_low = _mm512_cmplt_epu32_mask(state, lowest);
      const __m512i words = _mm512_maskz_expand_epi32(
          is_low,
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(next))));
      states[v] =
          _mm512_mask_or_epi32(state, is_low, _mm512_slli_epi32(state, kRansWordBits), words);
      next += sizeof(uint16_t) * static_cast<size_t>(_mm_popcnt_u32(is_low));
    }
  }
  for (size_t v = 0; v < kVectors; ++v) _mm512_storeu_si512(&cursor.states[16 * v], states[v]);
  cursor.next = next;
  cursor.done = i;
}

#undef POMONA_AVX512

// Whether there are instructions of that kind for 64 states.
bool decode_vectors(Isa isa, Cursor& cursor, const Tables& tables, std::span<uint8_t> symbols) {
  if (isa < Isa::kAvx2) return false;
  if (isa < Isa::kAvx512) {
    tables.alphabet <= 16 ? decode_avx2<Search256>(cursor, tables, symbols)
                          : decode_avx2<Gathers256>(cursor, tables, symbols);
  } else if (tables.alphabet <= 16) {
    decode_in_registers<4>(cursor, tables, symbols);
  } else if (tables.alphabet <= 32) {
    decode_in_registers<5>(cursor, tables, symbols);
  } else if (tables.alphabet <= 64) {
    decode_in_registers<6>(cursor, tables, symbols);
  } else {
    decode_by_gathers(cursor, tables, symbols);
  }
  return true;
}

#else

bool decode_vectors(Isa, Cursor&, const Tables&, std::span<uint8_t>) {
  return false;
}

#endif

// All whole steps for which [next, end) surely has words.
void decode_whole_steps(Isa isa, size_t lanes, Cursor& cursor, const Tables& tables,
                        std::span<uint8_t> symbols) {
  if (lanes == 1) return decode_steps<1>(cursor, tables.table, symbols);
  if (lanes == 8) return decode_steps<8>(cursor, tables.table, symbols);
  if (decode_vectors(isa, cursor, tables, symbols)) return;
  decode_steps<kMostRansLanes>(cursor, tables.table, symbols);
}

// The rest, where the words may end before the step does: from a copy of the last words, with zeros
// after them. Many symbols may be left, if they take next to no bits. Whether the words were just
// enough.
bool decode_rest(Isa isa, size_t lanes, Cursor& cursor, const Tables& tables,
                 std::span<uint8_t> symbols) {
  if (cursor.end - cursor.next > step_bytes(lanes)) return false;  // too many for what is left
  std::array<std::byte, 2 * step_bytes(kMostRansLanes)> words{};
  const std::byte* end = std::copy(cursor.next, cursor.end, words.data());
  cursor.next = words.data();
  cursor.end = end + step_bytes(lanes);
  decode_whole_steps(isa, lanes, cursor, tables, symbols);
  for (size_t lane = 0; cursor.done < symbols.size() && cursor.next <= end; ++lane) {
    uint32_t& state = cursor.states[lane];
    symbols[cursor.done++] = take_symbol(state, tables.table);
    if (state >= kLowestRansState) continue;
    state = state << kRansWordBits | load_little_endian<uint16_t>(cursor.next);
    cursor.next += sizeof(uint16_t);
  }
  return cursor.next == end;
}

}  // namespace

RansDecoder::RansDecoder(std::span<const uint16_t> frequencies, Isa isa)
    : isa_(resolve_isa(isa)), alphabet_(frequencies.size()) {
  begins_.fill(static_cast<uint16_t>(kRansOne));
  uint32_t before = 0;
  for (size_t symbol = 0; symbol < frequencies.size(); ++symbol) {
    const uint32_t frequency = frequencies[symbol];
    if (frequency == kRansOne) {
      lone_ = static_cast<uint8_t>(symbol);
      return;
    }
    if (symbol < begins_.size()) {
      begins_[symbol] = static_cast<uint16_t>(before);
      frequencies_[symbol] = frequencies[symbol];
    }
    for (uint32_t within = 0; within < frequency; ++within) {
      table_.push_back(static_cast<uint32_t>(symbol) | frequency << kFrequencyAt |
                       within << kWithinAt);
    }
    before += frequency;
  }
}

void RansDecoder::decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const {
  if (table_.empty() || symbols.empty()) {
    if (!piece.empty()) refuse(0, text("no bytes, got ", piece.size()));
    std::ranges::fill(symbols, lone_);
    return;
  }
  const size_t lanes = rans_lanes(symbols.size());
  const size_t head = lanes * sizeof(uint32_t);
  if (piece.size() < head || (piece.size() - head) % sizeof(uint16_t) != 0) {
    refuse(piece.size(), text(lanes, " states and words, got ", piece.size(), " bytes"));
  }
  Cursor cursor{.next = piece.data() + head, .end = piece.data() + piece.size()};
  std::memcpy(cursor.states.data(), piece.data(), head);
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (cursor.states[lane] < kLowestRansState)
      refuse(4 * lane, "states of at least 2^16, got a lower one");
  }
  const Tables tables{table_.data(), begins_.data(), frequencies_.data(), alphabet_};
  decode_whole_steps(isa_, lanes, cursor, tables, symbols);
  if (!decode_rest(isa_, lanes, cursor, tables, symbols)) {
    refuse(piece.size(), "as many words as the symbols take, got more or fewer");
  }
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (cursor.states[lane] != kLowestRansState)
      refuse(piece.size(), "states that end where they began");
  }
}

}  // namespace pomona
