// Layers as the machine holds them: Figure 3 of the paper, tiles, formats.
#include "pomona/eie.h"
#include "pomona/error.h"

#include "error_of.h"
#include "matrices.h"

#include <gtest/gtest.h>

#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace pomona::eie {
namespace {

using testing::error_of;
using testing::matrix;
using testing::random_activations;
using testing::random_values;

TEST(EieLayer, HoldsFigureThreeOfThePaper) {
  // The nonzeros of PE 0 of a 16 x 8 matrix on 4 PEs.
  std::vector<float> values(16 * 8);
  const std::vector<std::pair<int, int>> nonzeros = {{0, 0},  {8, 0}, {12, 0}, {4, 1}, {0, 2},
                                                     {12, 2}, {0, 4}, {4, 4},  {0, 5}, {12, 5},
                                                     {0, 6},  {8, 7}, {12, 7}};
  for (const auto& [row, column] : nonzeros) values[static_cast<size_t>(row * 8 + column)] = 1.0f;
  const Layer layer(matrix(16, 8, values), {}, {.pes = 4});
  const auto& bank = layer.row_tiles()[0].banks[0];
  EXPECT_EQ(bank.gaps, (std::vector<uint8_t>{0, 1, 0, 1, 0, 2, 0, 0, 0, 2, 0, 2, 0}));
  EXPECT_EQ(bank.starts, (std::vector<int64_t>{0, 3, 4, 6, 6, 8, 10, 11, 13}));
  EXPECT_EQ(bank.codes, std::vector<uint8_t>(13, 1));
}

TEST(EieLayer, MakesTilesOfWhatDoesNotFit) {
  const auto values = random_values(100 * 60, 0.3, 1);
  const auto weight = matrix(100, 60, values);
  const auto activations = random_activations(60, 0.7, 2);
  const auto bias = random_values(100, 1.0, 3);
  const Format format{4, 4, 8};
  const Config whole{.pes = 4};
  const auto expected =
      Machine(whole).run(Layer(weight, bias, whole), activations, format, {.relu = true});
  EXPECT_EQ(expected.statistics.tiles, 1);
  struct Case {
    Config config;
    int64_t tiles;
  };
  const std::vector<Case> cases = {
      {{.pes = 4, .activation_registers = 10}, 3},                              // rows
      {{.pes = 4, .pointer_bytes = 2 * 21}, 3},                                 // 20 columns
      {{.pes = 4, .activation_registers = 25, .activation_sram_bytes = 0}, 1},  // 100 inputs
      {{.pes = 4, .activation_registers = 13, .activation_sram_bytes = 0},
       4},  // 52 rows, 60 inputs
  };
  for (const auto& [config, tiles] : cases) {
    const Layer layer(weight, bias, config);
    const auto run = Machine(config).run(layer, activations, format, {.relu = true});
    EXPECT_EQ(run.integers, expected.integers);
    EXPECT_EQ(run.outputs, Machine(config).outputs(layer, activations, format, true));
    EXPECT_EQ(run.statistics.tiles, tiles);
    EXPECT_EQ(std::ssize(layer.tiles()), run.statistics.tiles);
  }
  const Config small{.pes = 4, .matrix_bytes = 100};
  const Layer layer(weight, bias, small);
  EXPECT_GT(std::ssize(layer.tiles()), 4);
  for (const auto& tile : layer.tiles()) {
    for (const auto& bank : layer.row_tiles()[0].banks) {
      const auto& starts = bank.starts;
      EXPECT_LE(starts[static_cast<size_t>(tile.end)] - starts[static_cast<size_t>(tile.begin)],
                100);
    }
  }
  EXPECT_EQ(Machine(small).run(layer, activations, format, {.relu = true}).integers,
            expected.integers);
}

TEST(EieLayer, MergesCodebooksOfGroups) {
  Weight weight{.name = "fc",
                .shape = {2, 2},
                .mask = Mask(4),
                .codebook = {0.5f, 1.0f, 0.25f, 1.0f},
                .codes = {0, 1, 1, 0},
                .group = 2};
  const Config config{.pes = 1};
  const Layer layer(weight, {}, config);
  EXPECT_EQ(layer.codebook().size(), 4u);  // 0, 0.25, 0.5, 1
  const std::vector<float> activations = {1.0f, 2.0f};
  EXPECT_EQ(Machine(config).run(layer, activations, {4, 4, 4}).outputs,
            (std::vector<float>{2.5f, 1.5f}));
}

TEST(EieLayer, ChoosesAFormatInWhichNothingSaturates) {
  const auto values = random_values(64 * 200, 0.4, 5);
  const auto activations = random_activations(200 * 3, 0.6, 6);
  for (const auto arithmetic : {Arithmetic::kFixed8, Arithmetic::kFixed16}) {
    const Config config{.pes = 8, .arithmetic = arithmetic};
    const Layer layer(matrix(64, 200, values), random_values(64, 1.0, 7), config);
    const auto format = layer.choose_format(activations);
    int64_t saturations = 0, saturations_with_one_more = 0;
    auto finer = format;
    ++finer.output;
    for (size_t sample = 0; sample < 3; ++sample) {
      const auto one = std::span(activations).subspan(sample * 200, 200);
      saturations += Machine(config).run(layer, one, format).statistics.total().saturations;
      saturations_with_one_more +=
          Machine(config).run(layer, one, finer).statistics.total().saturations;
    }
    EXPECT_EQ(saturations, 0);
    EXPECT_GT(saturations_with_one_more, 0);
  }
}

TEST(EieLayer, RefusesWhatTheMachineCannotHold) {
  std::vector<float> values(17);
  std::iota(values.begin(), values.end(), 1.0f);
  const auto weight = matrix(1, 17, values);
  EXPECT_EQ(error_of([&] { Layer(weight, {}, {}); }),
            "eie: expected `fc` to have at most 15 centroids (codes of 4 bits, one for fillers), "
            "got 17. Raise code_bits, or share by fewer.");
  EXPECT_EQ(error_of([&] { Layer(weight, {}, {.code_bits = 5}); }), "no error");
  const std::vector<float> bias(3);
  EXPECT_EQ(error_of([&] { Layer(weight, bias, {.code_bits = 5}); }),
            "eie: expected `fc` to have a bias of 1, got 3.");
  EXPECT_EQ(error_of([&] {
              Layer(matrix(4, 1, {1, 1, 1, 1}), {}, {.pes = 1, .matrix_bytes = 3});
            }),
            "eie: expected `fc` to have at most 3 entries of a column in a PE, got more in column "
            "0.");
  Weight cube = matrix(1, 2, {1, 1});
  cube.shape = {1, 1, 2};
  EXPECT_EQ(error_of([&] { Layer(cube, {}, {}); }),
            "eie: expected `fc` to have 2 dimensions [rows, cols], got 3.");
  EXPECT_EQ(error_of([&] { Layer(weight, {}, {.pes = 2000}); }),
            "eie: expected `pes` in 1..1024, got 2000.");
  const std::vector<float> activations(5);
  EXPECT_EQ(error_of([&] {
              static_cast<void>(Layer(matrix(1, 2, {1, 1}), {}, {}).choose_format(activations));
            }),
            "eie: expected `fc` to get activations in rows of 2, got 5.");
}

}  // namespace
}  // namespace pomona::eie
