// The pass in three forms: AVX-512, AVX2 and plain C++, which the others must equal.
#include "prune/select_pass_kernel.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pomona {
namespace {

constexpr size_t kWordBits = 64;

// Of 64 scores (or fewer, at the end): bit j is set when key j is below, or within the bracket.
struct Found {
  uint64_t below = 0;
  uint64_t within = 0;
};

template <class Key>
Found find_portable(const Key* bits, size_t count, const Bracket<Key>& bracket, Key& largest) {
  Found found;
  for (size_t j = 0; j < count; ++j) {
    const Key key = key_of(bits[j], bracket.by_value);
    largest = std::max(largest, key_of(bits[j], false));
    found.below |= uint64_t{key < bracket.low} << j;
    found.within |= uint64_t{key <= bracket.high} << j;
  }
  found.within &= ~found.below;
  return found;
}

// What is left to do with one word: rare, so it is the same for all.
template <class Key>
void finish_word(Found found, const Key* bits, int64_t first, uint32_t part, bool by_value,
                 uint64_t& word, std::vector<Candidate<Key>>& candidates) {
  for (uint64_t left = found.within & word; left != 0; left &= left - 1) {
    const int j = std::countr_zero(left);
    candidates.push_back({key_of(bits[j], by_value), part, first + j});
  }
  word &= ~found.below;
}

template <class Key>
Key pass_portable(std::span<const Key> bits, const Bracket<Key>& bracket, uint32_t part,
                  std::span<uint64_t> words, std::vector<Candidate<Key>>& candidates, size_t begin,
                  Key largest) {
  for (size_t w = begin; w < words.size(); ++w) {
    const Key* block = bits.data() + w * kWordBits;
    const size_t count = std::min(kWordBits, bits.size() - w * kWordBits);
    const Found found = find_portable(block, count, bracket, largest);
    finish_word(found, block, static_cast<int64_t>(w * kWordBits), part, bracket.by_value, words[w],
                candidates);
  }
  return largest;
}

#if defined(__x86_64__)
#define POMONA_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define POMONA_AVX2 __attribute__((target("avx2")))

// The operations on vectors of 16-, 32- and 64-bit keys, by overload.
POMONA_AVX512 inline __m512i splat512(int16_t x) {
  return _mm512_set1_epi16(x);
}
POMONA_AVX512 inline __m512i splat512(int32_t x) {
  return _mm512_set1_epi32(x);
}
POMONA_AVX512 inline __m512i splat512(int64_t x) {
  return _mm512_set1_epi64(x);
}
POMONA_AVX512 inline __m512i sign512(__m512i v, int16_t) {
  return _mm512_srai_epi16(v, 15);
}
POMONA_AVX512 inline __m512i sign512(__m512i v, int32_t) {
  return _mm512_srai_epi32(v, 31);
}
POMONA_AVX512 inline __m512i sign512(__m512i v, int64_t) {
  return _mm512_srai_epi64(v, 63);
}
POMONA_AVX512 inline __m512i max512(__m512i a, __m512i b, int16_t) {
  return _mm512_max_epi16(a, b);
}
POMONA_AVX512 inline __m512i max512(__m512i a, __m512i b, int32_t) {
  return _mm512_max_epi32(a, b);
}
POMONA_AVX512 inline __m512i max512(__m512i a, __m512i b, int64_t) {
  return _mm512_max_epi64(a, b);
}
POMONA_AVX512 inline uint64_t less512(__m512i a, __m512i b, int16_t) {
  return _mm512_cmplt_epi16_mask(a, b);
}
POMONA_AVX512 inline uint64_t less512(__m512i a, __m512i b, int32_t) {
  return _mm512_cmplt_epi32_mask(a, b);
}
POMONA_AVX512 inline uint64_t less512(__m512i a, __m512i b, int64_t) {
  return _mm512_cmplt_epi64_mask(a, b);
}

template <class Key>
POMONA_AVX512 Key pass_avx512(std::span<const Key> bits, const Bracket<Key>& bracket, uint32_t part,
                              std::span<uint64_t> words, std::vector<Candidate<Key>>& candidates) {
  constexpr size_t kLanes = 64 / sizeof(Key);
  const __m512i low = splat512(bracket.low), high = splat512(bracket.high);
  const __m512i magnitude = splat512(magnitude_mask<Key>());
  const __m512i value = bracket.by_value ? _mm512_set1_epi64(-1) : _mm512_setzero_si512();
  __m512i largest = _mm512_setzero_si512();
  const size_t whole = bits.size() / kWordBits;
  for (size_t w = 0; w < whole; ++w) {
    const Key* block = bits.data() + w * kWordBits;
    Found found;
    uint64_t above = 0;
    for (size_t j = 0; j < kWordBits; j += kLanes) {
      const __m512i raw = _mm512_loadu_si512(block + j);
      const __m512i absolute = _mm512_and_si512(raw, magnitude);
      const __m512i flipped =
          _mm512_xor_si512(raw, _mm512_and_si512(sign512(raw, Key{}), magnitude));
      const __m512i key =
          _mm512_or_si512(_mm512_andnot_si512(value, absolute), _mm512_and_si512(value, flipped));
      largest = max512(largest, absolute, Key{});
      found.below |= less512(key, low, Key{}) << j;
      above |= less512(high, key, Key{}) << j;
    }
    found.within = ~(found.below | above);
    finish_word(found, block, static_cast<int64_t>(w * kWordBits), part, bracket.by_value, words[w],
                candidates);
  }
  alignas(64) Key lanes[kLanes];
  _mm512_store_si512(lanes, largest);
  const Key most = *std::max_element(lanes, lanes + kLanes);
  return pass_portable(bits, bracket, part, words, candidates, whole, most);
}

POMONA_AVX2 inline __m256i splat256(int16_t x) {
  return _mm256_set1_epi16(x);
}
POMONA_AVX2 inline __m256i splat256(int32_t x) {
  return _mm256_set1_epi32(x);
}
POMONA_AVX2 inline __m256i splat256(int64_t x) {
  return _mm256_set1_epi64x(x);
}
POMONA_AVX2 inline __m256i greater256(__m256i a, __m256i b, int16_t) {
  return _mm256_cmpgt_epi16(a, b);
}
POMONA_AVX2 inline __m256i greater256(__m256i a, __m256i b, int32_t) {
  return _mm256_cmpgt_epi32(a, b);
}
POMONA_AVX2 inline __m256i greater256(__m256i a, __m256i b, int64_t) {
  return _mm256_cmpgt_epi64(a, b);
}
// One bit for each lane of a comparison.
POMONA_AVX2 inline uint64_t bits256(__m256i lanes, int16_t) {
  const __m256i bytes = _mm256_packs_epi16(lanes, _mm256_setzero_si256());
  const auto ordered = _mm256_permute4x64_epi64(bytes, 0xd8);
  return static_cast<uint32_t>(_mm256_movemask_epi8(ordered)) & 0xffffu;
}
POMONA_AVX2 inline uint64_t bits256(__m256i lanes, int32_t) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
}
POMONA_AVX2 inline uint64_t bits256(__m256i lanes, int64_t) {
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(lanes)));
}

template <class Key>
POMONA_AVX2 Key pass_avx2(std::span<const Key> bits, const Bracket<Key>& bracket, uint32_t part,
                          std::span<uint64_t> words, std::vector<Candidate<Key>>& candidates) {
  constexpr size_t kLanes = 32 / sizeof(Key);
  const __m256i low = splat256(bracket.low), high = splat256(bracket.high);
  const __m256i magnitude = splat256(magnitude_mask<Key>());
  const __m256i value = bracket.by_value ? _mm256_set1_epi64x(-1) : _mm256_setzero_si256();
  __m256i largest = _mm256_setzero_si256();
  const size_t whole = bits.size() / kWordBits;
  for (size_t w = 0; w < whole; ++w) {
    const Key* block = bits.data() + w * kWordBits;
    Found found;
    uint64_t above = 0;
    for (size_t j = 0; j < kWordBits; j += kLanes) {
      const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + j));
      const __m256i absolute = _mm256_and_si256(raw, magnitude);
      const __m256i sign = greater256(_mm256_setzero_si256(), raw, Key{});
      const __m256i flipped = _mm256_xor_si256(raw, _mm256_and_si256(sign, magnitude));
      const __m256i key =
          _mm256_or_si256(_mm256_andnot_si256(value, absolute), _mm256_and_si256(value, flipped));
      const __m256i is_larger = greater256(absolute, largest, Key{});
      largest = _mm256_blendv_epi8(largest, absolute, is_larger);
      found.below |= bits256(greater256(low, key, Key{}), Key{}) << j;
      above |= bits256(greater256(key, high, Key{}), Key{}) << j;
    }
    found.within = ~(found.below | above);
    finish_word(found, block, static_cast<int64_t>(w * kWordBits), part, bracket.by_value, words[w],
                candidates);
  }
  alignas(32) Key lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  const Key most = *std::max_element(lanes, lanes + kLanes);
  return pass_portable(bits, bracket, part, words, candidates, whole, most);
}
#undef POMONA_AVX512
#undef POMONA_AVX2
#endif

}  // namespace

template <class Key>
Key select_pass(std::span<const Key> bits, const Bracket<Key>& bracket, uint32_t part,
                std::span<uint64_t> words, std::vector<Candidate<Key>>& candidates, Isa isa) {
  isa = resolve_isa(isa);
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return pass_avx512(bits, bracket, part, words, candidates);
  if (isa == Isa::kAvx2) return pass_avx2(bits, bracket, part, words, candidates);
#endif
  return pass_portable(bits, bracket, part, words, candidates, 0, Key{0});
}

template POMONA_API int16_t select_pass(std::span<const int16_t>, const Bracket<int16_t>&, uint32_t,
                                        std::span<uint64_t>, std::vector<Candidate<int16_t>>&, Isa);
template POMONA_API int32_t select_pass(std::span<const int32_t>, const Bracket<int32_t>&, uint32_t,
                                        std::span<uint64_t>, std::vector<Candidate<int32_t>>&, Isa);
template POMONA_API int64_t select_pass(std::span<const int64_t>, const Bracket<int64_t>&, uint32_t,
                                        std::span<uint64_t>, std::vector<Candidate<int64_t>>&, Isa);

}  // namespace pomona
