#pragma once
// Pruning (thesis ch. 3): masks made by a rule and kept while the network is retrained.
//
// The model is never wrapped: a weight stays an ordinary leaf Parameter. The mask lives in the
// gradient first (pruned entries are zeroed, so momentum, decay, clipping and adaptive optimizers
// see the pruned network only) and in the weight after the step, as a backstop.

#include "pomona/export.h"
#include "pomona/live.h"
#include "pomona/mask.h"
#include "pomona/prune_rule.h"
#include "pomona/rules.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pomona {

// Adds a CPU tensor (int64 or float64) up over all ranks, in place.
using AllReduce = std::function<void(at::Tensor&)>;

// Which rows of a parameter this rank holds: `first_row` and on, of `rows` in the whole parameter.
struct Shard {
  int64_t first_row = 0;
  int64_t rows = 0;
};

// How the ranks of a job prune together; the default is one process. Every rank makes the same
// calls; together they make the masks that one process would make, from summed counters, and when
// one of them fails all of them throw.
struct Ranks {
  int64_t rank = 0;
  int64_t size = 1;
  AllReduce sum{};
  // One for each parameter; nothing: every rank holds the whole parameter.
  std::vector<std::optional<Shard>> shards{};
};

// One line of report().
struct PruneReport {
  std::string name;
  int64_t size = 0;
  int64_t kept = 0;
  double threshold = 0.0;  // the largest score that the last round pruned; 0 before
  // Of the kept weights as float32 and a mask of one bit a weight (4 * size when nothing is
  // pruned). What save() writes is smaller still.
  int64_t bytes = 0;
};

class POMONA_API Pruner {
 public:
  // Holds names, shapes, rules, masks and counters; never a tensor of the model. Shapes are those
  // of this rank's rows. Throws InvalidArgument when a rule is not valid (check_rule), does not fit
  // its parameter's shape, or a name stands twice.
  explicit Pruner(std::vector<Ruled<Prune>> parameters, Ranks ranks = {});

  // One call of the schedules. Where a round falls on it: scores the weights (by the rule's
  // criterion, or by `scores`, one tensor a parameter, higher is more important), makes the masks,
  // zeroes what is pruned and its first moments. Says whether a mask changed. Every call checks
  // that nothing pruned has come back. All parameters are checked and selected before the first is
  // written. `live` is in the order of names(). Throws InvalidArgument, naming the parameter: NaN
  // or Inf in a weight or score, wrong shape, revived weights, no gradients accumulated where the
  // criterion needs them, a parameter that would lose all its weights.
  bool step(std::span<const Live> live, std::span<const at::Tensor> scores = {});

  // Before optimizer.step(), after backward(): accumulates the gradients that criteria need
  // (divided by `grad_scale`), zeroes pruned gradients, and lets weights that may return move.
  // `which` parameters the optimizer holds; nothing: all.
  void before_step(std::span<const Live> live, double grad_scale = 1.0,
                   std::span<const size_t> which = {});
  // After optimizer.step(), the backstop: zeroes pruned weights (first moments stay zero by
  // themselves).
  void keep(std::span<const Live> live, std::span<const size_t> which = {});
  // Adds this gradient to the scores of kTaylor and kObd; before_step() does it.
  void accumulate(std::span<const Live> live, double grad_scale = 1.0,
                  std::span<const size_t> which = {});

  // Zeroes the pruned entries of one gradient: what the hook of parameter i does after each
  // accumulation. Dense of any strides, or sparse over dimension 0 (nn.Embedding(sparse=True)).
  // Does nothing while pruned weights may return.
  void mask_gradient(size_t i, const at::Tensor& gradient) const;
  // The same for every parameter that has a gradient. Call it after backward() and before clipping.
  void mask_gradients(std::span<const Live> live, std::span<const size_t> which = {}) const;
  // Zeroes the pruned weights of one tensor that follows parameter i, such as an EMA copy.
  void apply_(size_t i, const at::Tensor& tensor) const;
  // Throws InvalidArgument, naming every parameter that has nonzeros under its mask.
  void check(std::span<const Live> live) const;
  // Drops the masks (DSD's re-dense, finalize) and starts the schedules anew. With
  // `seed_second_moments`, each reborn entry's second moment becomes the mean over its tensor's
  // survivors, so that an adaptive optimizer's first step is not out of scale.
  void release(std::span<const Live> live, bool seed_second_moments = false);
  // Other rules for the same parameters, before the first round or after release().
  void set_rules(std::vector<Prune> rules);
  // Parameter i has lost the entries along `dim` that are not listed: keeps shape, mask and scores
  // of those that are. Indices ascend.
  void narrow(size_t i, int64_t dim, std::span<const int64_t> indices);

  bool is_pruned() const { return is_pruned_; }
  int64_t steps() const { return steps_; }
  // Whether pruned weights of parameter i may come back now (kSurgery).
  bool may_return(size_t i) const;
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Prune>& rules() const { return rules_; }
  const std::vector<Mask>& masks() const { return masks_; }
  // The mask of parameter i as a bool tensor of its shape: true where a weight is kept.
  at::Tensor keep_mask(size_t i, const at::Device& device) const;
  std::vector<PruneReport> report() const;
  // Of all weights under a rule, on all ranks; 0 when there are none.
  double sparsity() const;

  // Same keys and shapes from construction on: masks are all ones before pruning.
  struct Snapshot {
    using Tensors = std::vector<std::pair<std::string, at::Tensor>>;
    bool is_pruned = false;
    int64_t steps = 0;
    std::vector<double> thresholds;
    std::vector<int64_t> accumulated;  // gradients in the scores of each parameter
    Tensors masks;                     // uint8 [dim0, ceil(row / 8)], row-aligned, CPU
    Tensors scores;                    // of parameters whose criterion accumulates gradients
    Tensors shadows;  // pruned weights that may return, of parameters under kSurgery
  };
  Snapshot state() const;
  // Throws InvalidArgument, listing every name and shape that differs; then nothing has changed.
  void load_state(const Snapshot& snapshot);

 private:
  // What is known of one parameter besides its mask.
  struct Memory {
    at::Tensor scores;  // accumulated gradients
    int64_t accumulated = 0;
    at::Tensor shadow;           // the values of pruned weights that may return; 0 where kept
    bool is_shadow_out = false;  // the weight holds them, for an optimizer's step
  };

  void check_live(std::span<const Live> live) const;
  void check_index(size_t i, const at::Tensor& tensor) const;
  void check_scores(std::span<const at::Tensor> scores) const;
  // Runs `check` on every rank; when it throws on one, all throw.
  void agree(const std::function<void()>& check) const;
  void check_replicas_agree(const std::vector<Mask>& masks) const;
  std::vector<int64_t> count_kept(const std::vector<Mask>& masks) const;
  int64_t size_on_all_ranks(size_t i) const;
  std::vector<std::pair<size_t, Round>> due() const;
  at::Tensor score(size_t i, const Round& round, const Live& live,
                   std::span<const at::Tensor> scores) const;
  void commit(std::span<const Live> live, const std::vector<std::pair<size_t, Round>>& rounds);
  // masks_[i] as the operator takes it, on the device last asked for.
  const at::Tensor& mask_bytes(size_t i, const at::Device& device) const;
  // REQUIRES: check_live.
  void zero(std::span<const Live> live, std::span<const size_t> which,
            bool with_first_moments) const;
  std::vector<size_t> all_or(std::span<const size_t> which) const;
  void take_shadow(size_t i, const at::Tensor& weight);
  void give_shadow(size_t i, const at::Tensor& weight);
  bool needs_scores(size_t i) const;
  bool has_shadow(size_t i) const;
  Snapshot::Tensors memory_of(bool shadows) const;
  void set_masks(std::vector<Mask> masks, std::vector<int64_t> kept,
                 std::vector<double> thresholds);

  std::vector<std::string> names_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<Prune> rules_;
  std::vector<Mask> masks_;
  std::vector<int64_t> kept_;  // of each mask, on all ranks
  std::vector<double> thresholds_;
  std::vector<Memory> memory_;
  mutable std::vector<at::Tensor> mask_bytes_;  // a cache
  Ranks ranks_;
  bool is_pruned_ = false;
  int64_t steps_ = 0;
};

}  // namespace pomona
