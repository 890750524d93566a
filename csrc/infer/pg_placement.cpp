#include "infer/pg_placement.h"

#include <algorithm>
#include <bit>

namespace pomona {
namespace {

// Slots that one search looks at, and searches in vain after which a row gives up: past these a
// spilled nonzero costs less than what is gained.
constexpr size_t kMostLookedAt = 150;
constexpr int kMostFailures = 3;

}  // namespace

PgPlacement::PgPlacement(const PgSchedule& schedule)
    : schedule_(schedule),
      slot_shift_(std::countr_zero(static_cast<unsigned>(pg_shape(schedule.form()).slots))),
      free_(schedule.steps().size()),
      occupants_(schedule.steps().size() << slot_shift_),
      seen_(occupants_.size()) {
  queue_.reserve(occupants_.size());
}

int32_t PgPlacement::free_slot(uint32_t column) const {
  for (const auto steps : {schedule_.seen_first(column), schedule_.seen_second(column)}) {
    for (const uint32_t step : steps) {
      if (free_[step] == 0) continue;
      return static_cast<int32_t>(step << slot_shift_) + std::countr_zero(free_[step]);
    }
  }
  return kNone;
}

// A free slot for the column; if there is none, all that it could have are queued.
int32_t PgPlacement::look(int32_t from, uint32_t column) {
  const int32_t slots = 1 << slot_shift_;
  for (const auto steps : {schedule_.seen_first(column), schedule_.seen_second(column)}) {
    for (const uint32_t step : steps) {
      const auto first = static_cast<int32_t>(step << slot_shift_);
      if (free_[step] != 0) return first + std::countr_zero(free_[step]);
      for (int32_t slot = first; slot < first + slots; ++slot) {
        auto& seen = seen_[static_cast<size_t>(slot)];
        if (seen.search == search_) continue;
        seen = {search_, from};
        queue_.push_back(slot);
      }
    }
  }
  return kNone;
}

void PgPlacement::take(int32_t slot, int32_t item) {
  const unsigned within = static_cast<unsigned>(slot) & ((1u << slot_shift_) - 1);
  free_[static_cast<size_t>(slot >> slot_shift_)] &= static_cast<uint8_t>(~(1u << within));
  occupants_[static_cast<size_t>(slot)] = item;
  slot_of_[static_cast<size_t>(item)] = slot;
}

// Breadth first over slots: those that the item could have, those that their occupants could have
// instead, and so on, until one of them could go to a free slot.
bool PgPlacement::make_room(std::span<const uint32_t> columns, int32_t item) {
  ++search_;
  queue_.clear();
  look(kNone, columns[static_cast<size_t>(item)]);
  for (size_t next = 0; next < queue_.size() && queue_.size() < kMostLookedAt; ++next) {
    const int32_t slot = queue_[next];
    const auto occupant = occupants_[static_cast<size_t>(slot)];
    int32_t end = look(slot, columns[static_cast<size_t>(occupant)]);
    if (end == kNone) continue;
    for (int32_t from = slot; from != kNone; from = seen_[static_cast<size_t>(from)].from) {
      take(end, occupants_[static_cast<size_t>(from)]);
      end = from;
    }
    take(end, item);
    return true;
  }
  return false;
}

int64_t PgPlacement::place(std::span<const uint32_t> columns) {
  slot_of_.assign(columns.size(), kNone);
  if (schedule_.views() == 1) return place_in_order(columns);
  std::ranges::fill(free_, static_cast<uint8_t>((1u << (1 << slot_shift_)) - 1));
  std::ranges::fill(occupants_, kNone);
  int64_t spilled = 0;
  int failures = 0;
  for (size_t i = 0; i < columns.size(); ++i) {
    const int32_t item = static_cast<int32_t>(i);
    if (const int32_t slot = free_slot(columns[i]); slot != kNone) {
      take(slot, item);
    } else if (failures >= kMostFailures || !make_room(columns, item)) {
      ++failures;
      ++spilled;
    }
  }
  return spilled;
}

// The steps that see a column are consecutive and move on with the columns, so the first slot that
// is left is the best.
int64_t PgPlacement::place_in_order(std::span<const uint32_t> columns) {
  int64_t spilled = 0;
  uint32_t next = 0;
  for (size_t i = 0; i < columns.size(); ++i) {
    const auto steps = schedule_.seen_first(columns[i]);
    const uint32_t slot = std::max(next, steps.front() << slot_shift_);
    const bool has_room = slot < (steps.back() + 1) << slot_shift_;
    slot_of_[i] = has_room ? static_cast<int32_t>(slot) : kNone;
    next = has_room ? slot + 1 : next;
    spilled += !has_room;
  }
  return spilled;
}

}  // namespace pomona
