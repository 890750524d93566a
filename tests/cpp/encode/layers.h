#pragma once
// Layers as pruning leaves them: dead rows and columns, densities of rows and columns that differ,
// codes whose signs keep together. The same on every machine.

#include "pomona/mask.h"

#include "base/random.h"
#include "encode/chunks.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace pomona::testing {

struct Layer {
  CodedMatrix shape;
  Mask mask;
  std::vector<uint8_t> codes;  // one for each kept weight
  int64_t alphabet = 1;
};

// Half the density comes from the row, half from the column; a quarter of each is dead. Nine codes
// in a row mostly lie on the same side of the middle.
inline Layer structured_layer(const CodedMatrix& shape, double density, int64_t alphabet,
                              uint64_t seed) {
  Random random(seed);
  const auto factors = [&](int64_t count) {
    std::vector<double> of_lines;
    for (int64_t i = 0; i < count; ++i) {
      const bool is_dead = random.uniform() < 0.25;
      of_lines.push_back(is_dead ? 0 : 4 * std::pow(random.uniform(), 2));
    }
    return of_lines;
  };
  const auto rows = factors(shape.rows), cols = factors(shape.cols);
  Layer layer{shape, Mask(shape.rows * shape.cols, false), {}, alphabet};
  for (int64_t i = 0; i < layer.mask.size(); ++i) {
    const int64_t row = i / shape.cols, col = i % shape.cols;
    const double p = density * rows[static_cast<size_t>(row)] * cols[static_cast<size_t>(col)];
    if (random.uniform() >= p) continue;
    layer.mask.set(i, true);
    const auto run = static_cast<uint64_t>(row * shape.cols + col / 9);
    const bool is_high = (mix_bits(run) % 2 == 0) != (random.uniform() < 0.1);
    const auto half = static_cast<double>(alphabet) / 2;
    const double code = is_high ? half + half * random.uniform() : half * random.uniform();
    layer.codes.push_back(static_cast<uint8_t>(code));
  }
  return layer;
}

// Every weight is kept with the same probability, every code as likely.
inline Layer random_layer(const CodedMatrix& shape, double density, int64_t alphabet,
                          uint64_t seed) {
  Random random(seed);
  Layer layer{shape, Mask(shape.rows * shape.cols, false), {}, alphabet};
  for (int64_t i = 0; i < layer.mask.size(); ++i) {
    if (random.uniform() >= density) continue;
    layer.mask.set(i, true);
    layer.codes.push_back(static_cast<uint8_t>(random.next() % static_cast<uint64_t>(alphabet)));
  }
  return layer;
}

}  // namespace pomona::testing
