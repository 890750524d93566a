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

struct LookupOptions {
  int64_t bits = 8;       // of a code: 1, 2, 4 or 8
  int64_t group = 0;      // elements in a row (row-major) that share a codebook; 0: all
  bool has_zero = false;  // code 0 is 0.0 and no entry of the codebook: entry j has code j + 1
  std::optional<at::ScalarType> dtype = std::nullopt;  // of the weight; the codebook's when none
};

// codebook [k] ([groups, k] where options.group > 0) and uint8 codes (packed, low bits first) ->
// weight `shape`. Differentiable in the codebook. A code outside the codebook gives NaN, never a
// wild read. torch.ops.pomona.lookup. Throws c10::ValueError or c10::TypeError, as the operator.
POMONA_API at::Tensor lookup(const at::Tensor& codebook, const at::Tensor& codes,
                             at::IntArrayRef shape, const LookupOptions& options = {});
// The same into `out` (contiguous), whose shape and dtype it takes; not differentiable.
POMONA_API void lookup_into_(const at::Tensor& out, const at::Tensor& codebook,
                             const at::Tensor& codes, const LookupOptions& options = {});
// grad (any shape) and the codes of its elements, row-major -> [k] or [groups, k]: sums over each
// cluster, accumulated and returned in float32 (float64 for double): a sum of many halves fits in
// no half. Deterministic. Differentiable in grad. torch.ops.pomona.centroid_grad.
POMONA_API at::Tensor centroid_grad(const at::Tensor& grad, const at::Tensor& codes, int64_t k,
                                    const LookupOptions& options = {});

// What becomes of a cluster's gradients. kSum is the thesis's equation; kMean (the default) divides
// it by the cluster's size: the projection of the gradient onto "one value per cluster", which
// keeps the learning rate of the dense network usable.
enum class Reduction { kMean, kSum };

// The alternating scheme: of every `every` optimizer steps the last `free` move the weights one by
// one, and end in codebooks and codes made anew; after `rounds` times that the codes stay. A pure
// function of the steps that a parameter has seen since it was shared.
struct Alternate {
  int64_t every = 0;  // 0: codes stay from the beginning
  int64_t free = 0;   // 1 to every - 1
  int64_t rounds = 0;

  // Whether step `step`, counted from 0, moves weights one by one.
  bool is_free(int64_t step) const { return step < every * rounds && step % every >= every - free; }
  // Whether codes are to be made anew after so many steps.
  bool is_due(int64_t steps) const { return steps > 0 && is_free(steps - 1) && !is_free(steps); }
  bool operator==(const Alternate&) const = default;
};

struct ShareReport {
  std::string name;
  int64_t size = 0;
  int64_t kept = 0;          // nonzeros
  int64_t centroids = 0;     // of a codebook, the zero of a pruned parameter not counted; 0 before
                             // step()
  int64_t groups = 0;        // codebooks; 0 before step()
  double entropy = 0;        // bits for the code of a kept weight, as an ideal coder takes them
  double squared_error = 0;  // sum (w - c)^2 when the codes were made
};

class POMONA_API Sharer {
 public:
  // The alternating scheme is the sharer's, not a rule's: layers are trained together, and codes of
  // some that change while others are fixed are rarely wanted (make two sharers). Throws
  // InvalidArgument, naming the parameter, for a rule outside what Share says, or a name that
  // stands twice; and for an Alternate outside what it says.
  explicit Sharer(std::vector<Ruled<Share>> parameters, Reduction reduction = Reduction::kMean,
                  Alternate alternate = {});

  // Fits codebooks to each parameter's nonzeros, fixes the codes, writes the centroids into the
  // weights and pools the optimizer's state (each cluster takes its mean), on the first call; later
  // calls check the invariant. Says whether it shared. Nothing is written when any parameter is
  // refused. `live` is in the order of names(); `importance`: none, or for each parameter a tensor
  // of its shape (its Fisher information; see FitOptions) or an undefined one. Throws
  // InvalidArgument, naming the parameter: NaN, Inf, all zeros, wrong shape, not floating-point.
  bool assign(std::span<const Live> live, std::span<const at::Tensor> importance = {});

  // Takes the weights as they are now, fits codebooks and codes to them anew, and writes the new
  // centroids; for schemes that alternate between free weights and shared ones. Errors as assign().
  void reassign(std::span<const Live> live, std::span<const at::Tensor> importance = {});
  // The same for some: `which` of names() the rows of `live` are.
  void reassign(std::span<const size_t> which, std::span<const Live> live,
                std::span<const at::Tensor> importance = {});
  // The parameters whose codes Alternate wants made anew now: call reassign() with them. After
  // keep().
  std::vector<size_t> due() const;
  // Whether the weights of parameter i are on their own: in the middle of a free stretch.
  bool is_loose(size_t i) const;

  // Replaces each gradient by its cluster's mean or sum; pruned weights get 0. Not where Alternate
  // leaves the next step free. After the last
  // backward() and before clipping or optimizer.step(). A gradient is pooled once: a second call
  // does nothing until keep(), a new gradient tensor or expect_gradient(). Before assign() it does
  // nothing. `which`: of names(), the parameters that `weights` are. Throws InvalidArgument, naming
  // the parameter, for a sparse gradient.
  void pool(std::span<const Live> live);
  void pool(std::span<const size_t> which, at::TensorList weights);
  // More has been accumulated into the gradient of parameter i: the next pool() must pool it again.
  void expect_gradient(size_t i);

  // Snaps each cluster to one value (its mean, exact when all members are equal), pruned weights to
  // 0.0 exactly; not after a free step of Alternate. Counts the step. After optimizer.step().
  void keep(std::span<const Live> live);
  void keep(std::span<const size_t> which, at::TensorList weights);

  // Rounds the centroids in the weights to the rules' entry types once more: training has moved
  // them.
  void round(std::span<const Live> live);

  // Throws InvalidArgument, naming every parameter in which a weight has left its codebook; loose
  // ones may.
  void check(std::span<const Live> live) const;

  bool is_shared() const { return is_shared_; }
  const std::vector<std::string>& names() const { return names_; }
  Reduction reduction() const { return reduction_; }
  const Alternate& alternate() const { return alternate_; }
  std::vector<ShareReport> report() const;
  // The codes of parameter i, uint8, of its shape, CPU; code 0 is 0.0 where has_zero(i). All 0
  // before assign().
  const at::Tensor& codes(size_t i) const { return clusters_[i].codes; }
  bool has_zero(size_t i) const { return clusters_[i].has_zero; }
  // Elements in a row that share a codebook; 0: all.
  int64_t group(size_t i) const { return clusters_[i].group; }
  // The codebook of parameter i as its weight holds it now, code 0 included: [k], or [groups, k]
  // where group(i) > 0 (entries that a group does not use are 0), of its dtype and device, so that
  // weight == codebook[codes]. Empty before assign().
  at::Tensor codebook(size_t i, const at::Tensor& weight) const;
  // Forgets the codes; the weights stay as they are.
  void release();

  // Same keys and shapes from construction on.
  struct Snapshot {
    struct Entry {
      std::string name;
      at::Tensor codes;  // uint8, of the parameter's shape, CPU
      int64_t k = 0;     // code 0 of a pruned parameter included
      int64_t group = 0;
      bool has_zero = false;
      double squared_error = 0;
      int64_t steps = 0;  // since it was shared
    };
    bool is_shared = false;
    Reduction reduction = Reduction::kMean;
    std::vector<Entry> parameters;
  };
  Snapshot state() const;
  // Throws InvalidArgument, listing every name and shape that differs, for another reduction, and
  // for codes that are damaged or do not fit the rule; then nothing has changed.
  void load_state(const Snapshot& snapshot);

  // The clusters of one parameter (internal).
  struct Clusters {
    at::Tensor codes;   // uint8, of the parameter's shape
    at::Tensor first;   // int64 [groups, k], the row-major index of a member; -1: none, or frozen
    at::Tensor counts;  // float64 [groups, k], members of each; 0 for the frozen zero
    int64_t k = 0;      // 0: no clusters yet
    int64_t group = 0;
    bool has_zero = false;
    double squared_error = 0;
  };

 private:
  // A gradient that has been pooled: remembered by identity, not kept alive.
  using Pooled = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  struct Fitted;

  Fitted fit(std::span<const size_t> which, std::span<const Live> live,
             std::span<const at::Tensor> importance) const;
  void adopt(Fitted fitted, std::span<const size_t> which, std::span<const Live> live);
  void check_rows(std::span<const Live> live) const;
  void check_rows(std::span<const size_t> which, std::span<const Live> live) const;
  std::vector<const Snapshot::Entry*> match_entries(const Snapshot& snapshot) const;
  Clusters check_entry(size_t i, const Snapshot::Entry& entry) const;
  const Clusters& clusters_on(size_t i, const at::Device& device) const;

  std::vector<std::string> names_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<Share> rules_;
  Reduction reduction_;
  Alternate alternate_;
  bool is_shared_ = false;
  std::vector<int64_t> steps_;               // of each parameter since it was shared
  std::vector<Clusters> clusters_;           // on the CPU
  mutable std::vector<Clusters> on_device_;  // where each weight was last seen
  std::vector<std::optional<Pooled>> pooled_;
};

}  // namespace pomona
