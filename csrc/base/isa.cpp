#include "base/isa.h"

namespace pomona {

#if defined(POMONA_EMULATED_ISA)  // tests/isa_emulator has them all
bool has_isa(Isa) {
  return true;
}
#else
bool has_isa(Isa isa) {
  bool has = isa == Isa::kPortable || isa == Isa::kBest;
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  }
  if (isa >= Isa::kAvx512 && isa < Isa::kBest) {
    has = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
          __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  }
  if (isa >= Isa::kAvx512Vbmi && isa < Isa::kBest) {
    has = has && __builtin_cpu_supports("avx512vbmi") != 0;
  }
  if (isa >= Isa::kAvx512Vnni && isa < Isa::kBest) {
    has = has && __builtin_cpu_supports("avx512vnni") != 0;
  }
  if (isa == Isa::kAvx512BFloat16) has = has && __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return has;
}
#endif

Isa resolve_isa(Isa isa) {
  static const Isa best = [] {
    auto found = Isa::kPortable;
    for (int i = 0; i < static_cast<int>(Isa::kBest); ++i) {
      if (has_isa(static_cast<Isa>(i))) found = static_cast<Isa>(i);
    }
    return found;
  }();
  return isa == Isa::kBest ? best : isa;
}

}  // namespace pomona
