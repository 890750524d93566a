#include "pomona/error.h"
#include "pomona/quantize.h"

#include "base/text.h"
#include "quantize/kmeans_kernel.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/all.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pomona {
namespace {

constexpr int kMaxBits = 8;

bool is_float_dtype(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat ||
         dtype == at::kDouble;
}

template <class Element>
std::span<const Element> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<Element>(), static_cast<size_t>(tensor.numel())};
}

// A CPU tensor that owns its values.
template <class Element>
at::Tensor to_tensor(const std::vector<Element>& values) {
  return at::tensor(values, c10::CppTypeToScalarType<Element>::value);
}

// The weight that a codebook of entries means, in the dtype and shape of `like`.
at::Tensor lookup_like(const at::Tensor& entries, const at::Tensor& codes, const at::Tensor& like) {
  return lookup(entries, codes, like.sizes(), kMaxBits, like.scalar_type());
}

// Bit for bit: -0.0 is not 0.0 here, and a file would count it as a kept weight.
bool has_same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto bits = a.element_size() == 2   ? at::kShort
                    : a.element_size() == 4 ? at::kInt
                                            : at::kLong;
  return at::equal(a.view(bits), b.view(bits));
}

// Ascending centroids as `dtype` holds them, each once: bfloat16 has room for few between 1 and 2.
std::vector<float> rounded(const std::vector<float>& centroids, at::ScalarType dtype) {
  const at::Tensor narrow = to_tensor(centroids).to(dtype).to(at::kFloat);
  const auto values = span_of<float>(narrow);
  std::vector<float> distinct(values.begin(), values.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  return distinct;
}

}  // namespace

Sharer::Sharer(std::vector<Ruled<Share>> parameters, Reduction reduction) : reduction_(reduction) {
  for (const auto& [parameter, rule] : parameters) {
    if (rule.bits < 1 || rule.bits > kMaxBits) {
      throw InvalidArgument(
          text("Sharer: expected `bits` of `", parameter.name, "` in 1..8, got ", rule.bits, "."));
    }
    if (std::find(names_.begin(), names_.end(), parameter.name) != names_.end()) {
      throw InvalidArgument(
          text("Sharer: expected every name once, got `", parameter.name, "` twice."));
    }
    names_.push_back(parameter.name);
    shapes_.push_back(parameter.shape);
    rules_.push_back(rule);
  }
  release();
}

void Sharer::release() {
  is_shared_ = false;
  clusters_.clear();
  for (const auto& shape : shapes_) {
    clusters_.push_back(make_clusters(at::zeros(shape, at::kByte), 0, false));
  }
  on_device_ = clusters_;
  pooled_.assign(names_.size(), std::nullopt);
}

// Clusters

// REQUIRES: codes is a contiguous CPU tensor. k == 0: no clusters yet.
Sharer::Clusters Sharer::make_clusters(const at::Tensor& codes, int64_t k, bool has_zero) {
  const Members members = k == 0 ? Members{} : members_of(span_of<uint8_t>(codes), k);
  return {codes, to_tensor(members.first), to_tensor(members.counts), k, has_zero};
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

// One member of each cluster, 0 for the cluster of pruned weights.
at::Tensor Sharer::firsts(const at::Tensor& values, const Clusters& clusters) {
  const at::Tensor members = values.take(clusters.first);
  if (clusters.has_zero) members.select(0, 0).zero_();
  return members;
}

// The mean of each cluster in double, as its first member plus the mean distance from it: so
// members that are equal stay exactly equal, in float64 as well. 0 for pruned weights.
at::Tensor Sharer::means(const at::Tensor& values, const Clusters& clusters) {
  const at::Tensor wide = values.to(at::kDouble);
  const at::Tensor first = firsts(wide, clusters);
  const at::Tensor distance = wide - lookup_like(first, clusters.codes, wide);
  const at::Tensor mean =
      first + centroid_grad(distance, clusters.codes, clusters.k) / clusters.counts;
  if (clusters.has_zero) mean.select(0, 0).zero_();
  return mean;
}

// Sharing

void Sharer::check_rows(std::span<const Live> live) const {
  if (live.size() != names_.size()) {
    throw InvalidArgument(
        text("Sharer: expected ", names_.size(), " parameters, got ", live.size(), "."));
  }
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& weight = live[i].weight;
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

// The codebook of a weight, of its dtype, and its clusters; nothing is written.
std::pair<at::Tensor, Sharer::Clusters> Sharer::fit(size_t i, const at::Tensor& weight) const {
  const at::Tensor dense = weight.detach().to(at::kCPU).contiguous();
  const at::Tensor values = dense.to(at::kFloat);
  const auto refuse = [&](const char* condition, const char* got) {
    throw InvalidArgument(
        text("Sharer: expected `", names_[i], "` ", condition, ", got ", got, "."));
  };
  if (!at::isfinite(dense).all().item<bool>()) refuse("to be finite", "NaN or Inf");
  if (!at::isfinite(values).all().item<bool>()) refuse("within the range of float32", "more");
  if (dense.numel() == 0) return {dense, clusters_[i]};
  const at::Tensor is_kept = dense.ne(0);
  const at::Tensor kept = values.masked_select(is_kept);
  if (kept.numel() == 0) refuse("to hold a weight that is not zero", "all zeros");

  const bool has_zero = kept.numel() < dense.numel();
  const int most = (1 << rules_[i].bits) - (has_zero ? 1 : 0);
  auto centroids = rounded(fit_codebook(span_of<float>(kept), most), dense.scalar_type());
  const auto kept_codes = assign_used_codes(span_of<float>(kept), centroids);
  if (has_zero) centroids.insert(centroids.begin(), 0.0F);
  const at::Tensor codes = at::zeros(dense.sizes(), at::kByte);
  codes.masked_scatter_(is_kept, to_tensor(kept_codes) + (has_zero ? 1 : 0));

  Clusters clusters = make_clusters(codes, static_cast<int64_t>(centroids.size()), has_zero);
  const at::Tensor codebook = to_tensor(centroids).to(dense.scalar_type());
  const at::Tensor error =
      dense.to(at::kDouble) - lookup(codebook, codes, dense.sizes(), kMaxBits, at::kDouble);
  clusters.squared_error = error.square().sum().item<double>();
  return {codebook, std::move(clusters)};
}

bool Sharer::assign(std::span<const Live> live) {
  const at::NoGradGuard no_grad;
  check_rows(live);
  if (is_shared_) {
    check(live);
    return false;
  }
  std::vector<at::Tensor> codebooks;
  std::vector<Clusters> fitted;
  for (size_t i = 0; i < live.size(); ++i) {
    auto [codebook, clusters] = fit(i, live[i].weight);
    codebooks.push_back(std::move(codebook));
    fitted.push_back(std::move(clusters));
  }
  clusters_ = std::move(fitted);  // from here on nothing is refused
  on_device_ = clusters_;
  is_shared_ = true;
  for (size_t i = 0; i < live.size(); ++i) {
    const auto& [weight, state] = live[i];
    if (weight.numel() == 0) continue;
    const Clusters& clusters = clusters_on(i, weight.device());
    weight.copy_(lookup_like(codebooks[i].to(weight.device()), clusters.codes, weight));
    for (const auto& [name, value] : state) {
      if (!is_float_dtype(value.scalar_type()) || value.sizes() != weight.sizes()) continue;
      value.copy_(lookup_like(means(value, clusters), clusters.codes, value));
    }
  }
  return true;
}

// Training

void Sharer::pool(size_t i, const at::Tensor& weight) {
  const at::Tensor& gradient = weight.grad();
  if (!is_shared_ || !gradient.defined() || gradient.numel() == 0) return;
  if (pooled_[i] && pooled_[i]->_unsafe_get_target() == gradient.unsafeGetTensorImpl()) return;
  if (gradient.layout() != at::kStrided) {
    throw InvalidArgument(text("Sharer: expected the gradient of `", names_[i],
                               "` to be dense, got ", gradient.layout(),
                               ". Make the layer with sparse=False."));
  }
  const at::NoGradGuard no_grad;
  const Clusters& clusters = clusters_on(i, gradient.device());
  const at::Tensor sums = centroid_grad(gradient, clusters.codes, clusters.k);
  if (reduction_ == Reduction::kMean) sums.div_(clusters.counts);
  if (clusters.has_zero) sums.select(0, 0).zero_();
  gradient.copy_(lookup_like(sums, clusters.codes, gradient));
  pooled_[i].emplace(gradient.getIntrusivePtr());
}

void Sharer::pool(std::span<const Live> live) {
  check_rows(live);
  for (size_t i = 0; i < live.size(); ++i) pool(i, live[i].weight);
}

void Sharer::expect_gradient(size_t i) {
  pooled_[i].reset();
}

void Sharer::keep(size_t i, const at::Tensor& weight) {
  pooled_[i].reset();
  if (!is_shared_ || weight.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const Clusters& clusters = clusters_on(i, weight.device());
  // An element-wise optimizer gives equal members equal bits, so this is the usual end. Not asked
  // of a GPU, which would have to be waited for.
  if (weight.is_cpu() &&
      has_same_bits(weight, lookup_like(firsts(weight, clusters), clusters.codes, weight))) {
    return;
  }
  weight.copy_(lookup_like(means(weight, clusters), clusters.codes, weight));
}

void Sharer::keep(std::span<const Live> live) {
  check_rows(live);
  for (size_t i = 0; i < live.size(); ++i) keep(i, live[i].weight);
}

void Sharer::check(std::span<const Live> live) const {
  const at::NoGradGuard no_grad;
  check_rows(live);
  if (!is_shared_) return;
  std::vector<std::string> left;
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& weight = live[i].weight;
    if (weight.numel() == 0) continue;
    const Clusters& clusters = clusters_on(i, weight.device());
    const at::Tensor expected = lookup_like(firsts(weight, clusters), clusters.codes, weight);
    const auto count = weight.ne(expected).sum().item<int64_t>();
    if (count > 0) left.push_back(text("`", names_[i], "` (", count, " of ", weight.numel(), ")"));
  }
  if (left.empty()) return;
  throw InvalidArgument(text(
      "Sharer: expected every shared weight to be in its codebook, got others in: ", join(left),
      ". Attach the sharer to the optimizer that steps, and load model and sharer together."));
}

at::Tensor Sharer::codebook(size_t i, const at::Tensor& weight) const {
  return firsts(weight.detach(), clusters_on(i, weight.device()));
}

std::vector<ShareReport> Sharer::report() const {
  std::vector<ShareReport> lines;
  for (size_t i = 0; i < names_.size(); ++i) {
    const Clusters& clusters = clusters_[i];
    const int64_t size = clusters.codes.numel();
    const auto pruned =
        clusters.has_zero ? static_cast<int64_t>(clusters.counts.const_data_ptr<double>()[0]) : 0;
    lines.push_back({names_[i], size, size - pruned, clusters.k - (clusters.has_zero ? 1 : 0),
                     clusters.squared_error});
  }
  return lines;
}

// State

Sharer::Snapshot Sharer::state() const {
  Snapshot snapshot{is_shared_, reduction_, {}};
  for (size_t i = 0; i < names_.size(); ++i) {
    const Clusters& clusters = clusters_[i];
    snapshot.parameters.push_back(
        {names_[i], clusters.codes.clone(), clusters.k, clusters.has_zero, clusters.squared_error});
  }
  return snapshot;
}

// The clusters of an entry whose name and shape fit. Throws unless each of its k codes is used, and
// no other.
Sharer::Clusters Sharer::check_entry(size_t i, const Snapshot::Entry& entry) const {
  const at::Tensor codes = entry.codes.to(at::kCPU).contiguous().clone();
  const int64_t most = int64_t{1} << rules_[i].bits;
  if (entry.k < (codes.numel() == 0 ? 0 : 1) || entry.k > most) {
    throw InvalidArgument(text("Sharer.load_state: expected `", names_[i], "` to have 1 to ", most,
                               " codes, got ", entry.k,
                               ". Make the sharer with the rules that made the state."));
  }
  const auto bytes = span_of<uint8_t>(codes);
  const bool is_below = std::all_of(bytes.begin(), bytes.end(),
                                    [&](uint8_t code) { return int64_t{code} < entry.k; });
  Clusters clusters;
  if (is_below) clusters = make_clusters(codes, entry.k, entry.has_zero);
  if (!is_below || !clusters.counts.gt(0).all().item<bool>()) {
    throw InvalidArgument(text("Sharer.load_state: expected the codes of `", names_[i],
                               "` to be 0 to ", entry.k - 1,
                               ", each used, got others. The state is damaged."));
  }
  clusters.squared_error = entry.squared_error;
  return clusters;
}

// The entry of each parameter. Throws, listing every name and shape that differs.
std::vector<const Sharer::Snapshot::Entry*> Sharer::match_entries(const Snapshot& snapshot) const {
  std::vector<std::string> differences;
  std::vector<const Snapshot::Entry*> entries(names_.size(), nullptr);
  for (const auto& entry : snapshot.parameters) {
    const auto found = std::find(names_.begin(), names_.end(), entry.name);
    if (found == names_.end()) {
      differences.push_back(text("unexpected `", entry.name, "`"));
      continue;
    }
    const auto i = static_cast<size_t>(found - names_.begin());
    entries[i] = &entry;
    const at::IntArrayRef shape(shapes_[i]);
    if (entry.codes.scalar_type() == at::kByte && entry.codes.sizes() == shape) continue;
    differences.push_back(text("`", entry.name, "` ", entry.codes.scalar_type(), " ",
                               entry.codes.sizes(), " instead of Byte ", shape));
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    if (entries[i] == nullptr) differences.push_back(text("missing `", names_[i], "`"));
  }
  if (differences.empty()) return entries;
  throw InvalidArgument(text("Sharer.load_state: expected the codes of this model's parameters, ",
                             "got: ", join(differences), "."));
}

void Sharer::load_state(const Snapshot& snapshot) {
  const auto entries = match_entries(snapshot);
  if (!snapshot.is_shared) return release();
  if (snapshot.reduction != reduction_) {
    const auto name = [](Reduction r) { return r == Reduction::kMean ? "mean" : "sum"; };
    throw InvalidArgument(text("Sharer.load_state: expected reduction \"", name(reduction_),
                               "\" as the sharer was made with, got \"", name(snapshot.reduction),
                               "\"."));
  }
  std::vector<Clusters> loaded;
  for (size_t i = 0; i < names_.size(); ++i) loaded.push_back(check_entry(i, *entries[i]));
  clusters_ = std::move(loaded);
  on_device_ = clusters_;
  pooled_.assign(names_.size(), std::nullopt);
  is_shared_ = true;
}

}  // namespace pomona
