#pragma once
// Recurrent layers on packed weights, for LibTorch: both matrices of every layer and direction are
// packed (EIE, Table III: NT-LSTM). The same names, buffers and outputs as pomona.nn in Python.

#include "pomona/export.h"
#include "pomona/nn.h"
#include "pomona/projections.h"

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/rnn.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace pomona::nn {

// The packed matrices of one layer in one direction.
class POMONA_API PackedCellImpl : public torch::nn::Cloneable<PackedCellImpl> {
 public:
  // The matrices whose names end in `suffix`.
  PackedCellImpl(const Projections& projections, const std::string& suffix, bool has_projection);
  void reset() override;  // what clone() needs: registers copies

  PackedLinear input{nullptr};       // [gates * hidden_size, features], for all steps at once
  PackedLinear hidden{nullptr};      // [gates * hidden_size, proj_size or hidden_size]
  PackedLinear projection{nullptr};  // [proj_size, hidden_size]; null where there is none
};
TORCH_MODULE(PackedCell);

// What both have in common: the layers and directions, one after the other. For inference: no
// gradient reaches the weights, and dropout between layers is left out. A PackedSequence is not
// taken: pad it first. The states and outputs have the input's dtype.
//
// input [steps, batch, input_size], [batch, steps, input_size] with batch_first, or unbatched
// [steps, input_size]. output [steps, batch, D * H] (or as the input lies), where H is proj_size or
// hidden_size and D the number of directions; states [num_layers * D, batch, H], without `batch`
// where the input has none; states to begin with are zeros unless given.
template <class Rnn>
class POMONA_API PackedRnn : public torch::nn::Cloneable<Rnn> {
 public:
  void reset() override;  // what clone() needs: registers copies
  void pretty_print(std::ostream& stream) const override;

  torch::nn::ModuleList cells{nullptr};  // of PackedCell: [layer * directions + direction]
  int64_t input_size, hidden_size, num_layers, proj_size;
  bool batch_first, bidirectional;

 protected:
  using State = std::vector<at::Tensor>;  // what a step hands on: the output first

  PackedRnn(const char* name, size_t states, const torch::nn::detail::RNNOptionsBase& options,
            const Projections& projections);
  // The output and the last states. `given` empty: zeros. Throws InvalidArgument for an input or
  // states of other shapes, and for no step.
  std::pair<at::Tensor, State> run(const at::Tensor& input, State given);
  // One step of one cell: gates [batch, gates * hidden_size] of its input, state [batch, ...].
  virtual State step(PackedCellImpl& cell, const at::Tensor& gates, const State& state) = 0;

 private:
  void check_input(const at::Tensor& input) const;
  State initial(State given, const at::Tensor& steps, bool is_single) const;
  std::pair<at::Tensor, State> run_cell(size_t index, const at::Tensor& steps, State state);

  const char* name_;
  size_t states_;
};

// torch::nn::LSTM on packed weights:
//   i, f, g, o = W_input x + W_hidden h     c' = sigma(f) c + sigma(i) tanh(g)
//   h' = sigma(o) tanh(c'), or W_projection of that.
// Source: EIE, Table III: NT-LSTM.
class POMONA_API PackedLSTMImpl : public PackedRnn<PackedLSTMImpl> {
 public:
  // The weights are copied, on their device. Throws InvalidArgument for NaN or Inf, a dtype or a
  // layout that cannot hold a weight.
  explicit PackedLSTMImpl(const torch::nn::LSTM& lstm, const Packing& packing = {});
  // As `lstm`, with the weights of another place.
  PackedLSTMImpl(const torch::nn::LSTM& lstm, const Projections& projections);
  // hx: (hidden, memory). Returns (output, (hidden, memory)).
  std::tuple<at::Tensor, std::tuple<at::Tensor, at::Tensor>> forward(
      const at::Tensor& input, std::optional<std::tuple<at::Tensor, at::Tensor>> hx = {});

 protected:
  FORWARD_HAS_DEFAULT_ARGS(
      {1, torch::nn::AnyValue(std::optional<std::tuple<at::Tensor, at::Tensor>>())})
  State step(PackedCellImpl& cell, const at::Tensor& gates, const State& state) override;
};
TORCH_MODULE(PackedLSTM);

// torch::nn::GRU on packed weights:
//   r, z, n = W_input x     r', z', n' = W_hidden h     c = tanh(n + sigma(r + r') n')
//   h' = c + sigma(z + z') (h - c).
class POMONA_API PackedGRUImpl : public PackedRnn<PackedGRUImpl> {
 public:
  // As PackedLSTM.
  explicit PackedGRUImpl(const torch::nn::GRU& gru, const Packing& packing = {});
  PackedGRUImpl(const torch::nn::GRU& gru, const Projections& projections);
  // hx undefined: zeros. Returns (output, hidden).
  std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& input, at::Tensor hx = {});

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(at::Tensor())})
  State step(PackedCellImpl& cell, const at::Tensor& gates, const State& state) override;
};
TORCH_MODULE(PackedGRU);

}  // namespace pomona::nn
