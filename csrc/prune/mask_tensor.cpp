#include "prune/mask_tensor.h"

#include "prune/apply_masks.h"

#include <ATen/ops/empty.h>

#include <cstring>

namespace pomona {
namespace {

int64_t row_count(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape[0];
}

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

}  // namespace

at::Tensor to_tensor(const Mask& mask, const std::vector<int64_t>& shape) {
  const auto expected = mask_shape(c10::fromIntArrayRefSlow(shape));
  const auto bytes = mask.to_row_bytes(row_count(shape));
  at::Tensor tensor = at::empty({expected[0].expect_int(), expected[1].expect_int()}, at::kByte);
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

Mask to_mask(const at::Tensor& tensor, const std::vector<int64_t>& shape) {
  const at::Tensor bytes = tensor.to(at::kCPU).contiguous();
  return Mask::from_row_bytes({bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel())},
                              element_count(shape), row_count(shape));
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.is_floating_point() &&
         !tensor.key_set().has(c10::DispatchKey::Python);
}

}  // namespace pomona
