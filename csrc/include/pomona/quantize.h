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
  // refused. Throws InvalidArgument, naming the parameter: NaN, Inf, all zeros, wrong shape.
  bool assign(std::span<const Live> live);
  // Replaces each gradient by its cluster's mean or sum; code 0 of a pruned parameter gets 0.
  // Before optimizer.step().
  void pool(std::span<const Live> live);
  // Snaps each cluster to one value, pruned weights to 0.0 exactly. After optimizer.step().
  void keep(std::span<const Live> live);
  // Throws InvalidArgument, naming every parameter in which a weight has left its codebook.
  void check(std::span<const Live> live) const;

  bool is_shared() const { return is_shared_; }
  const std::vector<std::string>& names() const { return names_; }
  Reduction reduction() const { return reduction_; }
  std::vector<ShareReport> report() const;
  // The codes of parameter i, uint8, of its shape, CPU; code 0 is 0.0 where has_zero(i).
  const at::Tensor& codes(size_t i) const { return codes_[i]; }
  bool has_zero(size_t i) const { return has_zero_[i]; }
  // The codebook of parameter i as its weight holds it now: float32 [k], code 0 included.
  at::Tensor codebook(size_t i, const at::Tensor& weight) const;
  // Forgets the codes; the weights stay as they are.
  void release();

  // Same keys and shapes from construction on.
  struct Snapshot {
    bool is_shared = false;
    std::vector<int64_t> k;
    std::vector<bool> has_zero;
    std::vector<double> squared_errors;
    std::vector<std::pair<std::string, at::Tensor>> codes;  // uint8, shape of the parameter, CPU
  };
  Snapshot state() const;
  void load_state(const Snapshot& snapshot);

 private:
  struct OnDevice;  // codes and counts on the parameter's device

  std::vector<std::string> names_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<Share> rules_;
  Reduction reduction_;
  bool is_shared_ = false;
  std::vector<at::Tensor> codes_;
  std::vector<int64_t> k_;
  std::vector<bool> has_zero_;
  std::vector<double> squared_errors_;
};

}  // namespace pomona
