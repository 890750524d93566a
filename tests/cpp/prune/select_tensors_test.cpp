// select_tensors, which a GPU's scores go through, makes the masks of select_pool: here on CPU
// tensors, by the same operators.
#include "prune/select_tensors.h"

#include "pomona/selection.h"

#include "prune/select.h"

#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <thread>
#include <vector>

namespace {

using pomona::Mask;
using pomona::Scores;
using pomona::SelectOptions;
using pomona::TensorScores;

Scores view(const TensorScores& part) {
  const at::Tensor& scores = part.scores;
  return {scores.const_data_ptr(), scores.numel(), *pomona::selection_dtype(scores),
          part.is_replicated};
}

std::vector<Scores> views(const std::vector<TensorScores>& pool) {
  std::vector<Scores> scores;
  for (const auto& part : pool) scores.push_back(view(part));
  return scores;
}

std::vector<Mask> all_kept(const std::vector<TensorScores>& pool) {
  std::vector<Mask> masks;
  for (const auto& part : pool) masks.emplace_back(part.scores.numel());
  return masks;
}

// Random, with many ties and zeros of both signs, empty, of one score.
std::vector<TensorScores> example(at::ScalarType dtype) {
  at::manual_seed(0);
  std::vector<TensorScores> pool;
  for (const at::Tensor& scores :
       {at::randn({33, 65}), at::randint(-4, 5, {1, 130}).neg(), at::zeros({0, 3}), at::randn({1}),
        at::randint(-2, 3, {7, 64}).to(at::kFloat)}) {
    pool.push_back({scores.to(dtype).contiguous()});
  }
  return pool;
}

TEST(SelectTensors, EqualsSelectPoolInEveryDType) {
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    const auto pool = example(dtype);
    const auto previous = pomona::select_pool(views(pool), 0.2, all_kept(pool)).masks;
    for (const double sparsity : {0.0, 0.1, 0.5, 0.77, 0.999}) {
      for (const bool by_value : {false, true}) {
        for (const bool zeros_go : {false, true}) {
          const SelectOptions options{by_value, zeros_go, {}};
          const auto found = pomona::select_tensors(pool, sparsity, previous, options);
          const auto expected = pomona::select_pool(views(pool), sparsity, previous, options);
          EXPECT_EQ(found.masks, expected.masks) << dtype << " " << sparsity << by_value;
          EXPECT_EQ(found.threshold, expected.threshold) << dtype << " " << sparsity << by_value;
        }
      }
    }
  }
}

TEST(SelectTensors, EqualsTheSampledPathOfSelectPool) {
  at::manual_seed(1);
  const std::vector<TensorScores> pool{{at::randn({300'001})}, {at::randn({70'000})}};
  const auto found = pomona::select_tensors(pool, 0.9, all_kept(pool), {false, true, {}});
  const auto expected = pomona::select_pool(views(pool), 0.9, all_kept(pool), {false, true, {}});
  EXPECT_EQ(found.masks, expected.masks);
  EXPECT_EQ(found.threshold, expected.threshold);
}

TEST(SelectTensors, OfNoTensorsIsNothing) {
  EXPECT_TRUE(pomona::select_tensors({}, 0.5, {}).masks.empty());
}

// Ranks as threads; what they sum meets at a barrier.
class Sums {
 public:
  pomona::SelectionRanks of(int64_t rank) {
    return {rank, 3, [this, rank](std::span<int64_t> counts) {
              parts_[static_cast<size_t>(rank)].assign(counts.begin(), counts.end());
              barrier_.arrive_and_wait();
              for (size_t i = 0; i < counts.size(); ++i) {
                counts[i] = parts_[0][i] + parts_[1][i] + parts_[2][i];
              }
              barrier_.arrive_and_wait();
            }};
  }

 private:
  std::array<std::vector<int64_t>, 3> parts_;
  std::barrier<> barrier_{3};
};

TEST(SelectTensors, MeetsSelectPoolOnOtherRanks) {
  at::manual_seed(2);
  const at::Tensor rows = at::randint(-5, 6, {90}).to(at::kFloat);
  const at::Tensor whole = at::randint(-5, 6, {31}).to(at::kFloat);
  const std::vector<TensorScores> all{{rows}, {whole}};
  const std::array<int64_t, 4> begin{0, 40, 40, 90};  // the second rank has no rows
  for (const double sparsity : {0.1, 0.5, 0.9}) {
    const auto expected =
        pomona::select_pool(views(all), sparsity, all_kept(all), {false, true, {}});
    Sums sums;
    std::array<pomona::Selection, 3> found;
    const auto run = [&](size_t rank) {
      const at::Tensor mine = rows.slice(0, begin[rank], begin[rank + 1]);
      const std::vector<TensorScores> pool{{mine, false}, {whole, true}};
      const SelectOptions options{false, true, sums.of(static_cast<int64_t>(rank))};
      found[rank] = rank == 2 ? pomona::select_pool(views(pool), sparsity, all_kept(pool), options)
                              : pomona::select_tensors(pool, sparsity, all_kept(pool), options);
    };
    std::vector<std::thread> others;
    for (const size_t rank : {1u, 2u}) others.emplace_back(run, rank);
    run(0);
    for (auto& other : others) other.join();
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(found[rank].threshold, expected.threshold);
      EXPECT_EQ(found[rank].masks[1], expected.masks[1]);
      for (int64_t i = begin[rank]; i < begin[rank + 1]; ++i) {
        EXPECT_EQ(found[rank].masks[0][i - begin[rank]], expected.masks[0][i]);
      }
    }
  }
}

}  // namespace
