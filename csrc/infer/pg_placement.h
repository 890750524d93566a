#pragma once
// Permute-gather tiles: where the nonzeros of a row go. With two views each goes to a free slot of
// a step that sees its column; when all of those are taken, the shortest chain of moves makes room
// (cuckoo hashing with slots as buckets; breadth first). What finds no room after a bounded search
// spills. With one view each goes to the next slot that sees it, in order. Deterministic.

#include "pomona/export.h"

#include "infer/pg_schedule.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

class POMONA_API PgPlacement {
 public:
  static constexpr int32_t kNone = -1;
  explicit PgPlacement(const PgSchedule& schedule);

  // Places the nonzeros of one row; `columns` ascending. Returns how many spill.
  int64_t place(std::span<const uint32_t> columns);
  // After place(): for each nonzero its slot (step * slots + slot), or kNone where it spills.
  std::span<const int32_t> slots() const { return slot_of_; }

 private:
  // A slot that a search has looked at.
  struct Seen {
    uint32_t search = 0;  // the last that did
    int32_t from = kNone;
  };

  int64_t place_in_order(std::span<const uint32_t> columns);
  int32_t free_slot(uint32_t column) const;
  int32_t look(int32_t from, uint32_t column);
  bool make_room(std::span<const uint32_t> columns, int32_t item);
  void take(int32_t slot, int32_t item);

  const PgSchedule& schedule_;
  int slot_shift_;                  // log2 of the slots of a step
  std::vector<uint8_t> free_;       // by step: bits of free slots
  std::vector<int32_t> occupants_;  // by slot
  std::vector<int32_t> slot_of_;    // by nonzero
  std::vector<Seen> seen_;          // by slot
  std::vector<int32_t> queue_;
  uint32_t search_ = 0;
};

}  // namespace pomona
