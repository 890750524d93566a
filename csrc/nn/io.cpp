#include "pomona/io.h"

#include "pomona/error.h"
#include "pomona/nn.h"

#include "at_parallel.h"
#include "base/text.h"

#include <ATen/ops/isfinite.h>

#include <functional>
#include <optional>
#include <set>
#include <utility>

namespace pomona {
namespace {

// A file holds the dense weight of a packed layer, under the name that it has in the dense layer:
// packed bytes are made for one machine and one version.
struct PackedWeight {
  std::function<void(const at::Tensor&)> pack_anew;
  std::string name;
  at::Tensor dense;
};

// Nothing for other modules.
std::optional<PackedWeight> packed_weight_of(const std::string& prefix, torch::nn::Module& module) {
  const auto found = [&](auto* layer) {
    return PackedWeight{[layer](const at::Tensor& weight) { layer->pack_weight_(weight); },
                        prefix + "weight", layer->weight()};
  };
  if (auto* layer = dynamic_cast<nn::PackedLinearImpl*>(&module)) return found(layer);
  if (auto* layer = dynamic_cast<nn::PackedEmbeddingImpl*>(&module)) return found(layer);
  return std::nullopt;
}

// Everything of a module that a file holds, module by module, as Python's state_dict() orders it.
struct Contents {
  NamedTensors tensors;
  NamedTensors parameters;  // those of `tensors` that must be finite
  std::vector<PackedWeight> packed;

  void add(const std::string& prefix, torch::nn::Module& module) {
    const auto layer = packed_weight_of(prefix, module);
    for (const auto& item : module.named_parameters(/*recurse=*/false)) {
      if (!item.value().defined()) continue;
      tensors.emplace_back(prefix + item.key(), item.value());
      parameters.push_back(tensors.back());
    }
    for (const auto& item : module.named_buffers(/*recurse=*/false)) {
      if (!item.value().defined()) continue;
      if (layer && item.key() == "packed") {
        packed.push_back(*layer);
        tensors.emplace_back(layer->name, layer->dense);
      } else {
        tensors.emplace_back(prefix + item.key(), item.value());
      }
    }
  }
};

Contents contents_of(torch::nn::Module& module) {
  Contents contents;
  contents.add("", module);
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    contents.add(item.key() + ".", *item.value());
  }
  return contents;
}

}  // namespace

void check_finite(const NamedTensors& parameters) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : parameters) {
    if (tensor.is_floating_point() && !tensor.is_meta() &&
        !at::isfinite(tensor.detach()).all().item<bool>()) {
      names.push_back(name);
    }
  }
  if (names.empty()) return;
  throw InvalidArgument(
      text("save: expected finite parameters, got NaN or Inf in: ", join(names), "."));
}

NamedTensors tensors_of(const torch::nn::Module& module) {
  return contents_of(const_cast<torch::nn::Module&>(module)).tensors;
}

SaveReport save(const NamedTensors& tensors, const std::filesystem::path& path,
                const SaveOptions& options) {
  SaveReport report;
  Coding coding = options.coding;
  if (!coding.parallel) coding.parallel = at_parallel();
  FileWriter writer(path, coding);
  for (const auto& [name, tensor] : tensors) {
    report.entries.push_back(writer.add(to_weight(name, tensor)));
    report.dense_bytes += tensor.nbytes();
    if (options.progress) options.progress(name);
  }
  writer.set_metadata(options.metadata);
  report.file_bytes = writer.commit();
  return report;
}

SaveReport save(const torch::nn::Module& module, const std::filesystem::path& path,
                const SaveOptions& options) {
  // Modules are walked as non-const; nothing is written.
  const auto contents = contents_of(const_cast<torch::nn::Module&>(module));
  check_finite(contents.parameters);
  return save(contents.tensors, path, options);
}

std::vector<FileEntry> coded_entries(const NamedTensors& tensors, const Coding& coding) {
  Coding on_threads = coding;
  if (!on_threads.parallel) on_threads.parallel = at_parallel();
  std::vector<FileEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    entries.push_back(coded_entry(to_weight(name, tensor), on_threads));
  }
  return entries;
}

void load_(torch::nn::Module& module, const std::filesystem::path& path) {
  const auto contents = contents_of(module);
  std::set<std::string> to_pack;
  for (const auto& weight : contents.packed) to_pack.insert(weight.name);
  load_(contents.tensors, path, to_pack);
  for (const auto& weight : contents.packed) weight.pack_anew(weight.dense);
}

}  // namespace pomona
