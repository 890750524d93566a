#include "infer/float_weight.h"

#include "base/float16.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace pomona {
namespace {

// One float per kept weight; empty when the weight is shared: its codebook is float32 already.
std::vector<float> float_values(const Weight& weight) {
  std::vector<float> floats(weight.values.size() / static_cast<size_t>(item_size(weight.dtype)));
  if (weight.dtype == DType::kFloat32) {
    if (!floats.empty()) std::memcpy(floats.data(), weight.values.data(), weight.values.size());
    return floats;
  }
  for (size_t i = 0; i < floats.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, weight.values.data() + i * sizeof bits, sizeof bits);
    floats[i] =
        weight.dtype == DType::kFloat16 ? float_from_float16(bits) : float_from_bfloat16(bits);
  }
  return floats;
}

}  // namespace

Weight float_weight(const Weight& weight) {
  const bool has_one_codebook = weight.is_shared() && weight.group == 0;
  Weight result{.name = weight.name,
                .dtype = DType::kFloat32,
                .shape = weight.shape,
                .mask = weight.mask,
                .codebook = has_one_codebook ? weight.codebook : std::vector<float>(),
                .codes = {},
                .values = {}};
  if (has_one_codebook && std::ranges::find(weight.codebook, 0.0f) == weight.codebook.end()) {
    result.codes = weight.codes;
    return result;
  }
  const std::vector<float> floats = float_values(weight);
  const auto centroids = static_cast<size_t>(weight.centroids());
  const auto group = static_cast<size_t>(weight.group != 0 ? weight.group : weight.mask.size());
  std::vector<float> values;
  size_t kept = 0;
  for_each_kept(weight.mask, [&](size_t i) {
    const float value = weight.is_shared()
                            ? weight.codebook[i / group * centroids + weight.codes[kept]]
                            : floats[kept];
    if (value == 0.0f) {
      result.mask.set(static_cast<int64_t>(i), false);
    } else if (has_one_codebook) {
      result.codes.push_back(weight.codes[kept]);
    } else {
      values.push_back(value);
    }
    ++kept;
  });
  const auto bytes = std::as_bytes(std::span(values));
  result.values.assign(bytes.begin(), bytes.end());
  return result;
}

}  // namespace pomona
