// A file into tensors: straight into their memory, or into a model that stays as it was until the
// whole file is known to be right.
#include "nn/load.h"

#include "pomona/error.h"
#include "pomona/io.h"

#include "at_parallel.h"
#include "base/text.h"
#include "nn/dtypes.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>
#include <torch/utils.h>

#include <map>
#include <optional>
#include <string_view>

namespace pomona {
namespace {

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

  void throw_if_any(const char* what) const {
    if (by_kind_.empty()) return;
    std::string list;
    for (const auto& [kind, whats] : by_kind_) {
      list += text(list.empty() ? "" : "; ", kind, ": ", join(whats, whats.size()));
    }
    throw InvalidArgument(text(what, ": expected the tensors of the model, name by name, got ",
                               list, ". The model is as it was."));
  }

 private:
  std::map<std::string, std::vector<std::string>> by_kind_;
};

using Entries = std::map<std::string_view, const FileEntry*>;

void compare(const std::string& name, const at::Tensor& target, const Entries& entries,
             Misfits& misfits) {
  const auto found = entries.find(name);
  if (found == entries.end()) {
    misfits.add("missing", name);
    return;
  }
  const at::IntArrayRef shape = found->second->shape;
  const at::ScalarType dtype = scalar_type(found->second->dtype);
  if (shape != target.sizes()) {
    misfits.add("wrong shape", text(name, " (", shape, ", the model has ", target.sizes(), ")"));
  } else if (dtype != target.scalar_type()) {
    misfits.add("wrong dtype",
                text(name, " (", dtype, ", the model has ", target.scalar_type(), ")"));
  } else if (const std::string reason = why_not_writable(target); !reason.empty()) {
    misfits.add("cannot be written", text(name, " (", reason, ")"));
  }
}

std::span<std::byte> memory_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

at::Tensor empty_tensor(const FileEntry& entry) {
  return at::empty(entry.shape, scalar_type(entry.dtype));
}

void read_tensor(const FileReader& reader, std::string_view name, const at::Tensor& tensor) {
  const FileReader::Target target{name, memory_of(tensor)};
  reader.read_into(std::span(&target, 1), at_parallel());
}

bool is_plain_memory(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.is_contiguous() && !tensor.is_neg() && !tensor.is_conj();
}

// What a tensor takes when it is decoded to a Weight.
uint64_t decoded_bytes(const FileEntry& entry) {
  const int64_t each = entry.centroids > 0 ? 1 : item_size(entry.dtype);
  return static_cast<uint64_t>(entry.numel / 8 + entry.kept * each);
}

void check_is_finite(const std::string& name, const at::Tensor& tensor) {
  if (at::isfinite(tensor).all().item<bool>()) return;
  throw InvalidArgument(
      text("load_: expected `", name, "` to be finite, as a packed layer needs, got NaN or Inf."));
}

}  // namespace

void check_fit(const char* what, const NamedTensors& targets, const FileReader& reader) {
  Entries entries;
  for (const FileEntry& entry : reader.entries()) entries.emplace(entry.name, &entry);
  Misfits misfits;
  std::set<std::string_view> wanted;
  for (const auto& [name, target] : targets) {
    compare(name, target, entries, misfits);
    wanted.insert(name);
  }
  for (const FileEntry& entry : reader.entries()) {
    if (!wanted.contains(entry.name)) misfits.add("unexpected", entry.name);
  }
  misfits.throw_if_any(what);
}

ParallelFor torch_threads() {
  return at_parallel();
}

NamedTensors load(const std::filesystem::path& path, const LoadProgress& progress) {
  const FileReader reader(path);
  NamedTensors tensors;
  std::vector<FileReader::Target> targets;
  for (const FileEntry& entry : reader.entries()) {
    tensors.emplace_back(entry.name, empty_tensor(entry));
    targets.push_back({entry.name, memory_of(tensors.back().second)});
  }
  reader.read_into(targets, at_parallel(), progress);
  return tensors;
}

void load_(const NamedTensors& targets, const std::filesystem::path& path,
           const std::set<std::string>& must_be_finite) {
  const FileReader reader(path);
  check_fit("load_", targets, reader);
  // Decode everything before anything is written; what is small when decoded is kept. Large ones
  // first: what decoding them takes is free again when the small ones come.
  constexpr uint64_t kMostHeld = uint64_t{32} << 20;
  std::vector<std::string> small, large;
  uint64_t held_bytes = 0;
  for (const FileEntry& entry : reader.entries()) {
    const uint64_t bytes = decoded_bytes(entry);
    const bool is_held = held_bytes + bytes <= kMostHeld;
    (is_held ? small : large).push_back(entry.name);
    if (is_held) held_bytes += bytes;
  }
  reader.verify(large, at_parallel());
  std::map<std::string_view, Weight> held;
  for (const std::string& name : small) held.emplace(name, reader.read(name, at_parallel()));
  for (const auto& name : must_be_finite) {
    const auto weight = held.find(name);
    check_is_finite(name, weight != held.end() ? to_tensor(weight->second)
                                               : to_tensor(reader.read(name, at_parallel())));
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, target] : targets) {
    const bool is_plain = is_plain_memory(target);
    const at::Tensor dense = is_plain ? target : at::empty(target.sizes(), target.scalar_type());
    if (const auto weight = held.find(name); weight != held.end()) {
      weight->second.to_dense(memory_of(dense));
      held.erase(weight);
    } else {
      read_tensor(reader, name, dense);
    }
    is_plain ? target.unsafeGetTensorImpl()->bump_version() : void(target.copy_(dense));
  }
}

}  // namespace pomona
