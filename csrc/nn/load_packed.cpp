#include "pomona/load_packed.h"

#include "pomona/cached_tensors.h"
#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"
#include "pomona/packed_attention.h"
#include "pomona/packed_rnn.h"

#include "base/text.h"
#include "nn/dtypes.h"
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

// What a load reads: tensors of the file, packed now, or of the cache that an earlier one left.
class Source {
 public:
  // `cache` empty: none.
  Source(const FileReader& reader, const Packing& packing, const std::filesystem::path& path,
         const std::filesystem::path& cache)
      : reader_(reader), packing_(packing), cache_(cache) {
    for (const FileEntry& entry : reader.entries()) entries_.emplace(entry.name, &entry);
    if (cache_.empty()) return;
    key_ = cache_key(path, packing);
    if (const auto found = read_cached_tensors(cache_, key_)) {
      packed_ = {found->packed.begin(), found->packed.end()};
      dense_ = {found->dense.begin(), found->dense.end()};
    }
  }

  const std::map<std::string, const FileEntry*>& entries() const { return entries_; }
  std::vector<at::Tensor> packed(const std::string& name, int64_t parts) {
    return packed_as(name, parts, [&] {
      return read_packed_parts(reader_, name, parts, packing_, torch_threads());
    });
  }
  at::Tensor table(const std::string& name) {
    return packed_as(name, 1,
                     [&] { return std::vector{read_packed_rows(reader_, name, torch_threads())}; })
        .front();
  }
  at::Tensor dense(const std::string& name) {
    const FileEntry& entry = *entries_.at(name);
    const auto found = dense_.find(name);
    if (found != dense_.end() && found->second.sizes() == at::IntArrayRef(entry.shape) &&
        found->second.scalar_type() == scalar_type(entry.dtype)) {
      return found->second;
    }
    is_new_ = true;
    const at::Tensor tensor = to_tensor(reader_.read(name, torch_threads()));
    return dense_.insert_or_assign(name, tensor).first->second;
  }
  // Says what cannot be written, and leaves it.
  void write_cache() const {
    if (cache_.empty() || !is_new_) return;
    try {
      write_cached_tensors(cache_, key_,
                           {{packed_.begin(), packed_.end()}, {dense_.begin(), dense_.end()}});
    } catch (const FileError& error) {
      TORCH_WARN("load_packed_: cannot write the cache: ", error.what());
    }
  }

 private:
  template <class Read>
  std::vector<at::Tensor> packed_as(const std::string& name, int64_t parts, const Read& read) {
    const auto key = [&](int64_t part) { return parts == 1 ? name : text(name, "[", part, "]"); };
    std::vector<at::Tensor> tensors;
    for (int64_t part = 0; part < parts; ++part) {
      const auto found = packed_.find(key(part));
      if (found != packed_.end()) tensors.push_back(found->second);
    }
    if (std::ssize(tensors) == parts) return tensors;
    is_new_ = true;
    tensors.clear();
    for (const Packed& matrix : read()) {
      tensors.push_back(to_tensor(matrix));
      packed_.insert_or_assign(key(std::ssize(tensors) - 1), tensors.back());
    }
    return tensors;
  }

  const FileReader& reader_;
  Packing packing_;
  std::filesystem::path cache_;
  std::string key_;
  bool is_new_ = false;  // whether anything was read that the cache had not
  std::map<std::string, const FileEntry*> entries_;
  std::map<std::string, at::Tensor> packed_, dense_;
};

// Makes the packed twins of the layers of one model, each once.
class Twins {
 public:
  Twins(torch::nn::Sequential& model, Source& source) : source_(source) {
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
      return AnyModule(PackedEmbedding(PackedEmbeddingImpl::from_packed(
          source_.table(name + ".weight"), weight_of(module).scalar_type())));
    }
    if (exactly<LinearImpl>(module)) {
      return AnyModule(PackedLinear(PackedLinearImpl::from_packed(
          projections.packed("weight", 1).front(), projections.bias("bias"))));
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
      const FileEntry& entry = *source_.entries().at(name + "." + matrix.first);
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
      return source_.packed(layer + "." + name, parts);
    };
    const auto bias = [this, layer](const std::string& name) {
      const std::string full = layer + "." + name;
      return source_.entries().contains(full) ? source_.dense(full) : at::Tensor();
    };
    return {packed, bias};
  }

  Source& source_;
  std::map<const c10::TensorImpl*, std::set<const torch::nn::Module*>> owners_;
  std::map<const torch::nn::Module*, AnyModule> made_;
};

}  // namespace

std::vector<std::string> load_packed_(torch::nn::Sequential& model,
                                      const std::filesystem::path& path, const Packing& wanted,
                                      const std::filesystem::path& cache) {
  const torch::NoGradGuard no_grad;
  const FileReader reader(path);
  const NamedTensors targets = tensors_in(model);
  check_device(targets);
  check_fit("load_packed_", targets, reader);
  const Packing packing{.layout = wanted.layout, .precision = fast_or_float32(wanted.precision)};
  Source source(reader, packing, path, cache);
  Twins twins(model, source);
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
      dense.emplace_back(target, source.dense(name));
    }
  }
  source.write_cache();
  for (const auto& [target, tensor] : dense) target.copy_(tensor);
  return replace_layers(model, [&](const std::string& name, AnyModule&) {
    const auto found = packed.find(name);
    return found == packed.end() ? std::nullopt : std::optional(found->second);
  });
}

}  // namespace pomona::nn
