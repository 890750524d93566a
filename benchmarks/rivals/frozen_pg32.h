#pragma once
// pg32 as the first prototype had it, frozen: what later kernels are measured against ("at least
// 1.2 times faster than pg32 of the first prototype"), in the same process and at the same time. It
// is no part of the library and never improved: packer, layout and inner loop are the prototype's,
// only names and types were made plain.
//
// One view of x. Lanes are rows, 32 to a group. Time runs along the columns: step j of a superblock
// of `blocks` times 8 columns sees 32 columns from column 8 * (j * blocks / steps) on. A lane takes
// its oldest waiting nonzero if that lies in the window, else an empty slot of code 0, whose value
// is 0. What a window has passed goes to the row's list beside (spilled).
//
//   slot: 5 bits of column in the window, 5 bits of code; three in a word
//   words [group][superblock][steps / 3][32 lanes]

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

namespace pomona::rivals {

// Rows compressed: columns ascend within a row, codes are 1 to 31.
struct CompressedRows {
  int rows = 0, cols = 0;
  std::span<const int64_t> starts;  // [rows + 1]
  std::span<const int32_t> columns;
  std::span<const uint8_t> codes;
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct FrozenPg32 {
  int rows = 0, superblocks = 0;
  int blocks = 0, words = 0;  // of a superblock: blocks of 8 columns, words a lane
  std::unique_ptr<uint32_t[], Free> slots;
  std::vector<int64_t> spill_starts;  // [rows + 1]
  std::vector<uint16_t> spill_columns;
  std::vector<float> spill_values;
  float codebook[32] = {};
  size_t bytes = 0;
};

// x must have this many more elements, all finite: windows reach past its end.
inline constexpr int kFrozenPg32Padding = 64;

// Whether this machine has its instructions (AVX-512F).
bool has_frozen_pg32();
// The rate (steps for 16 columns) follows from the density: 1.2, 2 or 4.5, the prototype's best.
// REQUIRES: cols at most 65536; codebook [32], its first value 0.
FrozenPg32 pack_frozen_pg32(const CompressedRows& matrix, const float* codebook);
// y[first, last) of y = W x. REQUIRES: has_frozen_pg32(); first is a multiple of 32.
void multiply_frozen_pg32(const FrozenPg32& packed, const float* x, float* y, int first, int last);

}  // namespace pomona::rivals
