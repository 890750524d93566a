#include "infer/float_values.h"

#include "base/float16.h"

#include <algorithm>
#include <cstring>

namespace pomona {

std::vector<float> float_values(const Weight& weight) {
  std::vector<float> floats(weight.values.size() / static_cast<size_t>(item_size(weight.dtype)));
  if (weight.dtype == DType::kFloat32) {
    if (!floats.empty()) std::memcpy(floats.data(), weight.values.data(), weight.values.size());
    return floats;
  }
  std::vector<uint16_t> halves(floats.size());
  if (!halves.empty()) std::memcpy(halves.data(), weight.values.data(), weight.values.size());
  std::ranges::transform(
      halves, floats.begin(),
      weight.dtype == DType::kFloat16 ? float_from_float16 : float_from_bfloat16);
  return floats;
}

}  // namespace pomona
