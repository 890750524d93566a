// What a C++ program sees of Pruner; through hooks it is tested from Python.
#include "pomona/error.h"
#include "pomona/prune.h"

#include "error_of.h"

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

using pomona::Live;
using pomona::Pruner;
using pomona::testing::error_of;

Pruner two_layers() {
  return Pruner({{{"a", {4, 5}}, {0.5}}, {{"b", {3}}, {0.4}}});
}

TEST(Pruner, RefusesWrongParametersByName) {
  EXPECT_EQ(error_of([] {
              Pruner({{{"a", {2}}, {1.0}}});
            }),
            "Pruner: a: expected `sparsity` in [0, 1), got 1.");
  EXPECT_EQ(error_of([] {
              Pruner({{{"a", {2}}, {0.5}}, {{"a", {2}}, {0.5}}});
            }),
            "Pruner: expected every name once, got `a` twice.");
}

TEST(Pruner, RefusesWrongTensorsAndWritesNothing) {
  Pruner pruner = two_layers();
  const at::Tensor a = at::randn({4, 5}), b = at::randn({3}), before = a.clone();
  EXPECT_EQ(error_of([&] {
              pruner.step(std::vector<Live>{{a, {}}});
            }),
            "Pruner: expected 2 live parameters, got 1. Pass them in the order of names().");
  EXPECT_EQ(error_of([&] {
              pruner.step(std::vector<Live>{{a, {}}, {at::randn({4}), {}}});
            }),
            "Pruner: expected `b` of shape [3], got [4].");
  EXPECT_EQ(error_of([&] {
              pruner.step(std::vector<Live>{{a, {}}, {b.to(at::kInt), {}}});
            }),
            "Pruner: expected `b` to be a plain floating-point tensor, got CPUIntType.");
  EXPECT_EQ(error_of([&] {
              pruner.step(std::vector<Live>{{a, {}}, {b, {}}}, std::vector{a});
            }),
            "Pruner: expected no `scores` or one tensor for each of 2 parameters, got 1.");
  const at::Tensor infinite = at::full({3}, std::numeric_limits<float>::infinity());
  EXPECT_EQ(error_of([&] {
              pruner.step(std::vector<Live>{{a, {}}, {infinite, {}}});
            }),
            "Pruner: expected `b` to be finite, got inf at index 0 (row-major).");
  EXPECT_EQ(error_of([&] {
              pruner.step(std::vector<Live>{{a, {}}, {infinite, {}}}, std::vector{a, b});
            }),
            "Pruner: expected `b` to be finite, got inf at index 0 (row-major).");
  EXPECT_EQ(error_of([&] {
              pruner.mask_gradient(0, a);
              pruner.apply_(2, a);
            }),
            "Pruner: expected an index below 2, got 2.");
  EXPECT_TRUE(at::equal(a, before));
}

TEST(Pruner, SelectsByScoresWhenTheyAreGiven) {
  Pruner pruner({{{"a", {4}}, {0.5}}});
  const at::Tensor weight = at::arange(1, 5, at::kFloat);
  EXPECT_TRUE(
      pruner.step(std::vector<Live>{{weight, {}}}, std::vector{at::arange(4, 0, -1, at::kFloat)}));
  EXPECT_TRUE(at::equal(weight, at::tensor({1.f, 2.f, 0.f, 0.f})));
  EXPECT_FALSE(pruner.step(std::vector<Live>{{weight, {}}}));
}

// Two ranks, each a thread with half of the rows; what they add up meets at a barrier.
class TwoRanks {
 public:
  pomona::Ranks of(int64_t rank, std::vector<std::optional<pomona::Shard>> shards) {
    return {rank, 2, [this, rank](at::Tensor& sum) { add_up(rank, sum); }, std::move(shards)};
  }

 private:
  void add_up(int64_t rank, at::Tensor& sum) {
    parts_[static_cast<size_t>(rank)] = sum.clone();
    barrier_.arrive_and_wait();
    sum.copy_(at::add(parts_[0], parts_[1]));
    barrier_.arrive_and_wait();
  }

  std::array<at::Tensor, 2> parts_;
  std::barrier<> barrier_{2};
};

// The masks of [rows, 8] by one process, and by two ranks of which the first has three rows.
void expect_ranks_make_the_same_mask(const pomona::Prune& rule, const at::Tensor& weight) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  Pruner one({{{"w", {rows, columns}}, rule}});
  one.step(std::vector<Live>{{weight.clone(), {}}});
  TwoRanks ranks;
  std::array<std::vector<bool>, 2> kept;
  std::array<double, 2> sparsity{};
  const auto run = [&](int64_t rank) {
    const int64_t first = rank == 0 ? 0 : 3, own = rank == 0 ? 3 : rows - 3;
    Pruner pruner({{{"w", {own, columns}}, rule}}, ranks.of(rank, {pomona::Shard{first, rows}}));
    pruner.step(std::vector<Live>{{weight.narrow(0, first, own).clone(), {}}});
    const auto r = static_cast<size_t>(rank);
    for (int64_t i = 0; i < own * columns; ++i) kept[r].push_back(pruner.masks()[0][i]);
    sparsity[r] = pruner.sparsity();
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  std::vector<bool> together = kept[0];
  together.insert(together.end(), kept[1].begin(), kept[1].end());
  for (int64_t i = 0; i < rows * columns; ++i) {
    ASSERT_EQ(together[static_cast<size_t>(i)], one.masks()[0][i]) << i;
  }
  EXPECT_EQ(sparsity[0], one.sparsity());
  EXPECT_EQ(sparsity[1], one.sparsity());
}

TEST(Pruner, RanksTogetherMakeTheMaskOfOneProcess) {
  using pomona::Criterion;
  using pomona::Granularity;
  const at::Tensor weight = at::randint(-6, 7, {9, 8}, at::kFloat);  // many ties and zeros
  for (const double sparsity : {0.0, 0.2, 0.5, 0.9}) {
    expect_ranks_make_the_same_mask({.sparsity = sparsity}, weight);
    for (const auto kind : {Granularity::Kind::kRow, Granularity::Kind::kColumn}) {
      expect_ranks_make_the_same_mask({.sparsity = sparsity, .granularity = {kind}}, weight);
    }
    expect_ranks_make_the_same_mask(
        {.sparsity = sparsity, .criterion = {.kind = Criterion::Kind::kRandom, .seed = 3}}, weight);
  }
  expect_ranks_make_the_same_mask(
      {.criterion = {.kind = Criterion::Kind::kStdFactor, .quality = 0.8}}, weight);
  expect_ranks_make_the_same_mask(
      {.sparsity = 0.5, .granularity = {Granularity::Kind::kNOfM, 2, 4}}, weight);
  expect_ranks_make_the_same_mask(
      {.sparsity = 0.5, .granularity = {Granularity::Kind::kBlock, 3, 2}}, weight);
}

TEST(Pruner, PiecesThatShardsWouldCutAreRefused) {
  using Kind = pomona::Granularity::Kind;
  const auto error = [](const pomona::Granularity& granularity) {
    const pomona::Prune rule{.sparsity = 0.5, .granularity = granularity};
    Pruner pruner({{{"w", {3, 8}}, rule}}, {0, 1, {}, {pomona::Shard{3, 6}}});
    return error_of([&] { pruner.step(std::vector<Live>{{at::randn({3, 8}), {}}}); });
  };
  EXPECT_EQ(error({Kind::kBalanced, 4}),
            "Pruner: expected `w` to be whole for granularity balanced, got a shard.");
  EXPECT_EQ(error({Kind::kBlock, 2, 2}),
            "Pruner: expected the shards of `w` to hold whole blocks of 2 rows, got rows 3 to 6.");
}

TEST(Pruner, AFailureOnOneRankThrowsOnBoth) {
  TwoRanks ranks;
  std::array<std::string, 2> errors;
  const auto run = [&](int64_t rank) {
    Pruner pruner({{{"w", {3, 8}}, {0.5}}}, ranks.of(rank, {pomona::Shard{3 * rank, 6}}));
    at::Tensor weight = at::randn({3, 8});
    if (rank == 1) weight[2][7] = std::numeric_limits<float>::quiet_NaN();
    errors[static_cast<size_t>(rank)] = error_of([&] {
      pruner.step(std::vector<Live>{{weight, {}}});
    });
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  EXPECT_EQ(errors[0],
            "Pruner: expected every rank to pass its checks, got an error on rank 1. "
            "Its message says more.");
  EXPECT_EQ(errors[1], "Pruner: expected `w` to be finite, got nan at index 23 (row-major).");
}

TEST(Pruner, ReplicasThatDifferAreRefused) {
  TwoRanks ranks;
  std::array<std::string, 2> errors;
  const auto run = [&](int64_t rank) {
    Pruner pruner({{{"w", {4}}, {0.5}}}, ranks.of(rank, {std::nullopt}));
    const at::Tensor weight =
        rank == 0 ? at::arange(1, 5, at::kFloat) : at::arange(5, 1, -1, at::kFloat);
    errors[static_cast<size_t>(rank)] = error_of([&] {
      pruner.step(std::vector<Live>{{weight, {}}});
    });
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  for (const auto& error : errors) {
    EXPECT_NE(error.find("expected every rank to hold the same weights"), std::string::npos);
  }
}

}  // namespace
