#include "quantize/share_weight.h"

#include "pomona/error.h"

#include "at_parallel.h"
#include "base/text.h"
#include "quantize/kmeans_kernel.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace pomona {
namespace {

template <class Element>
std::span<const Element> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<Element>(), static_cast<size_t>(tensor.numel())};
}

// Elements [begin, end) of a contiguous float32, float16 or bfloat16 tensor.
Values values_of(const at::Tensor& tensor, int64_t begin, int64_t end) {
  const DType dtype = tensor.scalar_type() == at::kFloat  ? DType::kFloat32
                      : tensor.scalar_type() == at::kHalf ? DType::kFloat16
                                                          : DType::kBFloat16;
  const auto* bytes = static_cast<const std::byte*>(tensor.const_data_ptr());
  return {bytes + begin * static_cast<int64_t>(tensor.element_size()), end - begin, dtype};
}

// Ascending entries as a type and then a dtype hold them, each once: bfloat16 has room for few
// between 1 and 2.
std::vector<float> narrowed(const std::vector<float>& entries, EntryType type,
                            at::ScalarType dtype) {
  std::vector<float> narrow = round_entries(entries, type);
  if (dtype == at::kHalf) narrow = round_entries(narrow, EntryType::kFloat16);
  if (dtype == at::kBFloat16) narrow = round_entries(narrow, EntryType::kBFloat16);
  narrow.erase(std::unique(narrow.begin(), narrow.end()), narrow.end());
  return narrow;
}

// What is the same for all groups of one parameter.
struct Fitter {
  const Share& rule;
  at::ScalarType dtype;  // of the weight
  bool has_zero;
  const std::string& name;

  // The entries of a group's nonzeros, and the codes of all its elements (0 for zeros).
  std::vector<float> fit(const at::Tensor& values, const at::Tensor& importance, int64_t begin,
                         int64_t end, std::span<uint8_t> codes, bool is_parallel) const;
};

int most_codes(const Share& rule) {
  return rule.codes > 0 ? rule.codes : 1 << rule.bits;
}

std::vector<float> Fitter::fit(const at::Tensor& values, const at::Tensor& importance,
                               int64_t begin, int64_t end, std::span<uint8_t> codes,
                               bool is_parallel) const {
  at::Tensor kept = values.slice(0, begin, end);
  at::Tensor weights = importance.defined() ? importance.slice(0, begin, end) : importance;
  at::Tensor is_zero;
  if (has_zero) {
    is_zero = kept.eq(0);
    const at::Tensor is_kept = is_zero.logical_not();
    kept = kept.masked_select(is_kept);
    if (weights.defined()) weights = weights.masked_select(is_kept);
  }
  std::fill(codes.begin(), codes.end(), uint8_t{0});
  if (kept.numel() == 0) return {};  // a group without weights
  FitOptions options{rule.fit, rule.seed, rule.rate};
  if (weights.defined()) {
    // Weights that nothing depends on are all alike.
    if (weights.gt(0).any().item<bool>()) options.importance = span_of<float>(weights);
  }
  if (is_parallel) options.parallel = at_parallel();
  const int most = most_codes(rule) - (has_zero ? 1 : 0);
  Codebook codebook = fit_codebook(values_of(kept, 0, kept.numel()), most, options);
  std::vector<float> entries = narrowed(codebook.entries, rule.entries, dtype);
  if (std::isinf(entries.front()) || std::isinf(entries.back())) {
    throw InvalidArgument(text("Sharer: expected `", name, "` within the range of its entries' ",
                               "type, got ", codebook.entries.back(), ". Use another type."));
  }
  if (rule.rate == 0 || entries.size() != codebook.entries.size()) {
    codebook = nearest_codebook(std::move(entries));
  } else {
    codebook.entries = std::move(entries);
  }
  auto kept_codes = assign_codes(values_of(kept, 0, kept.numel()), codebook);
  drop_unused(kept_codes, codebook.entries);
  if (!has_zero) {
    std::copy(kept_codes.begin(), kept_codes.end(), codes.begin());
    return codebook.entries;
  }
  const auto zeros = span_of<bool>(is_zero);
  size_t next = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (!zeros[i]) codes[i] = static_cast<uint8_t>(kept_codes[next++] + 1);
  }
  return codebook.entries;
}

// The sum of (w - entry)^2, in chunks of a fixed size, so that threads do not matter.
double squared_error(const at::Tensor& values, const Sharer::Clusters& clusters,
                     const std::vector<std::vector<float>>& entries) {
  constexpr int64_t kChunk = 1 << 16;
  const at::Tensor wide = values.to(at::kFloat);
  const auto weights = span_of<float>(wide);
  const auto codes = span_of<uint8_t>(clusters.codes);
  const int64_t size = values.numel(), group = clusters.group > 0 ? clusters.group : size;
  std::vector<double> sums(static_cast<size_t>((size + kChunk - 1) / kChunk), 0.0);
  at_parallel()(static_cast<int64_t>(sums.size()), [&](int64_t chunk) {
    double sum = 0;
    for (int64_t i = chunk * kChunk; i < std::min(size, (chunk + 1) * kChunk); ++i) {
      const auto at = static_cast<size_t>(i);
      const int entry = int{codes[at]} - (clusters.has_zero ? 1 : 0);
      if (entry < 0) continue;  // a zero that stays one
      const auto& row = entries[static_cast<size_t>(i / group)];
      const double distance = double{weights[at]} - double{row[static_cast<size_t>(entry)]};
      sum += distance * distance;
    }
    sums[static_cast<size_t>(chunk)] = sum;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// [k] or [groups, k], padded with zeros.
at::Tensor codebook_of(const std::vector<std::vector<float>>& entries, int64_t k, bool has_zero,
                       bool is_grouped) {
  const auto groups = static_cast<int64_t>(entries.size());
  const at::Tensor codebook = at::zeros({groups, k});
  auto* values = codebook.mutable_data_ptr<float>();
  for (const auto& row : entries) {
    std::copy(row.begin(), row.end(), values + (has_zero ? 1 : 0));
    values += k;
  }
  return is_grouped ? codebook : codebook.flatten();
}

}  // namespace

int64_t group_of(const Share& rule, at::IntArrayRef shape, const std::string& name) {
  if (rule.group != Share::kPerChannel) return rule.group;
  if (shape.size() < 2) {
    throw InvalidArgument(text("Sharer: expected `", name,
                               "` to have channels (two dimensions or more), got shape ", shape,
                               "."));
  }
  int64_t row = 1;
  for (const int64_t size : shape.slice(1)) row *= size;
  return std::max<int64_t>(row, 1);
}

Sharer::Clusters clusters_of(const at::Tensor& codes, int64_t k, int64_t group, bool has_zero) {
  Sharer::Clusters clusters{codes, {}, {}, k, group, has_zero};
  const int64_t columns = std::max<int64_t>(k, 1);
  const int64_t each = group > 0 ? group : std::max<int64_t>(codes.numel(), 1);
  const int64_t groups = group > 0 ? (codes.numel() + group - 1) / group : 1;
  Members members;
  if (k > 0 && codes.numel() > 0) {
    members = members_of(span_of<uint8_t>(codes), k, each);
  } else {
    members.counts.assign(static_cast<size_t>(groups * columns), 0.0);
    members.first.assign(static_cast<size_t>(groups * columns), -1);
  }
  clusters.counts = at::tensor(members.counts, at::kDouble).reshape({groups, columns});
  clusters.first = at::tensor(members.first, at::kLong).reshape({groups, columns});
  if (has_zero) {  // frozen
    clusters.counts.select(1, 0).zero_();
    clusters.first.select(1, 0).fill_(-1);
  }
  return clusters;
}

SharedWeight share_weight(const at::Tensor& weight, const Share& rule, const at::Tensor& importance,
                          const std::string& name) {
  const int64_t group = group_of(rule, weight.sizes(), name);
  const auto refuse = [&](const char* condition, const char* got) {
    throw InvalidArgument(text("Sharer: expected `", name, "` ", condition, ", got ", got, "."));
  };
  const at::Tensor dense = weight.detach().to(at::kCPU).contiguous().flatten();
  if (!at::isfinite(dense).all().item<bool>()) refuse("to be finite", "NaN or Inf");
  const at::Tensor values = dense.scalar_type() == at::kDouble ? dense.to(at::kFloat) : dense;
  if (dense.scalar_type() == at::kDouble && !at::isfinite(values).all().item<bool>()) {
    refuse("within the range of float32", "more");
  }
  const int64_t size = dense.numel();
  const at::Tensor codes = at::zeros(weight.sizes(), at::kByte);
  if (size == 0) return {dense, clusters_of(codes, 0, group, false)};
  const int64_t zeros = size - values.count_nonzero().item<int64_t>();
  if (zeros == size) refuse("to hold a weight that is not zero", "all zeros");
  if (zeros > 0 && most_codes(rule) < 2) {
    refuse("to have no zeros where it has one code", "zeros: they take the code");
  }
  at::Tensor weights;
  if (importance.defined()) {
    weights = importance.detach().to(at::kCPU, at::kFloat).contiguous().flatten();
    if (!at::isfinite(weights).all().item<bool>() || weights.lt(0).any().item<bool>()) {
      refuse("to have finite importance, not negative", "others");
    }
  }

  const Fitter fitter{rule, dense.scalar_type(), zeros > 0, name};
  const int64_t each = group > 0 ? group : size, groups = (size + each - 1) / each;
  std::vector<std::vector<float>> entries(static_cast<size_t>(groups));
  auto* bytes = codes.mutable_data_ptr<uint8_t>();
  const auto fit_group = [&](int64_t g) {
    const int64_t begin = g * each, end = std::min(size, begin + each);
    entries[static_cast<size_t>(g)] =
        fitter.fit(values, weights, begin, end, {bytes + begin, static_cast<size_t>(end - begin)},
                   groups == 1);
  };
  if (groups == 1) {
    fit_group(0);
  } else {
    at_parallel()(groups, fit_group);
  }
  size_t longest = 0;
  for (const auto& row : entries) longest = std::max(longest, row.size());
  const int64_t k = static_cast<int64_t>(longest) + (zeros > 0 ? 1 : 0);
  SharedWeight shared{codebook_of(entries, k, zeros > 0, group > 0).to(dense.scalar_type()),
                      clusters_of(codes, k, group, zeros > 0)};
  shared.clusters.squared_error = squared_error(values, shared.clusters, entries);
  return shared;
}

}  // namespace pomona
