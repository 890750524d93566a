// Every operator of Pomona on one page. An operator is what happens inside forward or backward,
// with output sizes that follow from its arguments; everything else is a plain function. CPU, Meta
// and Autograd stand in csrc/<chapter>, CUDA in cuda/.
#include <torch/library.h>

TORCH_LIBRARY(pomona, m) {
  // prune: zeroes each tensor where its mask's bit is 0. masks: uint8 [dim0, ceil(numel / dim0 /
  // 8)], row-aligned.
  m.def("apply_masks_(Tensor(a!)[] tensors, Tensor[] masks) -> ()");
  // Which weights go, where their scores lie (csrc/prune/radix_select_kernel.h has the driver).
  // words: a mask as int64 [ceil(numel / 64)]. The index of the first NaN or Inf, -1 for none; how
  // many live scores have each digit under a prefix, int64 [2048]; the mask without what lies below
  // the key `cut` and the first `ties` that equal it.
  m.def("first_not_finite(Tensor scores) -> Tensor");
  m.def(
      "select_histogram(Tensor scores, Tensor words, *, int shift, int prefix=0,"
      " bool by_value=False) -> Tensor");
  m.def(
      "select_mask(Tensor scores, Tensor words, *, int cut, int ties=0, bool by_value=False)"
      " -> Tensor");

  // quantize: weight[i] = codebook[codes[i]], and its backward, the sum over each cluster. `group`
  // elements in a row share a codebook (0: all); with has_zero code 0 is 0.0 and stands in none.
  m.def(
      "lookup(Tensor codebook, Tensor codes, SymInt[] shape, *, int bits=8, SymInt group=0, "
      "bool has_zero=False, ScalarType? dtype=None) -> Tensor");
  m.def(
      "lookup_into_(Tensor(a!) out, Tensor codebook, Tensor codes, *, int bits=8, SymInt group=0, "
      "bool has_zero=False) -> ()");
  m.def(
      "centroid_grad(Tensor grad, Tensor codes, SymInt k, *, int bits=8, SymInt group=0, "
      "bool has_zero=False) -> Tensor");
  // Each gradient becomes its cluster's mean or sum; each cluster of weights becomes one value.
  m.def(
      "pool_gradients_(Tensor(a!)[] gradients, Tensor[] codes, Tensor[] counts, int[] groups, "
      "bool mean) -> ()");
  m.def(
      "snap_weights_(Tensor(a!)[] weights, Tensor[] codes, Tensor[] counts, Tensor[] first, "
      "int[] groups) -> ()");

  // infer: input W^T + bias on a packed layout (and max(0, that)), and W itself, float32
  // [out_features, in_features].
  m.def(
      "packed_linear(Tensor input, Tensor packed, Tensor? bias, SymInt out_features, *, "
      "bool relu=False) -> Tensor");
  m.def("packed_weight(Tensor packed, SymInt out_features, SymInt in_features) -> Tensor");
  // The rows of W at `indices` (integers [...]), float32 [..., embedding_dim]; csr16 and lut.
  m.def(
      "packed_embedding(Tensor indices, Tensor packed, SymInt num_embeddings, "
      "SymInt embedding_dim) -> Tensor");
}
