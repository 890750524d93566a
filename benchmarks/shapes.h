#pragma once
// The matrices of bench_pack and bench_ladder: pruned at random, shared with 15 values.

#include "pomona/weight.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace pomona::benchmarks {

struct Shape {
  std::string name;
  int64_t rows, cols;
  double density;
};

// Four arguments for each: name, rows, columns, density.
inline std::vector<Shape> shapes_of(int argc, char** argv) {
  std::vector<Shape> shapes;
  for (int i = 1; i + 3 < argc; i += 4) {
    shapes.push_back(
        {argv[i], std::stoll(argv[i + 1]), std::stoll(argv[i + 2]), std::stod(argv[i + 3])});
  }
  return shapes;
}

// With a codebook that bfloat16 holds exactly, or not; the pattern is the same.
inline Weight bernoulli(const Shape& shape, bool is_bfloat16 = false) {
  constexpr unsigned kValues = 15;
  std::mt19937_64 random(1);
  std::geometric_distribution<int64_t> gaps(shape.density);
  const int64_t size = shape.rows * shape.cols;
  Weight weight{.name = shape.name, .shape = {shape.rows, shape.cols}, .mask = Mask(size, false)};
  for (int64_t at = gaps(random); at < size; at += 1 + gaps(random)) {
    weight.mask.set(at, true);
    weight.codes.push_back(static_cast<uint8_t>(random() % kValues));
  }
  for (unsigned i = 0; i < kValues; ++i) {
    weight.codebook.push_back(static_cast<float>(i) / 8 - (is_bfloat16 ? 0.9375f : 0.9f));
  }
  return weight;
}

}  // namespace pomona::benchmarks
