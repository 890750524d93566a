#include "pomona/error.h"
#include "pomona/quantize.h"

#include "base/text.h"
#include "quantize/clusters.h"
#include "quantize/share_weight.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pomona {
namespace {

constexpr int kMaxBits = 8;

bool is_float_dtype(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat ||
         dtype == at::kDouble;
}

// The weight that a codebook of entries means, in the dtype and shape of `like`.
at::Tensor lookup_like(const at::Tensor& entries, const Sharer::Clusters& clusters,
                       const at::Tensor& like) {
  return lookup(entries, clusters.codes, like.sizes(),
                {kMaxBits, clusters.group, false, like.scalar_type()});
}

// [groups, k] as lookup takes it.
at::Tensor as_codebook(const at::Tensor& rows, const Sharer::Clusters& clusters) {
  return clusters.group > 0 ? rows : rows.flatten();
}

// One member of each cluster, 0 for the frozen and the empty.
at::Tensor firsts(const at::Tensor& values, const Sharer::Clusters& clusters) {
  const at::Tensor members = values.take(clusters.first.clamp_min(0));
  return as_codebook(at::where(clusters.first.ge(0), members, at::zeros_like(members)), clusters);
}

void check_rule(const Share& rule, const std::string& name) {
  const auto refuse = [&](const char* what, const char* condition, auto got) {
    throw InvalidArgument(
        text("Sharer: expected `", what, "` of `", name, "` ", condition, ", got ", got, "."));
  };
  if (rule.bits < 1 || rule.bits > kMaxBits) refuse("bits", "in 1..8", rule.bits);
  const int most = 1 << rule.bits;
  if (rule.codes < 0 || rule.codes > most) {
    refuse("codes", text("in 1..", most, " (or 0: all)").c_str(), rule.codes);
  }
  if (rule.group < Share::kPerChannel) {
    refuse("group", "to be 1 or more, 0 (all) or -1 (channels)", rule.group);
  }
  if (!(rule.rate >= 0) || std::isinf(rule.rate)) {
    refuse("rate", "to be finite and not negative", rule.rate);
  }
}

void check_alternate(const Alternate& alternate) {
  const auto refuse = [](const char* what, const std::string& condition, int64_t got) {
    throw InvalidArgument(
        text("Sharer: expected `", what, "` of Alternate ", condition, ", got ", got, "."));
  };
  if (alternate == Alternate{}) return;
  if (alternate.every < 2) refuse("every", "of at least 2", alternate.every);
  if (alternate.free < 1 || alternate.free >= alternate.every) {
    refuse("free", text("in 1..", alternate.every - 1), alternate.free);
  }
  if (alternate.rounds < 1) refuse("rounds", "of at least 1", alternate.rounds);
}

// 0, 1, ..., size - 1.
std::vector<size_t> every_one(size_t size) {
  std::vector<size_t> which(size);
  std::iota(which.begin(), which.end(), size_t{0});
  return which;
}

}  // namespace

Sharer::Sharer(std::vector<Ruled<Share>> parameters, Reduction reduction, Alternate alternate)
    : reduction_(reduction), alternate_(alternate) {
  check_alternate(alternate);
  for (const auto& [parameter, rule] : parameters) {
    check_rule(rule, parameter.name);
    if (std::find(names_.begin(), names_.end(), parameter.name) != names_.end()) {
      throw InvalidArgument(
          text("Sharer: expected every name once, got `", parameter.name, "` twice."));
    }
    group_of(rule, parameter.shape, parameter.name);  // may refuse
    names_.push_back(parameter.name);
    shapes_.push_back(parameter.shape);
    rules_.push_back(rule);
  }
  release();
}

void Sharer::release() {
  is_shared_ = false;
  clusters_.clear();
  for (size_t i = 0; i < names_.size(); ++i) {
    const int64_t group = group_of(rules_[i], shapes_[i], names_[i]);
    clusters_.push_back(clusters_of(at::zeros(shapes_[i], at::kByte), 0, group, false));
  }
  on_device_ = clusters_;
  pooled_.assign(names_.size(), std::nullopt);
  steps_.assign(names_.size(), 0);
}

const Sharer::Clusters& Sharer::clusters_on(size_t i, const at::Device& device) const {
  Clusters& cached = on_device_[i];
  if (cached.codes.device() != device) {
    cached = clusters_[i];
    cached.codes = cached.codes.to(device);
    cached.first = cached.first.to(device);
    cached.counts = cached.counts.to(device);
  }
  return cached;
}

// Sharing

void Sharer::check_rows(std::span<const Live> live) const {
  if (live.size() != names_.size()) {
    throw InvalidArgument(
        text("Sharer: expected ", names_.size(), " parameters, got ", live.size(), "."));
  }
  check_rows(every_one(live.size()), live);
}

void Sharer::check_rows(std::span<const size_t> which, std::span<const Live> live) const {
  for (size_t j = 0; j < live.size(); ++j) {
    const size_t i = which[j];
    const at::Tensor& weight = live[j].weight;
    if (weight.sizes() != at::IntArrayRef(shapes_[i])) {
      throw InvalidArgument(text("Sharer: expected `", names_[i], "` of shape ",
                                 at::IntArrayRef(shapes_[i]), ", got ", weight.sizes(), "."));
    }
    if (!is_float_dtype(weight.scalar_type()) || weight.layout() != at::kStrided ||
        weight.is_meta()) {
      throw InvalidArgument(text("Sharer: expected `", names_[i],
                                 "` to be a dense tensor of float16, bfloat16, float32 or float64 "
                                 "with data, got ",
                                 weight.scalar_type(), " on ", weight.device(), "."));
    }
  }
}

struct Sharer::Fitted {
  std::vector<at::Tensor> codebooks;
  std::vector<Clusters> clusters;
};

// All codebooks and codes; nothing is written.
Sharer::Fitted Sharer::fit(std::span<const size_t> which, std::span<const Live> live,
                           std::span<const at::Tensor> importance) const {
  if (!importance.empty() && importance.size() != live.size()) {
    throw InvalidArgument(text("Sharer: expected the importance of ", live.size(),
                               " parameters, got ", importance.size(), "."));
  }
  Fitted fitted;
  for (size_t j = 0; j < live.size(); ++j) {
    const size_t i = which[j];
    const at::Tensor own = importance.empty() ? at::Tensor() : importance[j];
    if (own.defined() && own.sizes() != live[j].weight.sizes()) {
      throw InvalidArgument(text("Sharer: expected the importance of `", names_[i], "` of shape ",
                                 live[j].weight.sizes(), ", got ", own.sizes(), "."));
    }
    auto [codebook, clusters] = share_weight(live[j].weight, rules_[i], own, names_[i]);
    fitted.codebooks.push_back(std::move(codebook));
    fitted.clusters.push_back(std::move(clusters));
  }
  return fitted;
}

// Nothing is refused any more.
void Sharer::adopt(Fitted fitted, std::span<const size_t> which, std::span<const Live> live) {
  is_shared_ = true;
  for (size_t j = 0; j < live.size(); ++j) {
    const size_t i = which[j];
    clusters_[i] = on_device_[i] = std::move(fitted.clusters[j]);
    pooled_[i].reset();
    const auto& [weight, state] = live[j];
    if (weight.numel() == 0) continue;
    const Clusters& clusters = clusters_on(i, weight.device());
    weight.copy_(lookup_like(fitted.codebooks[j].to(weight.device()), clusters, weight));
    for (const auto& [name, value] : state) {
      if (!is_float_dtype(value.scalar_type()) || value.sizes() != weight.sizes()) continue;
      pool_gradients_({value}, {clusters.codes}, {clusters.counts}, {clusters.group}, true);
    }
  }
}

bool Sharer::assign(std::span<const Live> live, std::span<const at::Tensor> importance) {
  if (is_shared_) {
    check(live);
    return false;
  }
  reassign(live, importance);
  return true;
}

void Sharer::reassign(std::span<const Live> live, std::span<const at::Tensor> importance) {
  check_rows(live);
  reassign(every_one(live.size()), live, importance);
}

void Sharer::reassign(std::span<const size_t> which, std::span<const Live> live,
                      std::span<const at::Tensor> importance) {
  const at::NoGradGuard no_grad;
  check_rows(which, live);
  adopt(fit(which, live, importance), which, live);
}

std::vector<size_t> Sharer::due() const {
  std::vector<size_t> found;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (is_shared_ && alternate_.is_due(steps_[i])) found.push_back(i);
  }
  return found;
}

bool Sharer::is_loose(size_t i) const {
  return steps_[i] > 0 && alternate_.is_free(steps_[i] - 1) && alternate_.is_free(steps_[i]);
}

void Sharer::round(std::span<const Live> live) {
  const at::NoGradGuard no_grad;
  check_rows(live);
  if (!is_shared_) return;
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& weight = live[i].weight;
    if (rules_[i].entries == EntryType::kSame || weight.numel() == 0) continue;
    const Clusters& clusters = clusters_on(i, weight.device());
    const at::Tensor rows = firsts(weight, clusters).reshape(clusters.first.sizes());
    const at::Tensor wide = rows.to(at::kCPU, at::kFloat).contiguous();
    auto* entries = wide.mutable_data_ptr<float>();
    for (int64_t g = 0; g < wide.size(0); ++g, entries += wide.size(1)) {
      const auto rounded =
          round_entries({entries, static_cast<size_t>(wide.size(1))}, rules_[i].entries);
      std::copy(rounded.begin(), rounded.end(), entries);
    }
    weight.copy_(lookup_like(as_codebook(wide.to(rows.options()), clusters), clusters, weight));
  }
}

// Training

void Sharer::pool(std::span<const size_t> which, at::TensorList weights) {
  if (!is_shared_) return;
  std::vector<at::Tensor> gradients, codes, counts;
  std::vector<int64_t> groups;
  std::vector<size_t> indices;
  for (size_t j = 0; j < which.size(); ++j) {
    const size_t i = which[j];
    if (alternate_.is_free(steps_[i])) continue;
    const at::Tensor& gradient = weights[j].grad();
    if (!gradient.defined() || gradient.numel() == 0) continue;
    if (pooled_[i] && pooled_[i]->_unsafe_get_target() == gradient.unsafeGetTensorImpl()) continue;
    if (gradient.layout() != at::kStrided) {
      throw InvalidArgument(text("Sharer: expected the gradient of `", names_[i],
                                 "` to be dense, got ", gradient.layout(),
                                 ". Make the layer with sparse=False."));
    }
    const Clusters& clusters = clusters_on(i, gradient.device());
    gradients.push_back(gradient);
    codes.push_back(clusters.codes);
    counts.push_back(clusters.counts);
    groups.push_back(clusters.group);
    indices.push_back(i);
  }
  pool_gradients_(gradients, codes, counts, groups, reduction_ == Reduction::kMean);
  for (size_t j = 0; j < indices.size(); ++j) {
    pooled_[indices[j]].emplace(gradients[j].getIntrusivePtr());
  }
}

void Sharer::expect_gradient(size_t i) {
  pooled_[i].reset();
}

void Sharer::keep(std::span<const size_t> which, at::TensorList weights) {
  for (const size_t i : which) pooled_[i].reset();
  if (!is_shared_) return;
  std::vector<at::Tensor> written, codes, counts, first;
  std::vector<int64_t> groups;
  for (size_t j = 0; j < which.size(); ++j) {
    const bool is_free = alternate_.is_free(steps_[which[j]]++);
    if (is_free || weights[j].numel() == 0) continue;
    const Clusters& clusters = clusters_on(which[j], weights[j].device());
    written.push_back(weights[j]);
    codes.push_back(clusters.codes);
    counts.push_back(clusters.counts);
    first.push_back(clusters.first);
    groups.push_back(clusters.group);
  }
  snap_weights_(written, codes, counts, first, groups);
}

namespace {

// All parameters, in their order.
std::pair<std::vector<size_t>, std::vector<at::Tensor>> all_of(std::span<const Live> live) {
  std::vector<at::Tensor> weights;
  for (const Live& row : live) weights.push_back(row.weight);
  return {every_one(live.size()), std::move(weights)};
}

}  // namespace

void Sharer::pool(std::span<const Live> live) {
  check_rows(live);
  const auto [which, weights] = all_of(live);
  pool(which, weights);
}

void Sharer::keep(std::span<const Live> live) {
  check_rows(live);
  const auto [which, weights] = all_of(live);
  keep(which, weights);
}

void Sharer::check(std::span<const Live> live) const {
  const at::NoGradGuard no_grad;
  check_rows(live);
  if (!is_shared_) return;
  std::vector<std::string> left;
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& weight = live[i].weight;
    if (weight.numel() == 0 || is_loose(i)) continue;
    const Clusters& clusters = clusters_on(i, weight.device());
    const at::Tensor expected = lookup_like(firsts(weight, clusters), clusters, weight);
    const auto count = weight.ne(expected).sum().item<int64_t>();
    if (count > 0) left.push_back(text("`", names_[i], "` (", count, " of ", weight.numel(), ")"));
  }
  if (left.empty()) return;
  throw InvalidArgument(text(
      "Sharer: expected every shared weight to be in its codebook, got others in: ", join(left),
      ". Attach the sharer to the optimizer that steps, and load model and sharer together."));
}

at::Tensor Sharer::codebook(size_t i, const at::Tensor& weight) const {
  const Clusters& clusters = clusters_on(i, weight.device());
  if (clusters.k == 0) return at::zeros({0}, weight.options());
  return firsts(weight.detach(), clusters);
}

std::vector<ShareReport> Sharer::report() const {
  std::vector<ShareReport> lines;
  for (size_t i = 0; i < names_.size(); ++i) {
    const Clusters& clusters = clusters_[i];
    const int64_t size = clusters.codes.numel();
    ShareReport line{names_[i], size, size, 0, 0, 0.0, clusters.squared_error};
    if (clusters.k > 0) {
      const at::Tensor by_code = clusters.counts.sum(0);  // of all groups
      const auto kept = by_code.sum().item<double>();
      const at::Tensor shares = by_code.masked_select(by_code.gt(0)) / kept;
      line.kept = static_cast<int64_t>(kept);
      line.centroids = clusters.k - (clusters.has_zero ? 1 : 0);
      line.groups = clusters.counts.size(0);
      line.entropy = -(shares * shares.log2()).sum().item<double>() + 0.0;
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace pomona
