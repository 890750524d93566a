// Every operator of Pomona on one page. An operator is what happens inside forward or backward,
// with output sizes that follow from its arguments; everything else is a plain function. CPU, Meta
// and Autograd stand in csrc/<chapter>, CUDA in cuda/.
#include <torch/library.h>

TORCH_LIBRARY(pomona, m) {
  // prune: zeroes each tensor where its mask's bit is 0. masks: uint8 [dim0, ceil(numel / dim0 /
  // 8)], row-aligned.
  m.def("apply_masks_(Tensor(a!)[] tensors, Tensor[] masks) -> ()");

  // quantize: weight[i] = codebook[codes[i]], and its backward, the sum over each cluster.
  m.def(
      "lookup(Tensor codebook, Tensor codes, SymInt[] shape, *, int bits=8, ScalarType? dtype=None)"
      " -> Tensor");
  m.def("centroid_grad(Tensor grad, Tensor codes, SymInt k, *, int bits=8) -> Tensor");

  // infer: input W^T + bias on a packed layout, and W itself, float32 [out_features, in_features].
  m.def("packed_linear(Tensor input, Tensor packed, Tensor? bias, SymInt out_features) -> Tensor");
  m.def("packed_weight(Tensor packed, SymInt out_features, SymInt in_features) -> Tensor");
}
