// Pools of tensors beside a literal reference, on one process and on ranks; the sampled path, the
// instruction sets, halves.
#include "pomona/error.h"
#include "pomona/selection.h"

#include "base/float16.h"
#include "prune/select_pass_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace {

using pomona::DType;
using pomona::Isa;
using pomona::Mask;
using pomona::Scores;
using pomona::SelectOptions;

using Tensors = std::vector<std::vector<float>>;

// Masked first, then zeros when they go anyway, then by score, tensor and index.
std::vector<Mask> reference(const Tensors& tensors, double sparsity,
                            const std::vector<Mask>& previous, bool by_value, bool zeros_go) {
  struct Place {
    size_t tensor;
    int64_t index;
    float score;
  };
  std::vector<Place> live;
  int64_t n = 0, gone = 0;
  std::vector<Mask> masks = previous;
  for (size_t t = 0; t < tensors.size(); ++t) {
    n += static_cast<int64_t>(tensors[t].size());
    for (size_t i = 0; i < tensors[t].size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      if (zeros_go && tensors[t][i] == 0) masks[t].set(index, false);
      if (masks[t][index]) {
        live.push_back({t, index, by_value ? tensors[t][i] : std::abs(tensors[t][i])});
      } else {
        ++gone;
      }
    }
  }
  std::stable_sort(live.begin(), live.end(),
                   [](const Place& a, const Place& b) { return a.score < b.score; });
  for (const Place& place : live) {
    if (gone >= pomona::pruned_count(n, sparsity)) break;
    masks[place.tensor].set(place.index, false);
    ++gone;
  }
  return masks;
}

std::vector<Scores> views(const Tensors& tensors) {
  std::vector<Scores> pool;
  for (const auto& tensor : tensors) {
    pool.push_back({tensor.data(), static_cast<int64_t>(tensor.size()), DType::kFloat32});
  }
  return pool;
}

std::vector<Mask> all_kept(const Tensors& tensors) {
  std::vector<Mask> masks;
  for (const auto& tensor : tensors) masks.emplace_back(static_cast<int64_t>(tensor.size()));
  return masks;
}

// Whole numbers: many ties, some zeros.
Tensors small_integers(const std::vector<size_t>& sizes, int range, unsigned seed) {
  std::mt19937 rng(seed);
  std::uniform_int_distribution<int> number(-range, range);
  Tensors tensors;
  for (const size_t size : sizes) {
    auto& tensor = tensors.emplace_back(size);
    for (float& x : tensor) x = static_cast<float>(number(rng));
  }
  return tensors;
}

TEST(SelectPool, EqualsAStableSortOverAllTensors) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const Tensors tensors = small_integers({70, 0, 1, 129, 64}, 9, seed);
    const auto previous = pomona::select_pool(views(tensors), 0.2, all_kept(tensors)).masks;
    for (const double sparsity : {0.0, 0.1, 0.5, 0.77, 0.99}) {
      for (const bool by_value : {false, true}) {
        for (const bool zeros_go : {false, !by_value}) {
          const SelectOptions options{by_value, zeros_go, {}};
          EXPECT_EQ(pomona::select_pool(views(tensors), sparsity, previous, options).masks,
                    reference(tensors, sparsity, previous, by_value, zeros_go));
        }
      }
    }
  }
}

// Large enough for the bracket from a sample.
TEST(SelectPool, TheSampledPathEqualsAStableSort) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  Tensors tensors{std::vector<float>(200'001), std::vector<float>(150'003)};
  for (auto& tensor : tensors) {
    for (float& x : tensor) x = normal(rng);
  }
  std::fill_n(tensors[0].begin(), 30'000, 0.0f);
  for (const double sparsity : {0.00001, 0.05, 0.3, 0.9, 0.99999}) {
    for (const bool by_value : {false, true}) {
      const SelectOptions options{by_value, !by_value, {}};
      const auto selection =
          pomona::select_pool(views(tensors), sparsity, all_kept(tensors), options);
      const auto expected = reference(tensors, sparsity, all_kept(tensors), by_value, !by_value);
      EXPECT_EQ(selection.masks, expected) << sparsity << by_value;
    }
  }
}

TEST(SelectPool, ManyEqualScoresAndSortedScoresAreExactToo) {
  Tensors tensors{std::vector<float>(400'000, 1.0f)};
  EXPECT_EQ(pomona::select_pool(views(tensors), 0.25, all_kept(tensors)).masks,
            reference(tensors, 0.25, all_kept(tensors), false, false));
  std::iota(tensors[0].begin(), tensors[0].end(), 1.0f);
  EXPECT_EQ(pomona::select_pool(views(tensors), 0.25, all_kept(tensors)).masks,
            reference(tensors, 0.25, all_kept(tensors), false, false));
}

TEST(SelectPool, ReportsTheLargestScoreThatWent) {
  const Tensors tensors{{4, -3, 2, -1}, {5, 6}};
  EXPECT_EQ(pomona::select_pool(views(tensors), 0.5, all_kept(tensors)).threshold, 3.0);
  const SelectOptions by_value{true, false, {}};
  EXPECT_EQ(pomona::select_pool(views(tensors), 0.5, all_kept(tensors), by_value).threshold, 2.0);
}

TEST(SelectPool, HalvesAreOrderedByWhatTheyMean) {
  std::mt19937 rng(9);
  std::normal_distribution<float> normal(0, 0.1f);
  Tensors tensors{std::vector<float>(5000)};
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> bits(tensors[0].size());
    for (size_t i = 0; i < bits.size(); ++i) {
      const float x = normal(rng);
      const bool is_half = dtype == DType::kFloat16;
      bits[i] = is_half ? pomona::float16_from_float(x) : pomona::bfloat16_from_float(x);
      tensors[0][i] =
          is_half ? pomona::float_from_float16(bits[i]) : pomona::float_from_bfloat16(bits[i]);
    }
    const Scores view{bits.data(), static_cast<int64_t>(bits.size()), dtype};
    for (const bool by_value : {false, true}) {
      const auto selection =
          pomona::select_pool({&view, 1}, 0.63, all_kept(tensors), {by_value, false, {}});
      EXPECT_EQ(selection.masks, reference(tensors, 0.63, all_kept(tensors), by_value, false));
    }
  }
}

template <class Key>
void expect_equal_passes(Isa isa) {
  if (!pomona::has_isa(isa)) GTEST_SKIP() << "this machine lacks the instructions";
  std::mt19937_64 rng(11);
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{1000}}) {
    std::vector<Key> bits(size);
    for (Key& x : bits) x = static_cast<Key>(rng());
    for (const bool by_value : {false, true}) {
      const Key low = static_cast<Key>(std::numeric_limits<Key>::max() / 4);
      const pomona::Bracket<Key> bracket{low, static_cast<Key>(low + low / 2), by_value};
      std::vector<uint64_t> words((size + 63) / 64, ~uint64_t{0} / 3), expected = words;
      std::vector<pomona::Candidate<Key>> found, wanted;
      const Key largest = pomona::select_pass<Key>(bits, bracket, 2, words, found, isa);
      EXPECT_EQ(largest,
                pomona::select_pass<Key>(bits, bracket, 2, expected, wanted, Isa::kPortable));
      EXPECT_EQ(words, expected);
      ASSERT_EQ(found.size(), wanted.size());
      for (size_t c = 0; c < found.size(); ++c) {
        EXPECT_EQ(found[c].key, wanted[c].key);
        EXPECT_EQ(found[c].index, wanted[c].index);
        EXPECT_EQ(found[c].part, 2u);
      }
    }
  }
}

TEST(SelectPass, Avx512EqualsPortable) {
  expect_equal_passes<int16_t>(Isa::kAvx512);
  expect_equal_passes<int32_t>(Isa::kAvx512);
  expect_equal_passes<int64_t>(Isa::kAvx512);
}

TEST(SelectPass, Avx2EqualsPortable) {
  expect_equal_passes<int16_t>(Isa::kAvx2);
  expect_equal_passes<int32_t>(Isa::kAvx2);
  expect_equal_passes<int64_t>(Isa::kAvx2);
}

// Three ranks as threads; what they sum meets at a barrier.
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

TEST(SelectPool, RanksTogetherSelectWhatOneProcessDoes) {
  const Tensors tensors = small_integers({90, 31}, 5, 4);  // the second stands whole on every rank
  const std::array<size_t, 4> begin{0, 40, 40, 90};        // the second rank has no rows
  for (const double sparsity : {0.1, 0.5, 0.9}) {
    const auto expected = reference(tensors, sparsity, all_kept(tensors), false, true);
    Sums sums;
    std::array<std::vector<Mask>, 3> masks;
    const auto run = [&](size_t rank) {
      const auto size = static_cast<int64_t>(begin[rank + 1] - begin[rank]);
      const std::vector<Scores> pool{
          {tensors[0].data() + begin[rank], size, DType::kFloat32, false},
          {tensors[1].data(), 31, DType::kFloat32, true}};
      const SelectOptions options{false, true, sums.of(static_cast<int64_t>(rank))};
      masks[rank] = pomona::select_pool(pool, sparsity, {Mask(size), Mask(31)}, options).masks;
    };
    std::vector<std::thread> others;
    for (const size_t rank : {1u, 2u}) others.emplace_back(run, rank);
    run(0);
    for (auto& other : others) other.join();
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(masks[rank][1], expected[1]);
      for (size_t i = begin[rank]; i < begin[rank + 1]; ++i) {
        EXPECT_EQ(masks[rank][0][static_cast<int64_t>(i - begin[rank])],
                  expected[0][static_cast<int64_t>(i)]);
      }
    }
  }
}

TEST(SelectPool, RefusesMasksAndDTypesThatDoNotFit) {
  const std::vector<float> scores{1, 2};
  const Scores view{scores.data(), 2, DType::kFloat32};
  EXPECT_THROW(pomona::select_pool({&view, 1}, 0.5, {}), pomona::InvalidArgument);
  EXPECT_THROW(pomona::select_pool({&view, 1}, 0.5, {Mask(3)}), pomona::InvalidArgument);
  EXPECT_THROW(pomona::select_pool({&view, 1}, 1.0, {Mask(2)}), pomona::InvalidArgument);
  const Scores integers{scores.data(), 2, DType::kInt32};
  EXPECT_THROW(pomona::select_pool({&integers, 1}, 0.5, {Mask(2)}), pomona::InvalidArgument);
}

TEST(SelectPool, RefusesCountersThatDoNotAddUp) {
  const std::vector<float> scores{1, 2, 3};
  const Scores view{scores.data(), 3, DType::kFloat32};
  const auto forget = [](std::span<int64_t> counts) {
    if (counts.size() > 2) std::fill(counts.begin(), counts.end(), 0);
  };
  try {
    pomona::select_pool({&view, 1}, 0.5, {Mask(3)}, {false, false, {0, 2, forget}});
    FAIL() << "nothing was thrown";
  } catch (const pomona::InvalidArgument& error) {
    EXPECT_STREQ(
        error.what(),
        "select_pool: expected the counters of every rank to hold all its live scores, got "
        "too few. Check that `ranks.sum` adds and that no score changes meanwhile.");
  }
}

}  // namespace
