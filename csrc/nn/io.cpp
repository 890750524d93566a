#include "pomona/io.h"

#include "pomona/error.h"
#include "pomona/nn.h"

#include "base/text.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

namespace pomona {
namespace {

// A file holds the dense weight of a packed layer, under the name that it has in the dense layer:
// packed bytes are made for one machine and one version.
struct PackedWeight {
  nn::PackedLinearImpl* layer;
  std::string name;
  at::Tensor dense;
};

// Everything of a module that a file holds, module by module, as Python's state_dict() orders it.
struct Contents {
  NamedTensors tensors;
  NamedTensors parameters;  // those of `tensors` that must be finite
  std::vector<PackedWeight> packed;

  void add(const std::string& prefix, torch::nn::Module& module) {
    auto* const layer = dynamic_cast<nn::PackedLinearImpl*>(&module);
    for (const auto& item : module.named_parameters(/*recurse=*/false)) {
      if (!item.value().defined()) continue;
      tensors.emplace_back(prefix + item.key(), item.value());
      parameters.push_back(tensors.back());
    }
    for (const auto& item : module.named_buffers(/*recurse=*/false)) {
      if (!item.value().defined()) continue;
      if (layer != nullptr && item.key() == "packed") {
        packed.push_back({layer, prefix + "weight", layer->weight()});
        tensors.emplace_back(packed.back().name, packed.back().dense);
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

// Why nothing can be copied into a tensor; empty when it can.
std::string why_not_writable(const at::Tensor& target) {
  if (target.unsafeGetTensorImpl()->is_python_dispatch()) return "a tensor subclass";
  if (target.is_meta()) return "on the meta device";
  if (target.layout() != at::kStrided || target.is_quantized()) return "not dense";
  if (at::has_internal_overlap(target) == at::MemOverlap::Yes) return "expanded memory";
  if (target.is_inference() && !c10::InferenceMode::is_enabled()) return "an inference tensor";
  return "";
}

// Everything that does not fit, sorted by kind.
class Misfits {
 public:
  void add(const char* kind, const std::string& what) { by_kind_[kind].push_back(what); }

  void throw_if_any() const {
    if (by_kind_.empty()) return;
    std::string list;
    for (const auto& [kind, whats] : by_kind_) {
      list += text(list.empty() ? "" : "; ", kind, ": ", join(whats, whats.size()));
    }
    throw InvalidArgument(text("load_: expected the tensors of the model, name by name, got ", list,
                               ". The model is as it was."));
  }

 private:
  std::map<std::string, std::vector<std::string>> by_kind_;
};

using Sources = std::map<std::string_view, const at::Tensor*>;

void compare(const std::string& name, const at::Tensor& target, const Sources& sources,
             Misfits& misfits) {
  const auto found = sources.find(name);
  if (found == sources.end()) {
    misfits.add("missing", name);
    return;
  }
  const at::Tensor& source = *found->second;
  if (source.sizes() != target.sizes()) {
    misfits.add("wrong shape",
                text(name, " (", source.sizes(), ", the model has ", target.sizes(), ")"));
  } else if (source.scalar_type() != target.scalar_type()) {
    misfits.add("wrong dtype", text(name, " (", source.scalar_type(), ", the model has ",
                                    target.scalar_type(), ")"));
  } else if (const std::string reason = why_not_writable(target); !reason.empty()) {
    misfits.add("cannot be written", text(name, " (", reason, ")"));
  }
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

SaveReport save(const NamedTensors& tensors, const std::filesystem::path& path, Coding coding) {
  SaveReport report;
  FileWriter writer(path, coding);
  for (const auto& [name, tensor] : tensors) {
    report.entries.push_back(writer.add(to_weight(name, tensor)));
    report.dense_bytes += tensor.nbytes();
  }
  report.file_bytes = writer.commit();
  return report;
}

SaveReport save(const torch::nn::Module& module, const std::filesystem::path& path, Coding coding) {
  // Modules are walked as non-const; nothing is written.
  const auto contents = contents_of(const_cast<torch::nn::Module&>(module));
  check_finite(contents.parameters);
  return save(contents.tensors, path, coding);
}

NamedTensors load(const std::filesystem::path& path) {
  const FileReader reader(path);
  NamedTensors tensors;
  for (const auto& entry : reader.entries()) {
    tensors.emplace_back(entry.name, to_tensor(reader.read(entry.name)));
  }
  return tensors;
}

void copy_(const NamedTensors& targets, const NamedTensors& sources) {
  Sources by_name;
  for (const auto& [name, tensor] : sources) by_name.emplace(name, &tensor);
  Misfits misfits;
  std::set<std::string_view> wanted;
  for (const auto& [name, target] : targets) {
    compare(name, target, by_name, misfits);
    wanted.insert(name);
  }
  for (const auto& [name, tensor] : sources) {
    if (!wanted.contains(name)) misfits.add("unexpected", name);
  }
  misfits.throw_if_any();
  const torch::NoGradGuard no_grad;
  for (const auto& [name, target] : targets) target.copy_(*by_name.at(name));
}

void load_(torch::nn::Module& module, const std::filesystem::path& path) {
  const auto contents = contents_of(module);
  const auto loaded = load(path);
  std::set<std::string_view> to_pack;
  for (const auto& weight : contents.packed) to_pack.insert(weight.name);
  for (const auto& [name, tensor] : loaded) {
    if (to_pack.contains(name) && !at::isfinite(tensor).all().item<bool>()) {
      throw InvalidArgument(text("load_: expected `", name,
                                 "` to be finite, as a packed layer needs, got NaN or Inf."));
    }
  }
  copy_(contents.tensors, loaded);
  for (const auto& weight : contents.packed) weight.layer->pack_weight_(weight.dense);
}

}  // namespace pomona
