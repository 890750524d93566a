#pragma once
// `Weight`, the hub: a tensor as the thesis leaves it after pruning and sharing. encode, infer and
// eie take it and know nothing of one another.

#include "pomona/export.h"
#include "pomona/mask.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

// Element types a file can hold. The numbers are part of the file format (docs/format.md).
enum class DType : uint8_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kBFloat16 = 2,
  kFloat64 = 3,
  kUInt8 = 4,
  kInt8 = 5,
  kInt16 = 6,
  kInt32 = 7,
  kInt64 = 8,
  kBool = 9,
};
inline constexpr int kDTypeCount = 10;

// Bytes of one element.
POMONA_API int64_t item_size(DType dtype);
// "float32", "bfloat16", ...: torch's names.
POMONA_API std::string_view dtype_name(DType dtype);
POMONA_API bool is_floating(DType dtype);

// A tensor with its zeros taken out and, when it has few distinct values, a codebook taken out as
// well. Source: thesis §4 (W[i][j] = codebook[codes[i][j]]).
//
//   dense, row-major    0.5  0    0   -1   0.5       mask 1 0 0 1 1
//   shared:  codebook { -1, 0.5 }   codes  1 0 1     one code per kept weight, in order
//            group 0: one codebook. group g: g elements in a row (row-major) share one, so that a
//            channel, or g weights of a row, have their own; a code counts within its codebook.
//   plain:   values { 0.5, -1, 0.5 }                 one value per kept weight, little-endian dtype
//
// "Zero" is the all-zero bit pattern, so -0.0 is a kept value and every tensor comes back bit for
// bit.
struct POMONA_API Weight {
  std::string name{};  // braces: designated initialisers may leave members out
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape{};
  Mask mask{};  // size() == numel()
  // groups() codebooks of centroids() entries, at most 256, each ascending; one with fewer values
  // repeats its last, one without weights holds 0.0. Empty when not shared.
  std::vector<float> codebook{};
  std::vector<uint8_t> codes{};     // mask.kept() when shared, else empty
  std::vector<std::byte> values{};  // mask.kept() * item_size(dtype) when not shared, else empty
  int64_t group = 0;                // elements that share a codebook; 0: all

  int64_t numel() const;  // the product of shape; 1 for a scalar
  bool is_shared() const { return !codebook.empty(); }
  int64_t groups() const;     // codebooks that a shared weight has; 1 when group is 0
  int64_t centroids() const;  // entries of each; 0 when not shared
  // Throws InvalidArgument, naming the weight, unless all of the above holds (codes in range, shape
  // not negative, ...).
  void check() const;
  // The row-major bytes of the whole tensor: numel() * item_size(dtype).
  std::vector<std::byte> to_dense() const;
  // The same into memory of that size. Throws InvalidArgument when it has another.
  void to_dense(std::span<std::byte> dense) const;
  bool operator==(const Weight&) const = default;
};

// Takes zeros and (for float32, float16 and bfloat16 of at most 256 distinct values, in all or in
// each row of dim 0 or in each 512, 256, ..., 16 elements of a row, when it makes the weight
// smaller) codebooks out of a row-major tensor. Exact: to_dense() gives `dense` back bit for bit.
// Throws InvalidArgument when dense.size() != product(shape) * item_size(dtype).
POMONA_API Weight make_weight(std::string name, DType dtype, std::vector<int64_t> shape,
                              std::span<const std::byte> dense);

}  // namespace pomona
