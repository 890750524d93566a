#pragma once
// Permute-gather tiles: where the nonzeros of a row go. Each goes to a free slot of a step that
// sees its column; when all of those are taken, the shortest chain of moves makes room (cuckoo
// hashing with slots as buckets; breadth first). What finds no room after a bounded search spills.
// Deterministic.

#include "pomona/export.h"

#include "infer/pg_schedule.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// How long to look for room: kThorough fills slots best, kQuick takes the first that is free.
enum class PgEffort : uint8_t { kQuick, kThorough };

class POMONA_API PgPlacement {
 public:
  static constexpr int32_t kNone = -1;
  explicit PgPlacement(const PgSchedule& schedule, PgEffort effort = PgEffort::kThorough);

  // Places the nonzeros of one row; `columns` ascending. Returns how many spill.
  int64_t place(std::span<const uint32_t> columns);
  // After place(): for each slot (step * slots + slot) the nonzero there, or kNone.
  std::span<const int32_t> occupants() const { return occupants_; }
  // After place(): for each nonzero whether it spills.
  std::span<const uint8_t> has_spilled() const { return has_spilled_; }

 private:
  // A slot that a search has looked at.
  struct Seen {
    uint32_t search = 0;  // the last that did
    int32_t from = kNone;
  };

  int32_t free_slot(uint32_t column) const;
  int32_t look(int32_t from, uint32_t column);
  bool make_room(std::span<const uint32_t> columns, int32_t item);
  void take(int32_t slot, int32_t item);

  const PgSchedule& schedule_;
  PgEffort effort_;
  int slot_shift_;                  // log2 of the slots of a step
  std::vector<uint8_t> free_;       // by step: bits of free slots
  std::vector<int32_t> occupants_;  // by slot
  std::vector<uint8_t> has_spilled_;
  std::vector<Seen> seen_;  // by slot
  std::vector<int32_t> queue_;
  uint32_t search_ = 0;
};

}  // namespace pomona
