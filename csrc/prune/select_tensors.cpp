#include "prune/select_tensors.h"

#include "prune/radix_select_kernel.h"
#include "prune/select.h"
#include "prune/select_kernel.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <utility>

namespace pomona {
namespace {

template <class Signature>
auto operator_handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor select_histogram(const at::Tensor& scores, const at::Tensor& words,
                            const KeyDigit& digit, bool by_value) {
  static const auto handle =
      operator_handle<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t, int64_t, bool)>(
          "pomona::select_histogram");
  return handle.call(scores, words, digit.shift, static_cast<int64_t>(digit.prefix), by_value);
}

at::Tensor select_mask(const at::Tensor& scores, const at::Tensor& words, int64_t cut, int64_t ties,
                       bool by_value) {
  static const auto handle =
      operator_handle<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t, int64_t, bool)>(
          "pomona::select_mask");
  return handle.call(scores, words, cut, ties, by_value);
}

// The mask's words, on `device`.
at::Tensor to_words(const Mask& mask, const at::Device& device) {
  const auto from = mask.words();
  const at::Tensor words = at::empty({static_cast<int64_t>(from.size())}, at::kLong);
  std::copy(from.begin(), from.end(), static_cast<uint64_t*>(words.mutable_data_ptr()));
  return words.to(device);
}

Mask from_words(const at::Tensor& words, int64_t size) {
  const at::Tensor host = words.to(at::kCPU);
  const auto* data = static_cast<const uint64_t*>(host.const_data_ptr());
  return Mask(size, std::vector<uint64_t>(data, data + host.numel()));
}

class TensorParts : public RadixParts {
 public:
  TensorParts(std::span<const TensorScores> pool, const std::vector<Mask>& previous, bool by_value)
      : by_value_(by_value) {
    for (size_t p = 0; p < pool.size(); ++p) {
      const at::Tensor& scores = pool[p].scores;
      parts_.push_back({scores, to_words(previous[p], scores.device()), pool[p].is_replicated});
    }
  }

  size_t size() const override { return parts_.size(); }
  bool is_replicated(size_t part) const override { return parts_[part].is_replicated; }
  int64_t score_count(size_t part) const { return parts_[part].scores.numel(); }
  int key_bits() const { return static_cast<int>(parts_[0].scores.element_size()) * 8; }

  int64_t pruned(size_t part) override {
    const auto& [scores, words, is_replicated] = parts_[part];
    const KeyDigit top{top_shift(key_bits()), 0};
    return scores.numel() - select_histogram(scores, words, top, false).sum().item<int64_t>();
  }
  void count(std::span<const size_t> which, const KeyDigit& digit,
             std::span<int64_t> counts) override {
    std::vector<at::Tensor> found;  // every device works before the first is waited for
    for (const size_t p : which) {
      found.push_back(select_histogram(parts_[p].scores, parts_[p].words, digit, by_value_));
    }
    for (size_t c = 0; c < which.size(); ++c) {
      const at::Tensor host = found[c].to(at::kCPU);
      std::copy_n(host.const_data_ptr<int64_t>(), kDigitValues, counts.data() + c * kDigitValues);
    }
  }
  void prune(size_t part, int64_t cut, int64_t ties) override {
    auto& [scores, words, is_replicated] = parts_[part];
    words = select_mask(scores, words, cut, ties, by_value_);
  }
  // Zeros of both signs, whatever the order.
  void prune_zeros() {
    for (auto& part : parts_) part.words = select_mask(part.scores, part.words, 1, 0, false);
  }
  Mask mask(size_t part) const { return from_words(parts_[part].words, score_count(part)); }

 private:
  struct Part {
    at::Tensor scores;
    at::Tensor words;
    bool is_replicated;
  };
  std::vector<Part> parts_;
  bool by_value_;
};

}  // namespace

Selection select_tensors(std::span<const TensorScores> pool, double sparsity,
                         const std::vector<Mask>& previous, const SelectOptions& options) {
  if (pool.empty()) return {};
  const c10::AutoGradMode no_grad(false);
  TensorParts parts(pool, previous, options.by_value);
  std::array<int64_t, 2> counts{};  // scores, and masked ones, which select_pool counts as well
  for (size_t p = 0; p < pool.size(); ++p) {
    if (pool[p].is_replicated && options.ranks.rank != 0) continue;
    counts[0] += parts.score_count(p);
    counts[1] += parts.score_count(p) - previous[p].kept();
  }
  if (options.ranks.size > 1) options.ranks.sum(counts);
  if (options.zeros_go) parts.prune_zeros();
  const int64_t target = pruned_count(counts[0], sparsity);
  const auto cut = radix_select(parts, parts.key_bits(), target, options.ranks);
  Selection selection;
  if (cut) {
    selection.threshold = score_of_key(*cut, *selection_dtype(pool[0].scores), options.by_value);
  }
  for (size_t p = 0; p < pool.size(); ++p) selection.masks.push_back(parts.mask(p));
  return selection;
}

at::Tensor selectable(const at::Tensor& scores) {
  const at::Device device = scores.is_cuda() ? scores.device() : at::Device(at::kCPU);
  const at::ScalarType dtype = selection_dtype(scores) ? scores.scalar_type() : at::kFloat;
  return scores.detach().to(device, dtype).contiguous();
}

std::optional<int64_t> first_not_finite(const at::Tensor& scores) {
  static const auto handle =
      operator_handle<at::Tensor(const at::Tensor&)>("pomona::first_not_finite");
  const auto first = handle.call(scores).item<int64_t>();
  if (first < 0) return std::nullopt;
  return first;
}

}  // namespace pomona
