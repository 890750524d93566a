#include "infer/pg_placement.h"

#include <algorithm>
#include <bit>

namespace pomona {
namespace {

// Slots that one search looks at, and searches in vain after which a row gives up: past these a
// spilled nonzero costs less than what is gained.
constexpr size_t kMostLookedAt = 400;
constexpr int kMostFailures = 8;

}  // namespace

PgPlacement::PgPlacement(const PgSchedule& schedule, PgEffort effort)
    : schedule_(schedule),
      effort_(effort),
      slots_(pg_shape(schedule.form()).slots),
      free_(schedule.steps().size()),
      occupants_(schedule.steps().size() * static_cast<size_t>(slots_)),
      seen_(occupants_.size()),
      parents_(occupants_.size()) {
  queue_.reserve(occupants_.size());
}

int32_t PgPlacement::free_slot(uint32_t column) const {
  for (const auto steps : {schedule_.seen_first(column), schedule_.seen_second(column)}) {
    for (const uint32_t step : steps) {
      if (free_[step] == 0) continue;
      return static_cast<int32_t>(step) * slots_ + std::countr_zero(free_[step]);
    }
  }
  return kNone;
}

template <class Visit>
void PgPlacement::for_each_slot(uint32_t column, const Visit& visit) const {
  for (const auto steps : {schedule_.seen_first(column), schedule_.seen_second(column)}) {
    for (const uint32_t step : steps) {
      for (int32_t s = 0; s < slots_; ++s) visit(static_cast<int32_t>(step) * slots_ + s);
    }
  }
}

void PgPlacement::take(int32_t slot, int32_t item) {
  free_[static_cast<size_t>(slot / slots_)] &= static_cast<uint8_t>(~(1u << (slot % slots_)));
  occupants_[static_cast<size_t>(slot)] = item;
}

// Breadth first over slots: those that the item could have, those that their occupants could have
// instead, and so on, until one of them could go to a free slot.
bool PgPlacement::make_room(std::span<const uint32_t> columns, int32_t item) {
  ++search_;
  queue_.clear();
  const auto look_from = [&](int32_t parent, uint32_t column) {
    for_each_slot(column, [&](int32_t slot) {
      auto& seen = seen_[static_cast<size_t>(slot)];
      if (seen == search_) return;
      seen = search_;
      parents_[static_cast<size_t>(slot)] = parent;
      queue_.push_back(slot);
    });
  };
  look_from(kNone, columns[static_cast<size_t>(item)]);
  for (size_t next = 0; next < queue_.size() && queue_.size() < kMostLookedAt; ++next) {
    const int32_t slot = queue_[next];
    const auto occupant = occupants_[static_cast<size_t>(slot)];
    const uint32_t column = columns[static_cast<size_t>(occupant)];
    int32_t end = free_slot(column);
    if (end == kNone) {
      look_from(slot, column);
      continue;
    }
    for (int32_t from = slot; from != kNone; from = parents_[static_cast<size_t>(from)]) {
      take(end, occupants_[static_cast<size_t>(from)]);
      end = from;
    }
    take(end, item);
    return true;
  }
  return false;
}

int64_t PgPlacement::place(std::span<const uint32_t> columns) {
  std::ranges::fill(free_, static_cast<uint8_t>((1u << slots_) - 1));
  std::ranges::fill(occupants_, kNone);
  has_spilled_.assign(columns.size(), 0);
  int64_t spilled = 0;
  int failures = effort_ == PgEffort::kQuick ? kMostFailures : 0;
  for (size_t i = 0; i < columns.size(); ++i) {
    const int32_t item = static_cast<int32_t>(i);
    if (const int32_t slot = free_slot(columns[i]); slot != kNone) {
      take(slot, item);
    } else if (failures >= kMostFailures || !make_room(columns, item)) {
      ++failures;
      ++spilled;
      has_spilled_[i] = 1;
    }
  }
  return spilled;
}

}  // namespace pomona
