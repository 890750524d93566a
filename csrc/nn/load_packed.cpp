#include "pomona/load_packed.h"

#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"
#include "pomona/packed_attention.h"
#include "pomona/packed_rnn.h"

#include "base/text.h"
#include "nn/load.h"
#include "nn/packed_twins.h"
#include "nn/replace.h"

#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

namespace pomona::nn {
namespace {

using torch::nn::AnyModule;

NamedTensors tensors_in(const torch::nn::Sequential& model) {
  NamedTensors tensors;
  for (const auto& item : model->named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : model->named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

void check_device(const NamedTensors& targets) {
  for (const auto& [name, target] : targets) {
    if (target.is_cpu()) continue;
    throw InvalidArgument(text("load_packed_: expected `model` on the CPU, got `", name, "` on ",
                               target.device().str(), "."));
  }
}

// Reads the packed twins of the layers of one model, each once.
class Twins {
 public:
  Twins(torch::nn::Sequential& model, const FileReader& reader, Packing packing)
      : reader_(reader), packing_(packing) {
    for (const FileEntry& entry : reader.entries()) entries_.emplace(entry.name, &entry);
    for (const auto& module : model->modules()) {
      const auto own = [&](const at::Tensor& tensor) {
        if (tensor.defined()) owners_[tensor.unsafeGetTensorImpl()].insert(module.get());
      };
      for (const at::Tensor& parameter : module->parameters(/*recurse=*/false)) own(parameter);
      own(weight_of(*module));
    }
  }

  // Nothing: the layer stays dense.
  std::optional<AnyModule> twin_of(const std::string& name, const AnyModule& layer) {
    torch::nn::Module* const module = layer.ptr().get();
    if (const auto found = made_.find(module); found != made_.end()) return found->second;
    auto twin = make(name, layer);
    if (!twin) return std::nullopt;
    twin->ptr()->train(module->is_training());
    return made_.emplace(module, *twin).first->second;
  }

 private:
  std::optional<AnyModule> make(const std::string& name, const AnyModule& layer) const {
    using namespace torch::nn;
    torch::nn::Module& module = *layer.ptr();
    if (!is_worth(name, module)) return std::nullopt;
    const auto projections = projections_in(name);
    if (exactly<EmbeddingImpl>(module)) {
      const auto table = read_packed_rows(reader_, name + ".weight", torch_threads());
      return AnyModule(PackedEmbedding(table, weight_of(module).scalar_type()));
    }
    if (exactly<LinearImpl>(module)) {
      return AnyModule(
          PackedLinear(projections.packed("weight", 1).front(), projections.bias("bias")));
    }
    if (exactly<LSTMImpl>(module)) {
      return AnyModule(PackedLSTM(LSTM(layer.ptr<LSTMImpl>()), projections));
    }
    if (exactly<GRUImpl>(module)) {
      return AnyModule(PackedGRU(GRU(layer.ptr<GRUImpl>()), projections));
    }
    return AnyModule(PackedMultiheadAttention(
        MultiheadAttention(layer.ptr<MultiheadAttentionImpl>()), projections));
  }

  // Whether the layer is of a kind that can be packed, and every matrix of it its own and better
  // packed.
  bool is_worth(const std::string& name, torch::nn::Module& module) const {
    const auto* embedding = exactly<torch::nn::EmbeddingImpl>(module);
    const bool is_kind =
        embedding != nullptr ? !embedding->options.max_norm().has_value() : can_be_packed(module);
    if (!is_kind || !is_read_as_it_is_held(module)) return false;
    return std::ranges::all_of(matrices_of(module), [&](const auto& matrix) {
      const FileEntry& entry = *entries_.at(name + "." + matrix.first);
      return owners_.at(matrix.second.unsafeGetTensorImpl()).size() == 1 &&
             (embedding != nullptr ? is_worth_packing_rows(entry) : is_worth_packing(entry));
    });
  }

  // Whether the weight that forward() reads is the module's parameter.
  static bool is_read_as_it_is_held(torch::nn::Module& module) {
    const at::Tensor weight = weight_of(module);
    return !weight.defined() || weight.is_same(module.named_parameters(false)["weight"]);
  }

  Projections projections_in(const std::string& layer) const {
    const auto packed = [this, layer](const std::string& name, int64_t parts) {
      return read_packed_parts(reader_, layer + "." + name, parts, packing_, torch_threads());
    };
    const auto bias = [this, layer](const std::string& name) {
      const bool is_there = entries_.contains(layer + "." + name);
      return is_there ? to_tensor(reader_.read(layer + "." + name)) : at::Tensor();
    };
    return {packed, bias};
  }

  const FileReader& reader_;
  Packing packing_;
  std::map<std::string, const FileEntry*> entries_;
  std::map<const c10::TensorImpl*, std::set<const torch::nn::Module*>> owners_;
  std::map<const torch::nn::Module*, AnyModule> made_;
};

}  // namespace

std::vector<std::string> load_packed_(torch::nn::Sequential& model,
                                      const std::filesystem::path& path, const Packing& wanted) {
  const torch::NoGradGuard no_grad;
  const FileReader reader(path);
  const NamedTensors targets = tensors_in(model);
  check_device(targets);
  check_fit("load_packed_", targets, reader);
  Twins twins(model, reader,
              {.layout = wanted.layout, .precision = fast_or_float32(wanted.precision)});
  // Everything is read before anything is written.
  const auto names = model->named_children().keys();
  std::map<std::string, AnyModule> packed;
  for (size_t i = 0; i < model->size(); ++i) {
    const auto twin = twins.twin_of(names[i], layer_at(model, i));
    if (twin) packed.emplace(names[i], *twin);
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> dense;  // where it goes, what the file holds
  for (const auto& [name, target] : targets) {
    if (!packed.contains(name.substr(0, name.find('.')))) {
      dense.emplace_back(target, to_tensor(reader.read(name, torch_threads())));
    }
  }
  for (const auto& [target, tensor] : dense) target.copy_(tensor);
  return replace_layers(model, [&](const std::string& name, AnyModule&) {
    const auto found = packed.find(name);
    return found == packed.end() ? std::nullopt : std::optional(found->second);
  });
}

}  // namespace pomona::nn
