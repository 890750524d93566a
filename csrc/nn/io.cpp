#include "pomona/io.h"

#include "pomona/error.h"

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

NamedTensors parameters_of(const torch::nn::Module& module) {
  NamedTensors tensors;
  for (const auto& parameter : module.named_parameters()) {
    if (parameter.value().defined()) tensors.emplace_back(parameter.key(), parameter.value());
  }
  return tensors;
}

NamedTensors tensors_of(const torch::nn::Module& module) {
  NamedTensors tensors = parameters_of(module);
  for (const auto& buffer : module.named_buffers()) {
    if (buffer.value().defined()) tensors.emplace_back(buffer.key(), buffer.value());
  }
  return tensors;
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
  check_finite(parameters_of(module));
  return save(tensors_of(module), path, coding);
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
  copy_(tensors_of(module), load(path));
}

}  // namespace pomona
