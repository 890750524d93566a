// Tensors <-> Weight.
#include "pomona/error.h"
#include "pomona/io.h"

#include "base/text.h"
#include "nn/dtypes.h"

#include <ATen/ops/empty.h>

namespace pomona {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& condition,
                         const std::string& got) {
  throw InvalidArgument(
      text("to_weight: expected `", name, "` to ", condition, ", got ", got, "."));
}

DType dtype_of(const std::string& name, const at::Tensor& tensor) {
  if (const auto dtype = pomona::dtype_of(tensor.scalar_type())) return *dtype;
  refuse(name, "have a dtype that a file can hold (float, integer or bool)",
         c10::toString(tensor.scalar_type()));
}

void check_dense(const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined()) refuse(name, "be a tensor", "an undefined one");
  if (tensor.is_quantized()) refuse(name, "be dense", "a quantized tensor");
  if (tensor.layout() != at::kStrided) {
    refuse(name, "be dense", text("layout ", tensor.layout(), ". Call to_dense() on it first"));
  }
  if (tensor.unsafeGetTensorImpl()->is_python_dispatch()) {
    refuse(name, "be dense", "a tensor subclass that keeps its data elsewhere");
  }
  if (tensor.is_meta()) refuse(name, "have data", "a tensor on the meta device");
}

}  // namespace

Weight to_weight(const std::string& name, const at::Tensor& tensor) {
  check_dense(name, tensor);
  const DType dtype = dtype_of(name, tensor);
  const at::Tensor dense = tensor.detach().cpu().resolve_neg().contiguous();
  return make_weight(name, dtype, dense.sizes().vec(),
                     {static_cast<const std::byte*>(dense.const_data_ptr()), dense.nbytes()});
}

at::Tensor to_tensor(const Weight& weight) {
  at::Tensor tensor = at::empty(weight.shape, scalar_type(weight.dtype));
  weight.to_dense({static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
  return tensor;
}

}  // namespace pomona
