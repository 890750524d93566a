#pragma once
// Codebooks (thesis §4.2-4.3): 1-D k-means of a layer's weights. No torch.

#include "pomona/export.h"
#include "pomona/parallel.h"
#include "pomona/weight.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// How centroids are found. kExact: the optimum. The others are Lloyd's algorithm, which ends in a
// local one, from an initialization of the thesis (§4.3, Fig. 8) or from k-means++.
enum class Fit {
  kExact,
  kLinear,  // equally spaced over [min, max]; the thesis's choice: large weights are few but matter
  kDensity,   // equally spaced levels of the distribution function
  kForgy,     // values drawn at random
  kPlusPlus,  // values drawn with a probability that grows with the squared distance (Arthur 2007)
};

// What a codebook's entries are rounded to. kFixed16: n / 2^s, n of 16 bits, one s for the
// codebook.
enum class EntryType { kSame, kFloat16, kBFloat16, kFixed16 };

// How one parameter is shared. A parameter with zeros spends one code (code 0) on 0.0 exactly, so
// that a filler is a no-op and a pruned weight costs no centroid.
struct Share {
  int bits = 8;   // 1 to 8
  int codes = 0;  // 1 to 2^bits codes; 0: 2^bits
  int64_t group =
      0;  // weights that share a codebook, row-major; 0: all, kPerChannel: a row of dim 0
  Fit fit = Fit::kExact;
  uint64_t seed = 0;  // of kForgy and kPlusPlus
  EntryType entries = EntryType::kSame;
  double rate = 0.0;  // see FitOptions

  static constexpr int64_t kPerChannel = -1;
};

// The elements of a tensor. Implicit from a span of floats.
struct Values {
  Values(std::span<const float> floats)  // NOLINT: as a span is
      : data(floats.data()), size(static_cast<int64_t>(floats.size())), dtype(DType::kFloat32) {}
  Values(const std::vector<float>& floats) : Values(std::span(floats)) {}  // NOLINT
  Values(const void* elements, int64_t count, DType type)
      : data(elements), size(count), dtype(type) {}

  const void* data;  // not owned
  int64_t size;
  DType dtype;  // float32, float16 or bfloat16
};

struct FitOptions {
  Fit fit = Fit::kExact;
  uint64_t seed = 0;
  // Entropy-constrained: minimises sum importance * (v - c)^2 + price * bits of the code, where the
  // price of a bit is `rate` times the mean squared error without it, and the bits of a code are
  // -log2 of its share. 0: off. A skewed histogram is what a coder needs. (Chou, Lookabaugh, Gray
  // 1989.)
  double rate = 0.0;
  std::span<const float> importance{};  // of each value, such as its Fisher information; empty: 1
  ParallelFor parallel{};
};

// Ascending entries and which values take each: value v takes the first entry j with v <=
// boundaries[j], or the last.
struct Codebook {
  std::vector<float> entries;      // 1 to 256
  std::vector<double> boundaries;  // entries.size() - 1, ascending
};

// At most k centroids of `values`: fewer where there are fewer distinct values (then those are
// returned as they are), where Lloyd leaves a centroid without members, or where `rate` empties
// one. Minimises the sum of importance * (v - c)^2. kExact is the optimum, to 1e-6 of it where
// `values` are so many (4 million) that they are taken in bins; it does not depend on the order of
// values or on threads. O(n) memory. Throws InvalidArgument unless 1 <= k <= 256, when values are
// empty or hold NaN or Inf, and when importance has another size, a negative or infinite one or no
// positive one.
POMONA_API Codebook fit_codebook(const Values& values, int k, const FitOptions& options = {});

// The codebook of these entries in which every value takes the nearest; of two equally near the
// lower. Throws InvalidArgument when there is none, there are more than 256 or they do not ascend.
POMONA_API Codebook nearest_codebook(std::vector<float> entries);

// The code of each value. O(n log k).
POMONA_API std::vector<uint8_t> assign_codes(const Values& values, const Codebook& codebook);

// Each entry as a type holds it.
POMONA_API std::vector<float> round_entries(std::span<const float> entries, EntryType type);

}  // namespace pomona
