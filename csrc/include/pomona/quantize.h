#pragma once
// Weight sharing with trained centroids (thesis §4.2-4.4). Forward: W[i][j] =
// codebook[codes[i][j]]. Backward with the codes fixed: dL/dC_k = sum of dL/dW_ij over I_ij = k
// (thesis eq. 4.3; ICLR'16 eq. 3).
//
// `Sharer` trains the centroids without wrapping the model: before the optimizer's step each
// gradient becomes its cluster's mean or sum, after it each cluster is snapped to one value. With
// any element-wise optimizer this equals training a codebook Parameter with that gradient.

#include "pomona/codebook.h"
#include "pomona/export.h"
#include "pomona/live.h"
#include "pomona/rules.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pomona {

// codebook [k] and uint8 codes (packed, `bits` in 1, 2, 4, 8) -> weight `shape`, of `dtype` or the
// codebook's. Differentiable in the codebook. A code outside the codebook gives NaN, never a wild
// read. torch.ops.pomona.lookup.
POMONA_API at::Tensor lookup(const at::Tensor& codebook, const at::Tensor& codes,
                             at::IntArrayRef shape, int64_t bits = 8,
                             std::optional<at::ScalarType> dtype = std::nullopt);
// grad (any shape) and the codes of its elements, row-major -> [k]: sums over each cluster,
// accumulated and returned in float32 (float64 for double): a sum of many halves fits in no half.
// Deterministic on the CPU. Differentiable in grad. torch.ops.pomona.centroid_grad.
POMONA_API at::Tensor centroid_grad(const at::Tensor& grad, const at::Tensor& codes, int64_t k,
                                    int64_t bits = 8);

// What becomes of a cluster's gradients. kSum is the thesis's equation; kMean (the default) divides
// it by the cluster's size: the projection of the gradient onto "one value per cluster", which
// keeps the learning rate of the dense network usable.
enum class Reduction { kMean, kSum };

struct ShareReport {
  std::string name;
  int64_t size = 0;
  int64_t kept = 0;          // nonzeros
  int64_t centroids = 0;     // the zero of a pruned parameter not counted; 0 before step()
  double squared_error = 0;  // sum (w - c)^2 when the codes were made
};

class POMONA_API Sharer {
 public:
  // Throws InvalidArgument when bits is outside 1..8 or a name stands twice.
  explicit Sharer(std::vector<Ruled<Share>> parameters, Reduction reduction = Reduction::kMean);

  // Fits a codebook to each parameter's nonzeros, fixes the codes, writes the centroids into the
  // weights and pools the optimizer's state (each cluster takes its mean), on the first call; later
  // calls check the invariant. Says whether it shared. Nothing is written when any parameter is
  // refused. `live` is in the order of names(). Throws InvalidArgument, naming the parameter: NaN,
  // Inf, all zeros, wrong shape, not floating-point.
  bool assign(std::span<const Live> live);

  // Replaces each gradient by its cluster's mean or sum; code 0 of a pruned parameter gets 0. After
  // the last backward() and before clipping or optimizer.step(). A gradient is pooled once: a
  // second call does nothing until keep(), a new gradient tensor or expect_gradient(). Before
  // assign() it does nothing. Throws InvalidArgument, naming the parameter, for a sparse gradient.
  void pool(std::span<const Live> live);
  void pool(size_t i, const at::Tensor& weight);
  // More has been accumulated into the gradient of parameter i: the next pool() must pool it again.
  void expect_gradient(size_t i);

  // Snaps each cluster to one value (its mean, exact when all members are equal), pruned weights to
  // 0.0 exactly. After optimizer.step().
  void keep(std::span<const Live> live);
  void keep(size_t i, const at::Tensor& weight);

  // Throws InvalidArgument, naming every parameter in which a weight has left its codebook.
  void check(std::span<const Live> live) const;

  bool is_shared() const { return is_shared_; }
  const std::vector<std::string>& names() const { return names_; }
  Reduction reduction() const { return reduction_; }
  std::vector<ShareReport> report() const;
  // The codes of parameter i, uint8, of its shape, CPU; code 0 is 0.0 where has_zero(i). All 0
  // before assign().
  const at::Tensor& codes(size_t i) const { return clusters_[i].codes; }
  bool has_zero(size_t i) const { return clusters_[i].has_zero; }
  // The codebook of parameter i as its weight holds it now: [k] of its dtype and device, code 0
  // included, so that weight == codebook[codes]. Empty before assign().
  at::Tensor codebook(size_t i, const at::Tensor& weight) const;
  // Forgets the codes; the weights stay as they are.
  void release();

  // Same keys and shapes from construction on.
  struct Snapshot {
    struct Entry {
      std::string name;
      at::Tensor codes;  // uint8, of the parameter's shape, CPU
      int64_t k = 0;     // code 0 of a pruned parameter included
      bool has_zero = false;
      double squared_error = 0;
    };
    bool is_shared = false;
    Reduction reduction = Reduction::kMean;
    std::vector<Entry> parameters;
  };
  Snapshot state() const;
  // Throws InvalidArgument, listing every name and shape that differs, for another reduction, and
  // for codes that are damaged or do not fit the rule's bits; then nothing has changed.
  void load_state(const Snapshot& snapshot);

 private:
  // The clusters of one parameter: which weights are in which, how many, and one of each.
  struct Clusters {
    at::Tensor codes;   // uint8, of the parameter's shape
    at::Tensor first;   // int64 [k], the row-major index of each cluster's first member
    at::Tensor counts;  // float64 [k], members of each
    int64_t k = 0;
    bool has_zero = false;
    double squared_error = 0;
  };
  // A gradient that has been pooled: remembered by identity, not kept alive.
  using Pooled = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

  static Clusters make_clusters(const at::Tensor& codes, int64_t k, bool has_zero);
  static at::Tensor means(const at::Tensor& values, const Clusters& clusters);
  static at::Tensor firsts(const at::Tensor& values, const Clusters& clusters);
  std::pair<at::Tensor, Clusters> fit(size_t i, const at::Tensor& weight) const;
  void check_rows(std::span<const Live> live) const;
  std::vector<const Snapshot::Entry*> match_entries(const Snapshot& snapshot) const;
  Clusters check_entry(size_t i, const Snapshot::Entry& entry) const;
  const Clusters& clusters_on(size_t i, const at::Device& device) const;

  std::vector<std::string> names_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<Share> rules_;
  Reduction reduction_;
  bool is_shared_ = false;
  std::vector<Clusters> clusters_;           // on the CPU
  mutable std::vector<Clusters> on_device_;  // where each weight was last seen
  std::vector<std::optional<Pooled>> pooled_;
};

}  // namespace pomona
