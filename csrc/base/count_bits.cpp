#include "base/count_bits.h"

#include <bit>

namespace pomona {
namespace {

#if defined(__x86_64__)
__attribute__((target("popcnt"))) int64_t count_with_popcnt(std::span<const uint64_t> words) {
  int64_t count = 0;
  for (const uint64_t word : words) count += __builtin_popcountll(word);
  return count;
}
#endif

}  // namespace

int64_t count_bits(std::span<const uint64_t> words) {
#if defined(__x86_64__)
  static const bool has_popcnt = __builtin_cpu_supports("popcnt") != 0;
  if (has_popcnt) return count_with_popcnt(words);
#endif
  int64_t count = 0;
  for (const uint64_t word : words) count += std::popcount(word);
  return count;
}

}  // namespace pomona
