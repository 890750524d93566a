// Look-up in four forms: AVX-512 with and without VBMI (codebooks in registers), AVX2 (gathers) and
// plain C++, which the others must equal.

#include "quantize/codebook_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pomona {
namespace {

template <class Element>
using Table = std::array<Element, kCodeValues>;  // padded with NaN

// An output that will not stay in a cache is written past it.
constexpr int64_t kStreamedBytes = int64_t{32} << 20;

template <int kBits, class Element>
void lookup_portable(const Table<Element>& table, const uint8_t* codes, Element* out,
                     int64_t size) {
  constexpr int64_t kPerByte = 8 / kBits;
  constexpr unsigned kMask = (1u << kBits) - 1;
  const int64_t whole = size / kPerByte;
  for (int64_t byte = 0; byte < whole; ++byte) {
    for (int64_t j = 0; j < kPerByte; ++j) {
      out[byte * kPerByte + j] = table[(codes[byte] >> (j * kBits)) & kMask];
    }
  }
  for (int64_t j = 0; whole * kPerByte + j < size; ++j) {
    out[whole * kPerByte + j] = table[(codes[whole] >> (j * kBits)) & kMask];
  }
}

#if defined(__x86_64__)
#define POMONA_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define POMONA_VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")))
#define POMONA_AVX2 __attribute__((target("avx2")))

// Sixteen codes, one a lane: 2 * kBits bytes.
template <int kBits>
POMONA_AVX512 inline __m512i codes512(const uint8_t* codes) {
  if constexpr (kBits == 8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  } else {
    // Each lane gets the 32 bits that hold its code, and shifts it down.
    uint64_t word = 0;
    std::memcpy(&word, codes, 2 * kBits);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i half = _mm512_srli_epi32(lane, kBits == 4 ? 3 : 4);  // 8 codes of 4 bits, or all
    const __m512i words = _mm512_castsi128_si512(_mm_cvtsi64_si128(static_cast<int64_t>(word)));
    const __m512i shift = _mm512_mullo_epi32(
        _mm512_and_si512(lane, _mm512_set1_epi32(32 / kBits - 1)), _mm512_set1_epi32(kBits));
    return _mm512_and_si512(_mm512_srlv_epi32(_mm512_permutexvar_epi32(half, words), shift),
                            _mm512_set1_epi32((1 << kBits) - 1));
  }
}

// Entries of kRegisters * 16, by the low bits of each code.
template <int kRegisters>
POMONA_AVX512 inline __m512i find512(const __m512i* table, __m512i codes) {
  if constexpr (kRegisters == 1) {
    return _mm512_permutexvar_epi32(codes, table[0]);
  } else if constexpr (kRegisters == 2) {
    return _mm512_permutex2var_epi32(table[0], codes, table[1]);
  } else {
    constexpr int kHalf = kRegisters / 2;
    const __mmask16 upper = _mm512_test_epi32_mask(codes, _mm512_set1_epi32(kHalf * 16));
    return _mm512_mask_blend_epi32(upper, find512<kHalf>(table, codes),
                                   find512<kHalf>(table + kHalf, codes));
  }
}

template <int kBits, int kRegisters, bool kStream, class Element>
POMONA_AVX512 void lookup_avx512(const Table<Element>& table, const uint8_t* codes, Element* out,
                                 int64_t size) {
  alignas(64) std::array<uint32_t, kRegisters * 16> wide;
  std::copy_n(table.begin(), wide.size(), wide.begin());
  __m512i registers[kRegisters];
  for (int r = 0; r < kRegisters; ++r) registers[r] = _mm512_load_si512(&wide[r * 16]);
  const __m512i last = _mm512_set1_epi32(kRegisters * 16 - 1), nan = _mm512_set1_epi32(-1);
  int64_t i = 0;
  for (; i + 16 <= size; i += 16, codes += 2 * kBits) {
    const __m512i code = codes512<kBits>(codes);
    __m512i found = find512<kRegisters>(registers, code);
    if constexpr (kBits == 8 && kRegisters < 16) {
      found = _mm512_mask_mov_epi32(found, _mm512_cmpgt_epi32_mask(code, last), nan);
    }
    if constexpr (sizeof(Element) == 4) {
      if constexpr (kStream) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), found);
      } else {
        _mm512_storeu_si512(out + i, found);
      }
    } else {
      const __m256i narrow = _mm512_cvtepi32_epi16(found);
      if constexpr (kStream) {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i), narrow);
      } else {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), narrow);
      }
    }
  }
  if constexpr (kStream) _mm_sfence();
  lookup_portable<kBits>(table, codes, out + i, size - i);
}

template <int kBits, class Element>
void lookup_avx512(const Table<Element>& table, int64_t k, const uint8_t* codes, Element* out,
                   int64_t size, bool is_streamed) {
  const auto run = [&](auto registers, auto stream) {
    lookup_avx512<kBits, registers(), stream()>(table, codes, out, size);
  };
  const auto with_registers = [&](auto stream) {
    using std::integral_constant;
    if (kBits < 8 || k <= 16) return run(integral_constant<int, 1>{}, stream);
    if (k <= 32) return run(integral_constant<int, 2>{}, stream);
    if (k <= 64) return run(integral_constant<int, 4>{}, stream);
    if (k <= 128) return run(integral_constant<int, 8>{}, stream);
    return run(integral_constant<int, 16>{}, stream);
  };
  const bool is_aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0;
  if (is_streamed && is_aligned) return with_registers(std::true_type{});
  with_registers(std::false_type{});
}

// Long codebooks, 64 codes at a time: each byte of an entry is looked up on its own, in a plane of
// 256 bytes (four registers), and the planes are interleaved.
//
//   codes  a b c d ...     plane 0  a0 b0 c0 d0 ...     interleaved  a0 a1 a2 a3  b0 b1 b2 b3 ...
//                          plane 1  a1 b1 c1 d1 ...
//
// Interleaving goes on within each fourth of a register, so codes are first put where it takes them
// from: a transposition of 4 x 4 groups of four.
struct Plane {
  __m512i quarters[4];
};

POMONA_VBMI inline Plane plane_of(const Table<uint32_t>& table, int byte) {
  alignas(64) std::array<uint8_t, kCodeValues> bytes;
  for (size_t j = 0; j < bytes.size(); ++j) {
    bytes[j] = static_cast<uint8_t>(table[j] >> (8 * byte));
  }
  Plane plane;
  for (int q = 0; q < 4; ++q) plane.quarters[q] = _mm512_load_si512(&bytes[size_t(q) * 64]);
  return plane;
}

POMONA_VBMI inline __m512i find_bytes(const Plane& plane, __m512i codes) {
  const __m512i lower = _mm512_permutex2var_epi8(plane.quarters[0], codes, plane.quarters[1]);
  const __m512i upper = _mm512_permutex2var_epi8(plane.quarters[2], codes, plane.quarters[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), lower, upper);  // by the highest bit
}

template <bool kStream>
POMONA_VBMI void lookup_vbmi(const Table<uint32_t>& table, const uint8_t* codes, uint32_t* out,
                             int64_t size) {
  const Plane planes[4] = {plane_of(table, 0), plane_of(table, 1), plane_of(table, 2),
                           plane_of(table, 3)};
  const __m512i transposed = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  int64_t i = 0;
  for (; i + 64 <= size; i += 64) {
    const __m512i code = _mm512_permutexvar_epi32(transposed, _mm512_loadu_si512(codes + i));
    const __m512i b0 = find_bytes(planes[0], code), b1 = find_bytes(planes[1], code);
    const __m512i b2 = find_bytes(planes[2], code), b3 = find_bytes(planes[3], code);
    const __m512i low01 = _mm512_unpacklo_epi8(b0, b1), high01 = _mm512_unpackhi_epi8(b0, b1);
    const __m512i low23 = _mm512_unpacklo_epi8(b2, b3), high23 = _mm512_unpackhi_epi8(b2, b3);
    const __m512i found[4] = {
        _mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
        _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
    for (int q = 0; q < 4; ++q) {
      if constexpr (kStream) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i) + q, found[q]);
      } else {
        _mm512_storeu_si512(out + i + q * 16, found[q]);
      }
    }
  }
  if constexpr (kStream) _mm_sfence();
  lookup_portable<8>(table, codes + i, out + i, size - i);
}

// Eight codes, one a lane: kBits bytes.
template <int kBits>
POMONA_AVX2 inline __m256i codes256(const uint8_t* codes) {
  if constexpr (kBits == 8) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  } else {
    int word = 0;
    std::memcpy(&word, codes, kBits);
    const __m256i shift =
        _mm256_mullo_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(kBits));
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shift),
                            _mm256_set1_epi32((1 << kBits) - 1));
  }
}

template <int kBits>
POMONA_AVX2 void lookup_avx2(const Table<uint32_t>& table, const uint8_t* codes, uint32_t* out,
                             int64_t size) {
  const auto* entries = reinterpret_cast<const int*>(table.data());
  int64_t i = 0;
  for (; i + 8 <= size; i += 8, codes += kBits) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_i32gather_epi32(entries, codes256<kBits>(codes), 4));
  }
  lookup_portable<kBits>(table, codes, out + i, size - i);
}
#undef POMONA_AVX512
#undef POMONA_VBMI
#undef POMONA_AVX2
#endif

// Elements [0, size) of codes that begin at a whole byte.
template <int kBits, class Element>
void lookup_codes(const Table<Element>& table, int64_t k, const uint8_t* codes, Element* out,
                  int64_t size, Isa isa, bool is_streamed) {
#if defined(__x86_64__)
  if constexpr (sizeof(Element) == 4 && kBits == 8) {
    constexpr int64_t kLong = 64;  // entries beyond which VBMI is faster, measured
    if (isa >= Isa::kAvx512Vbmi && k > kLong) {
      if (is_streamed && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
        return lookup_vbmi<true>(table, codes, out, size);
      }
      return lookup_vbmi<false>(table, codes, out, size);
    }
  }
  if constexpr (sizeof(Element) <= 4) {
    if (isa >= Isa::kAvx512) {
      return lookup_avx512<kBits>(table, k, codes, out, size, is_streamed);
    }
  }
  if constexpr (sizeof(Element) == 4) {
    if (isa >= Isa::kAvx2) return lookup_avx2<kBits>(table, codes, out, size);
  }
#endif
  (void)k, (void)isa, (void)is_streamed;
  lookup_portable<kBits>(table, codes, out, size);
}

}  // namespace

template <class Element>
void lookup_range(std::span<const Element> codebooks, const CodeLayout& layout, Element* out,
                  int64_t begin, int64_t end, Isa isa) {
  constexpr int64_t kShort = 64;  // below, a table would take longer than the elements
  constexpr auto kNan = static_cast<Element>(~Element{0});
  isa = resolve_isa(isa);
  const bool is_streamed = layout.size * static_cast<int64_t>(sizeof(Element)) >= kStreamedBytes;
  for (int64_t i = begin; i < end;) {
    const Element* codebook = codebooks.data() + i / layout.group * layout.k;
    const int64_t last = std::min((i / layout.group + 1) * layout.group, end);
    const auto one = [&] {
      const int64_t code = layout.code(i);
      out[i - begin] = code < layout.k ? codebook[code] : kNan;
      ++i;
    };
    while (i < last && (i * layout.bits % 8 != 0 || last - i < kShort)) one();
    if (i == last) continue;
    Table<Element> table;
    table.fill(kNan);
    std::copy_n(codebook, layout.k, table.begin());
    with_bits(layout.bits, [&](auto bits) {
      lookup_codes<bits()>(table, layout.k, layout.codes.data() + i * bits() / 8, out + (i - begin),
                           last - i, isa, is_streamed);
    });
    i = last;
  }
}

template POMONA_API void lookup_range(std::span<const uint16_t>, const CodeLayout&, uint16_t*,
                                      int64_t, int64_t, Isa);
template POMONA_API void lookup_range(std::span<const uint32_t>, const CodeLayout&, uint32_t*,
                                      int64_t, int64_t, Isa);
template POMONA_API void lookup_range(std::span<const uint64_t>, const CodeLayout&, uint64_t*,
                                      int64_t, int64_t, Isa);

}  // namespace pomona
