#include "base/crc32c.h"

#include "base/little_endian.h"

#include <array>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace pomona {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

// kTables[t][b]: what byte b does to the remainder when t more bytes follow it.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t remainder = b;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? kPolynomial : 0);
    }
    tables[0][b] = remainder;
  }
  for (size_t t = 1; t < tables.size(); ++t) {
    for (size_t b = 0; b < 256; ++b) {
      const uint32_t before = tables[t - 1][b];
      tables[t][b] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc32c_sse42(std::span<const std::byte> bytes,
                                                        uint32_t before) {
  uint64_t remainder = ~before;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    remainder = _mm_crc32_u64(remainder, load_little_endian<uint64_t>(bytes.data() + i));
  }
  auto last = static_cast<uint32_t>(remainder);
  for (; i < bytes.size(); ++i) last = _mm_crc32_u8(last, static_cast<uint8_t>(bytes[i]));
  return ~last;
}
#endif

}  // namespace

uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t before) {
  uint32_t remainder = ~before;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = load_little_endian<uint64_t>(bytes.data() + i) ^ remainder;
    remainder = 0;
    for (size_t t = 0; t < 8; ++t) remainder ^= kTables[7 - t][(word >> (8 * t)) & 0xff];
  }
  for (; i < bytes.size(); ++i) {
    remainder = (remainder >> 8) ^ kTables[0][(remainder ^ static_cast<uint32_t>(bytes[i])) & 0xff];
  }
  return ~remainder;
}

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return crc32c_sse42(bytes, before);
#endif
  return crc32c_portable(bytes, before);
}

}  // namespace pomona
