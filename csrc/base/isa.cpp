#include "base/isa.h"

namespace pomona {

bool has_isa(Isa isa) {
  bool has = isa == Isa::kPortable || isa == Isa::kBest;
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") != 0;
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Vbmi) {
    has = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
          __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  }
  if (isa == Isa::kAvx512Vbmi) has = has && __builtin_cpu_supports("avx512vbmi") != 0;
#endif
  return has;
}

Isa resolve_isa(Isa isa) {
  static const Isa best = has_isa(Isa::kAvx512Vbmi) ? Isa::kAvx512Vbmi
                          : has_isa(Isa::kAvx512)   ? Isa::kAvx512
                          : has_isa(Isa::kAvx2)     ? Isa::kAvx2
                                                    : Isa::kPortable;
  return isa == Isa::kBest ? best : isa;
}

}  // namespace pomona
