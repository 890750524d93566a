#pragma once
// Which neurons are dead, and what their leaving does to biases (thesis ch. 3); found on tensors,
// without touching a model, for both languages.
//
// Note [Dead]. A neuron leaves when all its outgoing weights are zero (nobody reads it), or when
// all its incoming weights are: then its output is one number for every input, act(bias), which is
// carried through the operations to the consumer and folded into the consumer's bias there. Either
// may kill the next one, so both are repeated until nothing changes.

#include "pomona/export.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pomona {

// One operation between two layers; it treats each neuron by itself.
struct DeadOperation {
  enum class Kind { kElement, kPool, kNorm, kDropout, kFlat };
  Kind kind = Kind::kElement;
  std::string name;
  std::function<at::Tensor(const at::Tensor&)> run{};  // kElement, kPool: what it computes
  std::vector<int64_t> shape{};                        // of what goes in, with the example
  bool is_random = false;                              // kDropout that is on in evaluation too
  // kNorm: statistics and affine [features], each undefined where there is none.
  at::Tensor running_mean{}, running_var{}, weight{}, bias{};
  double eps = 0.0;
  bool is_training = false;
};

// A layer, and the chain of operations to the one that its neurons feed.
struct DeadLayer {
  std::string name;
  at::Tensor weight;  // [neurons, inputs, ...]; is_transposed: [inputs, neurons, ...]
  at::Tensor bias{};  // [neurons], or undefined
  bool is_transposed = false;
  bool pads_with_zeros = false;  // its input, which a constant then does not reach everywhere
  std::string why{};             // its neurons must stay; empty: they may leave
  std::string consumer{};        // where `why` is empty, the layer that they feed
  int64_t spread = 1;            // values of the consumer's input for each neuron, side by side
  std::vector<DeadOperation> operations{};
};

// What became of a layer: how many neurons leave, how many dead ones stay, and why.
struct DeadRow {
  std::string layer;
  int64_t neurons = 0;
  int64_t removed = 0;
  int64_t stayed = 0;
  std::string why{};
};

// Source: thesis ch. 3; Han et al., Learning both Weights and Connections, NIPS 2015, §3.5.
class POMONA_API DeadPlan {
 public:
  // `held` are the masks (bool, true is kept) of biases that a pruner holds, by parameter name. In
  // the order of `layers`, each consumer among them. Throws InvalidArgument for a consumer that is
  // not. Changes nothing.
  DeadPlan(std::vector<DeadLayer> layers, std::map<std::string, at::Tensor> held);

  // For each layer which neurons stay: bool [neurons], CPU.
  const std::vector<at::Tensor>& alive() const { return alive_; }
  // For each layer its bias [neurons] with the constants of those that leave, all neurons still
  // there; undefined where it has none.
  const std::vector<at::Tensor>& biases() const { return biases_; }
  // Which inputs of layer i are alive: bool [inputs], CPU; nothing when nothing that leaves feeds
  // it.
  std::optional<at::Tensor> inputs(size_t i) const;
  // The report, in the order of the layers.
  std::vector<DeadRow> rows() const;

 private:
  // A neuron, and why it stays though it is dead.
  using Stayed = std::vector<std::pair<int64_t, std::string>>;

  bool pass(size_t i);
  void stay(size_t i, const at::Tensor& which, const std::string& why);
  at::Tensor fold(size_t i, const at::Tensor& to_fold);
  size_t index_of(const std::string& name) const;

  std::vector<DeadLayer> layers_;
  std::vector<std::optional<size_t>> consumers_, producers_;
  std::vector<at::Tensor> nonzero_;  // bool [neurons, inputs], CPU
  std::vector<at::Tensor> alive_, biases_;
  std::vector<Stayed> stayed_;
  std::map<std::string, at::Tensor> held_;
};

}  // namespace pomona
