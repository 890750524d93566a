// What a C++ program sees of Pruner; through hooks it is tested from Python.
#include "pomona/error.h"
#include "pomona/prune.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace {

using pomona::Live;
using pomona::Pruner;

Pruner two_layers(pomona::AllReduce all_reduce = {}) {
  return Pruner({{{"a", {4, 5}}, {0.5}}, {{"b", {3}}, {0.4}}}, std::move(all_reduce));
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const pomona::InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(Pruner, RefusesWrongParametersByName) {
  EXPECT_EQ(error_of([] {
              Pruner({{{"a", {2}}, {1.0}}});
            }),
            "Pruner: expected `sparsity` of a in [0, 1), got 1.");
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
            "Pruner: expected `b` to be finite, got NaN or Inf.");
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

// Two ranks whose sums over both are the same: the mask must be as well.
TEST(Pruner, RanksAgreeOnTheSumOfMagnitudes) {
  const at::Tensor mine = at::randn({4, 5}), theirs = at::randn({4, 5});
  const auto mask_of = [](const at::Tensor& own, const at::Tensor& other) {
    Pruner pruner({{{"a", {4, 5}}, {0.5}}},
                  [&other](at::Tensor& sum) { sum.add_(other.abs().to(sum.scalar_type())); });
    pruner.step(std::vector<Live>{{own.clone(), {}}});
    return pruner.masks()[0];
  };
  EXPECT_EQ(mask_of(mine, theirs), mask_of(theirs, mine));
}

}  // namespace
