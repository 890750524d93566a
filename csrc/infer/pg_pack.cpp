// pack_pg: from a matrix to the bytes of pg_layout.h.

#include "base/isa.h"
#include "infer/pg_codebook.h"
#include "infer/pg_lanes.h"
#include "infer/pg_layout.h"
#include "infer/pg_placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

namespace pomona {
namespace {

// What a step of one vector (by form) and a level of spilled nonzeros cost beside one another:
// about the cycles that a prototype of these loops took on a Zen 4, and these loops with AVX2 on a
// Zen 3. They decide how full slots are, no more.
struct Cycles {
  std::array<double, 3> step;
  double level;
};
constexpr Cycles kAvx512Cycles{.step = {2.9, 4.7, 4.0}, .level = 18};
constexpr Cycles kAvx2Cycles{.step = {11, 15, 23}, .level = 48};

struct Spill {
  uint32_t column = 0;
  float value = 0;
};

class Packer {
 public:
  Packer(const Weight& matrix, PackedForm form, Precision precision, PgEffort effort,
         const ParallelFor& parallel_for)
      : matrix_(matrix),
        shape_(pg_shape(form)),
        form_(form),
        precision_(precision),
        views_(effort == PgEffort::kQuick ? 1 : 2) {
    rows_ = matrix.shape[0], cols_ = matrix.shape[1];
    entries_ = make_pg_entries(matrix, shape_.codes);
    codebook_ = make_pg_codebook(entries_.code_values, form, precision);
    deal_ = deal_pg_lanes(entries_);
    choose_fill();
    add_groups(parallel_for);
  }

  std::vector<std::byte> bytes() const;

 private:
  struct Scheduled {
    PgSchedule schedule;
    std::unique_ptr<PgPlacement> placement;
  };
  // What some groups in a row are packed to, beside their entries in deal_: offsets are from the
  // part's own beginnings.
  struct Part {
    std::map<int64_t, Scheduled> schedules;  // by steps
    std::vector<std::byte> stream;
    std::vector<int32_t> sums;     // by lane, for kBytes
    std::vector<uint32_t> levels;  // four of each group, of absent vectors too: where each ends
    std::vector<PgSpilled> spilled;
    // Of a lane in which some have no code, those that have.
    std::vector<uint32_t> coded_columns;
    std::vector<uint8_t> coded_codes;
  };

  void choose_fill();
  void add_groups(const ParallelFor& parallel_for);
  template <PackedForm kForm>
  void add_group(size_t g, Part& part);
  int64_t steps_of(std::span<const PgLane> lanes, double fill) const;
  double cost(std::span<const PgLane> lanes, double fill, Part& part) const;
  Scheduled& scheduled(int64_t steps, Part& part) const;
  std::span<const uint32_t> columns_of(const PgLane& lane) const {
    return std::span(entries_.columns)
        .subspan(static_cast<size_t>(lane.begin), static_cast<size_t>(lane.size()));
  }
  std::span<const PgLane> lanes_of(size_t g) const {
    return std::span(deal_.lanes).subspan(g * kPgLanes, kPgLanes);
  }
  std::span<const uint8_t> codes_of(const PgLane& lane) const {
    return std::span(entries_.codes)
        .subspan(static_cast<size_t>(lane.begin), static_cast<size_t>(lane.size()));
  }
  void leave_out_without_code(const PgLane& lane, Part& part, std::vector<Spill>& spilled) const;
  // A code's value in units of the scale.
  int32_t fixed_point(uint8_t code) const {
    const int32_t high = codebook_.byte_high[code];
    return precision_ == Precision::kInt8 ? high : 256 * high + codebook_.byte_low[code];
  }

  const Weight& matrix_;
  PgShape shape_;
  PackedForm form_;
  Precision precision_;
  int views_;
  int64_t rows_ = 0, cols_ = 0;
  PgCodebook codebook_;
  PgEntries entries_;
  PgDeal deal_;
  double fill_ = 0.9;
  std::vector<Part> parts_;
};

Packer::Scheduled& Packer::scheduled(int64_t steps, Part& part) const {
  auto found = part.schedules.find(steps);
  if (found == part.schedules.end()) {
    Scheduled made{PgSchedule(cols_, steps, form_, views_), nullptr};
    found = part.schedules.emplace(steps, std::move(made)).first;
    // The node stays where it is, and so does its schedule.
    found->second.placement = std::make_unique<PgPlacement>(found->second.schedule);
  }
  return found->second;
}

// So many that the mean lane fills this share of its slots, and the longest has room.
int64_t Packer::steps_of(std::span<const PgLane> lanes, double fill) const {
  int64_t total = 0, count = 0, longest = 0;
  for (const auto& lane : lanes) {
    if (lane.row == kPgNoRow) continue;
    ++count;
    total += lane.size();
    longest = std::max(longest, lane.size());
  }
  const double mean = count == 0 ? 0 : static_cast<double>(total) / static_cast<double>(count);
  const double wanted = std::max(mean, 0.97 * static_cast<double>(longest)) / fill;
  const auto per_multiple = static_cast<double>(shape_.slots * shape_.steps);
  const auto multiples = static_cast<int64_t>(std::ceil(wanted / per_multiple - 1e-9));
  return std::max(multiples * shape_.steps, PgSchedule::fewest_steps(cols_, form_));
}

// Cycles of a vector of a group when the group's slots are filled so far.
double Packer::cost(std::span<const PgLane> lanes, double fill, Part& part) const {
  const int64_t steps = steps_of(lanes, fill);
  auto& placement = *scheduled(steps, part).placement;
  int64_t levels = 0;
  for (const auto& lane : lanes.subspan(lanes[16].row != kPgNoRow ? 16 : 0, 16)) {
    if (lane.row != kPgNoRow) levels = std::max(levels, placement.place(columns_of(lane)));
  }
  const auto& cycles = has_isa(Isa::kAvx512) ? kAvx512Cycles : kAvx2Cycles;
  return static_cast<double>(steps) * cycles.step[static_cast<size_t>(form_)] +
         static_cast<double>(levels) * cycles.level;
}

// Fuller slots make fewer steps and more spilled nonzeros: the cheapest of a few fills, by trying
// them on a few groups.
void Packer::choose_fill() {
  constexpr std::array kFills = {0.50, 0.58, 0.64,  0.70, 0.76, 0.81,
                                 0.86, 0.90, 0.935, 0.96, 0.985};
  const size_t samples = std::min<size_t>(deal_.groups.size(), 3);
  if (samples == 0) return;
  Part trial;
  std::array<double, kFills.size()> costs;
  costs.fill(-1);
  const auto cost_at = [&](size_t f) {
    if (costs[f] < 0) {
      costs[f] = 0;
      for (size_t s = 0; s < samples; ++s) {
        const auto lanes = lanes_of((2 * s + 1) * deal_.groups.size() / (2 * samples));
        costs[f] += cost(lanes, kFills[f], trial);
      }
    }
    return costs[f];
  };
  size_t best = 6;  // go downhill from here
  for (bool has_moved = true; has_moved;) {
    has_moved = false;
    for (const size_t next : {best + 1, best - 1}) {
      if (next < kFills.size() && cost_at(next) < cost_at(best)) {
        best = next;
        has_moved = true;
        break;
      }
    }
  }
  fill_ = kFills[best];
}

// Writes a slot of a lane: `block` is of its step and vector, `step` within the block.
template <PackedForm kForm>
void put(std::byte* block, int64_t step, int64_t lane, int64_t slot, PgSlot what) {
  const auto add = [&](int64_t at, auto bits) {
    decltype(bits) word;
    std::memcpy(&word, block + at, sizeof word);
    word = static_cast<decltype(bits)>(word | bits);
    std::memcpy(block + at, &word, sizeof word);
  };
  if constexpr (kForm == PackedForm::kFloat32) {
    add(4 * lane, what.index << (5 * step) | what.code << (16 + 5 * step));
  } else if constexpr (kForm == PackedForm::kBFloat16) {
    add(4 * lane + 2 * slot, static_cast<uint16_t>(what.index | what.code << 6));
  } else {
    add(64 * step + 4 * lane + slot, static_cast<uint8_t>(what.index | (what.code & 16) << 3));
    add(128 + 4 * lane + slot, static_cast<uint8_t>((what.code & 15) << (4 * step)));
  }
}

// A nonzero whose value has no code takes no slot.
void Packer::leave_out_without_code(const PgLane& lane, Part& part,
                                    std::vector<Spill>& spilled) const {
  part.coded_columns.clear();
  part.coded_codes.clear();
  for (auto e = static_cast<size_t>(lane.begin); e < static_cast<size_t>(lane.end); ++e) {
    if (entries_.codes[e] == 0) {
      spilled.push_back({entries_.columns[e], matrix_.codebook[matrix_.codes[e]]});
    } else {
      part.coded_columns.push_back(entries_.columns[e]);
      part.coded_codes.push_back(entries_.codes[e]);
    }
  }
}

// Levels of 16 for each vector of a group, and where each ends.
void add_spilled(std::span<const std::vector<Spill>> of_lanes, int64_t vectors,
                 std::vector<PgSpilled>& spilled, std::vector<uint32_t>& levels) {
  for (int64_t v = 0; v < kPgLanes / 16; ++v) {
    const auto of_vector = of_lanes.subspan(static_cast<size_t>(16 * v), 16);
    size_t deepest = 0;
    for (const auto& of_lane : of_vector) deepest = std::max(deepest, of_lane.size());
    if (v >= vectors) deepest = 0;
    for (size_t d = 0; d < deepest; ++d) {
      PgSpilled level{};
      for (size_t l = 0; l < 16; ++l) {
        if (d >= of_vector[l].size()) continue;
        level.columns[l] = of_vector[l][d].column;
        level.values[l] = of_vector[l][d].value;
      }
      spilled.push_back(level);
    }
    levels.push_back(static_cast<uint32_t>(spilled.size()));
  }
}

template <PackedForm kForm>
void Packer::add_group(size_t g, Part& part) {
  constexpr PgShape kShape = pg_shape(kForm);
  auto& group = deal_.groups[g];
  const auto lanes = lanes_of(g);
  const int64_t steps = steps_of(lanes, fill_), vectors = group.vectors;
  const auto& [schedule, placement] = scheduled(steps, part);
  group.stream_at = part.stream.size();
  part.stream.resize(part.stream.size() +
                     static_cast<size_t>(steps / kShape.steps * vectors * kShape.bytes));
  std::array<std::vector<Spill>, kPgLanes> spilled;
  std::array<int32_t, kPgLanes> sums{};
  for (int64_t l = 0; l < kPgLanes; ++l) {
    const PgLane& lane = lanes[static_cast<size_t>(l)];
    if (lane.row == kPgNoRow) continue;
    auto& of_lane = spilled[static_cast<size_t>(l)];
    auto columns = columns_of(lane);
    auto codes = codes_of(lane);
    if (std::ranges::find(codes, uint8_t{0}) != codes.end()) {
      leave_out_without_code(lane, part, of_lane);
      columns = part.coded_columns, codes = part.coded_codes;
    }
    placement->place(columns);
    std::byte* vector = part.stream.data() + group.stream_at + l / 16 * kShape.bytes;
    for (size_t i = 0; i < columns.size(); ++i) {
      const int32_t slot = placement->slots()[i];
      if (slot == PgPlacement::kNone) {
        of_lane.push_back({columns[i], entries_.code_values[codes[i]]});
        continue;
      }
      const int64_t step = slot / kShape.slots;
      put<kForm>(vector + step / kShape.steps * vectors * kShape.bytes, step % kShape.steps, l % 16,
                 slot % kShape.slots, {schedule.index_of(columns[i], step), codes[i]});
      if (kForm == PackedForm::kBytes) sums[static_cast<size_t>(l)] += fixed_point(codes[i]);
    }
  }
  group.schedule = static_cast<uint32_t>(steps);  // its number is known in the end
  if (kForm == PackedForm::kBytes) part.sums.insert(part.sums.end(), sums.begin(), sums.end());
  add_spilled(spilled, vectors, part.spilled, part.levels);
}

// In parts of as many groups as a block of rows has: small enough for threads to share them out.
void Packer::add_groups(const ParallelFor& parallel_for) {
  constexpr auto kGroups = static_cast<size_t>(kPgBlockRows / kPgLanes);
  parts_.resize((deal_.groups.size() + kGroups - 1) / kGroups);
  const auto add_part = [&](int64_t p) {
    const size_t first = static_cast<size_t>(p) * kGroups;
    auto& part = parts_[static_cast<size_t>(p)];
    for (size_t g = first; g < std::min(first + kGroups, deal_.groups.size()); ++g) {
      switch (form_) {
        case PackedForm::kFloat32:
          add_group<PackedForm::kFloat32>(g, part);
          break;
        case PackedForm::kBFloat16:
          add_group<PackedForm::kBFloat16>(g, part);
          break;
        case PackedForm::kBytes:
          add_group<PackedForm::kBytes>(g, part);
          break;
      }
    }
  };
  const auto count = std::ssize(parts_);
  if (parallel_for && count > 1) return parallel_for(count, add_part);
  for (int64_t p = 0; p < count; ++p) add_part(p);
}

int64_t rounded(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// All of `items`, one after the other.
template <class Parts, class Items>
auto joined(const Parts& parts, Items items) {
  auto all = parts.empty() ? std::decay_t<decltype(parts[0].*items)>{} : parts[0].*items;
  for (size_t p = 1; p < parts.size(); ++p) {
    const auto& of_part = parts[p].*items;
    all.insert(all.end(), of_part.begin(), of_part.end());
  }
  return all;
}

std::vector<std::byte> Packer::bytes() const {
  std::map<int64_t, const PgSchedule*> schedules;
  for (const Part& part : parts_) {
    for (const auto& [steps, made] : part.schedules) schedules.emplace(steps, &made.schedule);
  }
  std::vector<PgScheduleSpan> spans;
  std::vector<PgOffsets> offsets;
  std::map<uint32_t, uint32_t> numbers;
  const int64_t blocks = pg_blocks(cols_, form_);
  for (const auto& [steps, schedule] : schedules) {
    numbers.emplace(static_cast<uint32_t>(steps), static_cast<uint32_t>(spans.size()));
    spans.push_back({static_cast<uint32_t>(offsets.size()), static_cast<uint32_t>(steps)});
    for (const auto& step : schedule->steps()) {
      const auto second_at =
          step.is_second_natural ? 0 : static_cast<uint32_t>(pg_second_at(blocks));
      offsets.push_back({64 * step.first, second_at + 64 * step.second});
    }
  }
  auto groups = deal_.groups;
  std::vector<uint32_t> levels{0};
  uint64_t stream_at = 0, level = 0;
  size_t g = 0;
  for (const Part& part : parts_) {
    for (size_t i = 0; i < part.levels.size(); ++i) {
      levels.push_back(static_cast<uint32_t>(level + part.levels[i]));
      if (i % 4 != 0) continue;
      groups[g].stream_at += stream_at;
      groups[g].schedule = numbers.at(groups[g].schedule);
      ++g;
    }
    stream_at += part.stream.size();
    level += part.spilled.size();
  }
  const auto sums = joined(parts_, &Part::sums);
  const auto spilled = joined(parts_, &Part::spilled);
  std::vector<uint32_t> rows(deal_.lanes.size());
  std::ranges::transform(deal_.lanes, rows.begin(), [](const PgLane& lane) { return lane.row; });
  PgHeader header{
      .magic = kPackedMagic,
      .layout = static_cast<uint8_t>(form_ == PackedForm::kBytes ? Layout::kPgv : Layout::kPg32),
      .form = static_cast<uint8_t>(form_),
      .precision = static_cast<uint8_t>(precision_),
      .rows = rows_,
      .cols = cols_,
      .nnz = std::ssize(entries_.columns),
      .groups = std::ssize(groups),
      .schedules = std::ssize(spans),
      .steps = std::ssize(offsets),
      .levels = std::ssize(spilled),
      .stream_bytes = static_cast<int64_t>(stream_at)};
  int64_t end = rounded(sizeof header);
  std::vector<std::byte> bytes;
  const auto lay = [&](int64_t& at, const auto& items) {
    const auto raw = std::as_bytes(std::span(items));
    at = end;
    end = rounded(at + std::ssize(raw));
    bytes.resize(static_cast<size_t>(end));
    if (!raw.empty()) std::memcpy(bytes.data() + at, raw.data(), raw.size());
  };
  lay(header.lanes_at, rows);
  lay(header.groups_at, groups);
  lay(header.blocks_at, deal_.blocks);
  lay(header.schedules_at, spans);
  lay(header.steps_at, offsets);
  lay(header.codebook_at, std::span(&codebook_, 1));
  lay(header.sums_at, sums);
  lay(header.levels_at, levels);
  lay(header.spilled_at, spilled);
  header.stream_at = end;
  header.size = rounded(end + header.stream_bytes);
  bytes.reserve(static_cast<size_t>(header.size));
  for (const Part& part : parts_) {
    bytes.insert(bytes.end(), part.stream.begin(), part.stream.end());
  }
  bytes.resize(static_cast<size_t>(header.size));
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

}  // namespace

std::vector<std::byte> pack_pg(const Weight& matrix, PackedForm form, Precision precision,
                               PgEffort effort, const ParallelFor& parallel_for) {
  return Packer(matrix, form, precision, effort, parallel_for).bytes();
}

}  // namespace pomona
