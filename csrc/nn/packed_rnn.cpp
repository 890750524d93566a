#include "pomona/packed_rnn.h"

#include "pomona/error.h"

#include "base/text.h"
#include "nn/registered_copy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <ostream>
#include <string>

namespace pomona::nn {
namespace {

using Shapes = std::vector<std::vector<int64_t>>;

Shapes shapes_of(const std::vector<at::Tensor>& tensors) {
  Shapes shapes;
  for (const at::Tensor& tensor : tensors) shapes.push_back(tensor.sizes().vec());
  return shapes;
}

std::string words(const Shapes& shapes) {
  std::string list;
  for (const auto& shape : shapes) {
    list += text(list.empty() ? "" : ", ", at::IntArrayRef(shape));
  }
  return "[" + list + "]";
}

}  // namespace

PackedCellImpl::PackedCellImpl(const Projections& projections, const std::string& suffix,
                               bool has_projection) {
  const auto project = [&](const char* name, const char* kind) {
    const auto packed = projections.packed(text("weight_", kind, "_", suffix), 1).front();
    const at::Tensor bias = projections.bias(text("bias_", kind, "_", suffix));
    return PackedLinear(register_module(name, PackedLinearImpl::from_packed(packed, bias)));
  };
  input = project("input", "ih");
  hidden = project("hidden", "hh");
  if (has_projection) projection = project("projection", "hr");
}

void PackedCellImpl::reset() {
  input = registered_copy(*this, "input", input);
  hidden = registered_copy(*this, "hidden", hidden);
  if (projection) projection = registered_copy(*this, "projection", projection);
}

template <class Rnn>
PackedRnn<Rnn>::PackedRnn(const char* name, size_t states,
                          const torch::nn::detail::RNNOptionsBase& options,
                          const Projections& projections)
    : input_size(options.input_size()),
      hidden_size(options.hidden_size()),
      num_layers(options.num_layers()),
      proj_size(options.proj_size()),
      batch_first(options.batch_first()),
      bidirectional(options.bidirectional()),
      name_(name),
      states_(states) {
  cells = this->register_module("cells", torch::nn::ModuleList());
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    for (const char* direction : {"", "_reverse"}) {
      if (*direction != '\0' && !bidirectional) continue;
      cells->push_back(PackedCell(projections, text("l", layer, direction), proj_size != 0));
    }
  }
}

template <class Rnn>
void PackedRnn<Rnn>::reset() {
  cells = registered_copy(*this, "cells", cells);
}

template <class Rnn>
void PackedRnn<Rnn>::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::" << name_ << "(" << input_size << ", " << hidden_size;
  if (num_layers != 1) stream << ", num_layers=" << num_layers;
  if (proj_size != 0) stream << ", proj_size=" << proj_size;
  if (batch_first) stream << ", batch_first";
  if (bidirectional) stream << ", bidirectional";
  stream << ")";
}

template <class Rnn>
void PackedRnn<Rnn>::check_input(const at::Tensor& input) const {
  const bool fits = (input.dim() == 2 || input.dim() == 3) && input.size(-1) == input_size;
  if (fits && input.size(0) > 0 && (input.dim() == 2 || input.size(batch_first ? 1 : 0) > 0)) {
    return;
  }
  throw InvalidArgument(text(name_, ": expected `input` of shape [steps, ", input_size,
                             "] or [steps, batch, ", input_size, "] with a step, got ",
                             input.sizes(), "."));
}

template <class Rnn>
auto PackedRnn<Rnn>::initial(State given, const at::Tensor& steps, bool is_single) const -> State {
  const auto count = static_cast<int64_t>(cells->size());
  Shapes shapes{{count, steps.size(1), proj_size != 0 ? proj_size : hidden_size}};
  if (states_ > 1) shapes.push_back({count, steps.size(1), hidden_size});
  if (given.empty()) {
    for (const auto& shape : shapes) given.push_back(steps.new_zeros(shape));
    return given;
  }
  if (is_single) {
    for (at::Tensor& state : given) state = state.unsqueeze(std::min<int64_t>(1, state.dim()));
  }
  if (shapes_of(given) != shapes) {
    throw InvalidArgument(text(name_, ": expected `hx` of shapes ", words(shapes), ", got ",
                               words(shapes_of(given)), "."));
  }
  return given;
}

template <class Rnn>
auto PackedRnn<Rnn>::run_cell(size_t index, const at::Tensor& steps, State state)
    -> std::pair<at::Tensor, State> {
  auto& cell = cells->at<PackedCellImpl>(index);
  const bool is_reverse = bidirectional && index % 2 == 1;
  const std::vector<at::Tensor> gates = cell.input->forward(steps).unbind(0);
  std::vector<at::Tensor> outputs(gates.size());
  for (size_t i = 0; i < gates.size(); ++i) {
    const size_t t = is_reverse ? gates.size() - 1 - i : i;
    state = step(cell, gates[t], state);
    outputs[t] = state[0];
  }
  return {at::stack(outputs), std::move(state)};
}

template <class Rnn>
auto PackedRnn<Rnn>::run(const at::Tensor& input, State given) -> std::pair<at::Tensor, State> {
  check_input(input);
  const bool is_single = input.dim() == 2;
  const bool is_swapped = batch_first && !is_single;
  at::Tensor steps = is_single ? input.unsqueeze(1) : is_swapped ? input.transpose(0, 1) : input;
  const State begin = initial(std::move(given), steps, is_single);
  std::vector<State> finals(states_);  // a kind of state, then cell by cell
  const size_t directions = bidirectional ? 2 : 1;
  for (size_t first = 0; first < cells->size(); first += directions) {
    std::vector<at::Tensor> outputs;
    for (size_t index = first; index < first + directions; ++index) {
      State state;
      for (const at::Tensor& kind : begin) state.push_back(kind[static_cast<int64_t>(index)]);
      auto [output, last] = run_cell(index, steps, std::move(state));
      outputs.push_back(std::move(output));
      for (size_t kind = 0; kind < states_; ++kind) finals[kind].push_back(last[kind]);
    }
    steps = directions == 1 ? outputs[0] : at::cat(outputs, -1);
  }
  State states;
  for (const State& kind : finals) states.push_back(at::stack(kind));
  if (is_single) {
    for (at::Tensor& state : states) state = state.squeeze(1);
    return {steps.squeeze(1), std::move(states)};
  }
  return {is_swapped ? steps.transpose(0, 1) : steps, std::move(states)};
}

template class PackedRnn<PackedLSTMImpl>;
template class PackedRnn<PackedGRUImpl>;

PackedLSTMImpl::PackedLSTMImpl(const torch::nn::LSTM& lstm, const Packing& packing)
    : PackedLSTMImpl(lstm, projections_of(*lstm, packing)) {
  to(lstm->parameters().front().device());
}

PackedLSTMImpl::PackedLSTMImpl(const torch::nn::LSTM& lstm, const Projections& projections)
    : PackedRnn("PackedLSTM", 2, lstm->options_base, projections) {
  train(lstm->is_training());
}

auto PackedLSTMImpl::step(PackedCellImpl& cell, const at::Tensor& gates, const State& state)
    -> State {
  const auto parts = (gates + cell.hidden->forward(state[0])).chunk(4, -1);
  const at::Tensor &i = parts[0], &f = parts[1], &g = parts[2], &o = parts[3];
  const at::Tensor memory = f.sigmoid() * state[1] + i.sigmoid() * g.tanh();
  const at::Tensor hidden = o.sigmoid() * memory.tanh();
  return {cell.projection ? cell.projection->forward(hidden) : hidden, memory};
}

std::tuple<at::Tensor, std::tuple<at::Tensor, at::Tensor>> PackedLSTMImpl::forward(
    const at::Tensor& input, std::optional<std::tuple<at::Tensor, at::Tensor>> hx) {
  State given;
  if (hx) given = {std::get<0>(*hx), std::get<1>(*hx)};
  auto [output, state] = run(input, std::move(given));
  return {output, {state[0], state[1]}};
}

PackedGRUImpl::PackedGRUImpl(const torch::nn::GRU& gru, const Packing& packing)
    : PackedGRUImpl(gru, projections_of(*gru, packing)) {
  to(gru->parameters().front().device());
}

PackedGRUImpl::PackedGRUImpl(const torch::nn::GRU& gru, const Projections& projections)
    : PackedRnn("PackedGRU", 1, gru->options_base, projections) {
  train(gru->is_training());
}

auto PackedGRUImpl::step(PackedCellImpl& cell, const at::Tensor& gates, const State& state)
    -> State {
  const auto of_input = gates.chunk(3, -1), of_hidden = cell.hidden->forward(state[0]).chunk(3, -1);
  const at::Tensor update = (of_input[1] + of_hidden[1]).sigmoid();
  const at::Tensor reset = (of_input[0] + of_hidden[0]).sigmoid();
  const at::Tensor candidate = (of_input[2] + reset * of_hidden[2]).tanh();
  return {candidate + update * (state[0] - candidate)};
}

std::tuple<at::Tensor, at::Tensor> PackedGRUImpl::forward(const at::Tensor& input, at::Tensor hx) {
  State given;
  if (hx.defined()) given = {std::move(hx)};
  auto [output, state] = run(input, std::move(given));
  return {output, state[0]};
}

}  // namespace pomona::nn
