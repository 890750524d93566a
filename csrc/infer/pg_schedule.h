#pragma once
// Permute-gather tiles: what a step sees of x.
//
// Lanes are rows. In one step a lane may take up to `slots` nonzeros, each from a window of 32 * E
// elements of x that stand in two registers, so that one permute is the gather (E elements of x
// share a 32-bit word). The two halves of a window are two unrelated *views* of x:
//
//   natural view   block i holds the words 16 i .. 16 i + 15           word = column div E
//   second view    block j holds the words j, B + j, 2 B + j, ...      B blocks, 16 words each
//
// So every nonzero has two unrelated groups of steps to go to, as a key has two buckets in cuckoo
// hashing, and a local burst of nonzeros finds room elsewhere. A schedule says which natural block
// and which second block each step sees; it depends on the number of columns and steps alone. One
// with the natural view only, whose steps see a block and the next, is filled in no time, less
// well.
//
// Source: kernels.md in docs: how the fill of the slots follows from this.

#include "pomona/export.h"

#include "infer/packed_header.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// How a window, a slot and a stream look: kFloat32 has E = 1 and three slots of 10 bits in a 32-bit
// word, kBFloat16 E = 2 and slots of 16 bits, kBytes E = 4 and slots of 12 bits in planes.
struct PgShape {
  int elements;    // E, of x in a 32-bit word
  int slots;       // of a lane in one step
  int steps;       // a schedule has a multiple of so many, and they
  int bytes;       // take so many bytes of each vector of 16 lanes
  int index_bits;  // of a slot: which element of the window
  int codes;       // that a slot can tell apart, 0 (nothing) among them
};
constexpr PgShape pg_shape(PackedForm form) {
  switch (form) {
    case PackedForm::kFloat32:
      return {.elements = 1, .slots = 1, .steps = 3, .bytes = 64, .index_bits = 5, .codes = 32};
    case PackedForm::kBFloat16:
      return {.elements = 2, .slots = 2, .steps = 1, .bytes = 64, .index_bits = 6, .codes = 64};
    case PackedForm::kBytes:
      return {.elements = 4, .slots = 4, .steps = 2, .bytes = 192, .index_bits = 7, .codes = 32};
  }
  return {};
}

inline constexpr int kPgWords = 16;  // of a block, of a register

// Blocks of a view; at least one.
constexpr int64_t pg_blocks(int64_t cols, PackedForm form) {
  const int64_t block = int64_t{kPgWords} * pg_shape(form).elements;
  return cols <= block ? 1 : (cols - 1) / block + 1;
}

struct PgStep {
  uint32_t first = 0;   // a natural block
  uint32_t second = 0;  // a block of the second view, or a natural one
  bool is_second_natural = false;
};

class POMONA_API PgSchedule {
 public:
  // The fewest steps that see every column.
  static int64_t fewest_steps(int64_t cols, PackedForm form);
  // REQUIRES: cols < 2^31; steps is a multiple of pg_shape(form).steps and at least fewest_steps();
  // views is 1 or 2.
  PgSchedule(int64_t cols, int64_t steps, PackedForm form, int views = 2);

  PackedForm form() const { return form_; }
  int views() const { return views_; }
  int64_t blocks() const { return blocks_; }
  std::span<const PgStep> steps() const { return steps_; }
  // The steps that see a column in the natural view (with one view: without a gap); in the second.
  std::span<const uint32_t> seen_first(uint32_t column) const {
    return of(naturals_, natural_of(column));
  }
  std::span<const uint32_t> seen_second(uint32_t column) const {
    return of(seconds_, second_of(column));
  }
  // Where in the window of a step a column stands. REQUIRES: the step sees it.
  uint32_t index_of(uint32_t column, int64_t step) const {
    const PgStep& at = steps_[static_cast<size_t>(step)];
    const uint32_t half = 1u << block_shift_, within = column & (half - 1);
    if (natural_of(column) == at.first) return within;
    if (at.is_second_natural) return half + within;
    return half + (place_of(column) << shift_) + (column & ((1u << shift_) - 1));
  }
  // The column that stands there, or -1 where x has ended.
  int64_t column_at(uint32_t index, int64_t step) const;

 private:
  // The steps of each block, as compressed rows.
  struct Lists {
    std::vector<uint32_t> begins, steps;
  };
  static std::span<const uint32_t> of(const Lists& lists, uint32_t block) {
    const uint32_t begin = lists.begins[block];
    return {lists.steps.data() + begin, lists.begins[block + 1] - begin};
  }
  template <class ForEach>
  Lists make_lists(const ForEach& for_each) const;
  // The packer asks these for every nonzero, many times: E and 16 E are powers of two, and one
  // multiplication by 2^64 / blocks, rounded up, divides what is below 2^32.
  uint32_t natural_of(uint32_t column) const { return column >> block_shift_; }
  uint32_t place_of(uint32_t column) const {  // within its block of the second view
    __extension__ using Wide = unsigned __int128;
    const uint32_t word = column >> shift_;
    return blocks_ == 1 ? word : static_cast<uint32_t>(Wide{word} * reciprocal_ >> 64);
  }
  uint32_t second_of(uint32_t column) const {
    return (column >> shift_) - place_of(column) * blocks_;
  }

  PackedForm form_;
  int views_;
  int64_t cols_;
  uint32_t blocks_;
  uint64_t reciprocal_;
  int shift_, block_shift_;  // log2 of E, of 16 E
  std::vector<PgStep> steps_;
  Lists naturals_, seconds_;
};

}  // namespace pomona
