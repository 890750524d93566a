#include "pomona/load_packed.h"

#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "base/text.h"
#include "nn/load.h"
#include "nn/replace.h"

#include <torch/utils.h>

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
    auto twin = make(name, *module);
    if (!twin) return std::nullopt;
    twin->ptr()->train(module->is_training());
    return made_.emplace(module, *twin).first->second;
  }

 private:
  std::optional<AnyModule> make(const std::string& name, torch::nn::Module& module) const {
    if (const auto* linear = exactly<torch::nn::LinearImpl>(module)) {
      if (!is_own(module) || !is_worth_packing(entry_of(name))) return std::nullopt;
      const auto matrix = read_packed(reader_, name + ".weight", packing_, torch_threads());
      const at::Tensor bias =
          linear->bias.defined() ? to_tensor(reader_.read(name + ".bias")) : at::Tensor();
      return AnyModule(PackedLinear(matrix, bias));
    }
    const auto* embedding = exactly<torch::nn::EmbeddingImpl>(module);
    if (embedding == nullptr || embedding->options.max_norm() || !is_own(module) ||
        !is_worth_packing_rows(entry_of(name))) {
      return std::nullopt;
    }
    const auto table = read_packed_rows(reader_, name + ".weight", torch_threads());
    return AnyModule(PackedEmbedding(table, embedding->weight.scalar_type()));
  }

  const FileEntry& entry_of(const std::string& name) const {
    return *entries_.at(name + ".weight");
  }
  // Whether the weight that forward() reads is the module's parameter, and nobody else's.
  bool is_own(torch::nn::Module& module) const {
    const at::Tensor weight = weight_of(module);
    const auto parameters = module.named_parameters(/*recurse=*/false);
    return weight.is_same(parameters["weight"]) &&
           owners_.at(weight.unsafeGetTensorImpl()).size() == 1;
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
  std::set<std::string> replaced;
  for (size_t i = 0; i < model->size(); ++i) {
    const auto twin = twins.twin_of(names[i], layer_at(model, i));
    if (!twin) continue;
    packed.emplace(names[i], *twin);
    replaced.insert({names[i] + ".weight", names[i] + ".bias"});
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> dense;  // where it goes, what the file holds
  for (const auto& [name, target] : targets) {
    if (!replaced.contains(name)) {
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
