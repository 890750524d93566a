// pack_pg: from a matrix to the bytes of pg_layout.h.

#include "base/float16.h"
#include "base/text.h"
#include "infer/fixed_point.h"
#include "infer/pg_lanes.h"
#include "infer/pg_layout.h"
#include "infer/pg_placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <numeric>

namespace pomona {
namespace {

constexpr int64_t kMostCols = int64_t{1} << 24;
constexpr int64_t kMostRows = int64_t{1} << 30;
// A sum of bytes times bytes stays below 2^31 for so many nonzeros of a row: 2 * 255 * 128 each.
constexpr int64_t kMostOfARowInBytes = 32'000;
// bfloat16 arithmetic flushes what is denormal; the kernel looks at x for the other half of this.
constexpr float kLeastInBFloat16 = 0x1p-24f, kMostInBFloat16 = 0x1p60f;
// What a step of one vector and a level of spilled nonzeros cost beside one another: about the
// cycles that a prototype of these loops took on a Zen 4. They decide how full slots are, no more.
constexpr std::array<double, 3> kStepCycles = {2.9, 4.7, 4.0};
constexpr double kLevelCycles = 18;
// Nonzeros without a code spill; with more of them than this another layout is faster.
constexpr double kMostWithoutCode = 0.03;

struct Spill {
  uint32_t column = 0;
  float value = 0;
};

class Packer {
 public:
  Packer(const Weight& matrix, PackedForm form, Precision precision, PgEffort effort)
      : matrix_(matrix),
        shape_(pg_shape(form)),
        form_(form),
        precision_(precision),
        views_(effort == PgEffort::kQuick ? 1 : 2) {
    rows_ = matrix.shape[0], cols_ = matrix.shape[1];
    entries_ = make_pg_entries(matrix, shape_.codes);
    codebook_ = make_codebook();
    deal_ = deal_pg_lanes(entries_);
    choose_fill();
    add_groups();
  }

  std::vector<std::byte> bytes() const;

 private:
  void choose_fill();
  void add_groups();
  template <PackedForm kForm>
  void add_group(size_t g);
  int64_t steps_of(std::span<const PgLane> lanes, double fill) const;
  double cost(std::span<const PgLane> lanes, double fill);
  PgPlacement& placement_of(int64_t steps);
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
  void leave_out_without_code(const PgLane& lane, std::vector<Spill>& spilled);
  void add_spilled(std::span<const std::vector<Spill>> spilled, int64_t vectors);
  PgCodebook make_codebook() const;
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
  struct Scheduled {
    uint32_t number = 0;
    PgSchedule schedule;
    std::unique_ptr<PgPlacement> placement;
  };
  std::map<int64_t, Scheduled> schedules_;  // by steps
  // Of a lane in which some have no code, those that have.
  std::vector<uint32_t> coded_columns_;
  std::vector<uint8_t> coded_codes_;
  std::vector<std::byte> stream_;
  std::vector<int32_t> sums_;        // by lane, for kBytes
  std::vector<uint32_t> levels_{0};  // four of each group, of absent vectors too
  std::vector<PgSpilled> spilled_;
};

PgPlacement& Packer::placement_of(int64_t steps) {
  auto found = schedules_.find(steps);
  if (found == schedules_.end()) {
    found =
        schedules_.emplace(steps, Scheduled{0, PgSchedule(cols_, steps, form_, views_), nullptr})
            .first;
    auto& made = found->second;  // the node stays where it is, and so does its schedule
    made.placement = std::make_unique<PgPlacement>(made.schedule);
  }
  return *found->second.placement;
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
double Packer::cost(std::span<const PgLane> lanes, double fill) {
  const int64_t steps = steps_of(lanes, fill);
  auto& placement = placement_of(steps);
  int64_t levels = 0;
  for (const auto& lane : lanes.subspan(lanes[16].row != kPgNoRow ? 16 : 0, 16)) {
    if (lane.row != kPgNoRow) levels = std::max(levels, placement.place(columns_of(lane)));
  }
  return static_cast<double>(steps) * kStepCycles[static_cast<size_t>(form_)] +
         static_cast<double>(levels) * kLevelCycles;
}

// Fuller slots make fewer steps and more spilled nonzeros: the cheapest of a few fills, by trying
// them on a few groups.
void Packer::choose_fill() {
  constexpr std::array kFills = {0.50, 0.58, 0.64,  0.70, 0.76, 0.81,
                                 0.86, 0.90, 0.935, 0.96, 0.985};
  const size_t samples = std::min<size_t>(deal_.groups.size(), 3);
  if (samples == 0) return;
  std::array<double, kFills.size()> costs;
  costs.fill(-1);
  const auto cost_at = [&](size_t f) {
    if (costs[f] < 0) {
      costs[f] = 0;
      for (size_t s = 0; s < samples; ++s) {
        costs[f] += cost(lanes_of((2 * s + 1) * deal_.groups.size() / (2 * samples)), kFills[f]);
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
  schedules_.clear();
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
void Packer::leave_out_without_code(const PgLane& lane, std::vector<Spill>& spilled) {
  coded_columns_.clear();
  coded_codes_.clear();
  for (auto e = static_cast<size_t>(lane.begin); e < static_cast<size_t>(lane.end); ++e) {
    if (entries_.codes[e] == 0) {
      spilled.push_back({entries_.columns[e], matrix_.codebook[matrix_.codes[e]]});
    } else {
      coded_columns_.push_back(entries_.columns[e]);
      coded_codes_.push_back(entries_.codes[e]);
    }
  }
}

template <PackedForm kForm>
void Packer::add_group(size_t g) {
  constexpr PgShape kShape = pg_shape(kForm);
  auto& group = deal_.groups[g];
  const auto lanes = lanes_of(g);
  const int64_t steps = steps_of(lanes, fill_), vectors = group.vectors;
  auto& placement = placement_of(steps);
  const auto& schedule = schedules_.at(steps).schedule;
  group.stream_at = stream_.size();
  stream_.resize(stream_.size() +
                 static_cast<size_t>(steps / kShape.steps * vectors * kShape.bytes));
  std::array<std::vector<Spill>, kPgLanes> spilled;
  if (kForm == PackedForm::kBytes) sums_.resize(sums_.size() + kPgLanes);
  for (int64_t l = 0; l < kPgLanes; ++l) {
    const PgLane& lane = lanes[static_cast<size_t>(l)];
    if (lane.row == kPgNoRow) continue;
    auto& of_lane = spilled[static_cast<size_t>(l)];
    auto columns = columns_of(lane);
    auto codes = codes_of(lane);
    if (std::ranges::find(codes, uint8_t{0}) != codes.end()) {
      leave_out_without_code(lane, of_lane);
      columns = coded_columns_, codes = coded_codes_;
    }
    placement.place(columns);
    std::byte* vector = stream_.data() + group.stream_at + l / 16 * kShape.bytes;
    int32_t sum = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
      const int32_t slot = placement.slots()[i];
      if (slot == PgPlacement::kNone) {
        of_lane.push_back({columns[i], entries_.code_values[codes[i]]});
        continue;
      }
      const int64_t step = slot / kShape.slots;
      put<kForm>(vector + step / kShape.steps * vectors * kShape.bytes, step % kShape.steps, l % 16,
                 slot % kShape.slots, {schedule.index_of(columns[i], step), codes[i]});
      if (kForm == PackedForm::kBytes) sum += fixed_point(codes[i]);
    }
    if (kForm == PackedForm::kBytes) sums_[g * kPgLanes + static_cast<size_t>(l)] = sum;
  }
  group.schedule = static_cast<uint32_t>(steps);  // its number is known in the end
  add_spilled(spilled, vectors);
}

void Packer::add_groups() {
  for (size_t g = 0; g < deal_.groups.size(); ++g) {
    switch (form_) {
      case PackedForm::kFloat32:
        add_group<PackedForm::kFloat32>(g);
        break;
      case PackedForm::kBFloat16:
        add_group<PackedForm::kBFloat16>(g);
        break;
      case PackedForm::kBytes:
        add_group<PackedForm::kBytes>(g);
        break;
    }
  }
}

void Packer::add_spilled(std::span<const std::vector<Spill>> spilled, int64_t vectors) {
  for (int64_t v = 0; v < kPgLanes / 16; ++v) {
    const auto of_vector = spilled.subspan(static_cast<size_t>(16 * v), 16);
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
      spilled_.push_back(level);
    }
    levels_.push_back(static_cast<uint32_t>(spilled_.size()));
  }
}

PgCodebook Packer::make_codebook() const {
  PgCodebook book{};
  float largest = 0;
  for (const float value : entries_.code_values) largest = std::max(largest, std::abs(value));
  const bool is_int8 = precision_ == Precision::kInt8;
  book.scale = signed_scale(precision_, largest);
  for (size_t c = 0; c < entries_.code_values.size(); ++c) {
    const float value = entries_.code_values[c];
    book.values[c] = value;
    book.high[c] = bfloat16_from_float(value);
    book.low[c] = bfloat16_from_float(value - float_from_bfloat16(book.high[c]));
    if (float_from_bfloat16(book.low[c]) != 0) book.has_low = 1;
    if (form_ != PackedForm::kBytes) continue;
    const auto whole = static_cast<int>(std::lrint(value / book.scale));
    const int high = is_int8 ? whole : (whole + 128) >> 8;
    book.byte_high[c] = static_cast<int8_t>(high);
    book.byte_low[c] = static_cast<int8_t>(is_int8 ? 0 : whole - 256 * high);
  }
  // The permute looks at six bits of a code, of which only four or five are its own: repeat.
  const size_t period = entries_.code_values.size() <= 16 ? 16 : 32;
  for (size_t c = period; form_ == PackedForm::kBytes && c < 64; ++c) {
    book.byte_high[c] = book.byte_high[c - period];
    book.byte_low[c] = book.byte_low[c - period];
  }
  book.codes = static_cast<uint32_t>(entries_.code_values.size());
  return book;
}

int64_t rounded(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

std::vector<std::byte> Packer::bytes() const {
  std::vector<PgScheduleSpan> spans;
  std::vector<PgOffsets> offsets;
  std::map<uint32_t, uint32_t> numbers;
  const int64_t blocks = pg_blocks(cols_, form_);
  for (const auto& [steps, scheduled] : schedules_) {
    numbers.emplace(static_cast<uint32_t>(steps), static_cast<uint32_t>(spans.size()));
    spans.push_back({static_cast<uint32_t>(offsets.size()), static_cast<uint32_t>(steps)});
    for (const auto& step : scheduled.schedule.steps()) {
      const auto second_at =
          step.is_second_natural ? 0 : static_cast<uint32_t>(pg_second_at(blocks));
      offsets.push_back({64 * step.first, second_at + 64 * step.second});
    }
  }
  auto groups = deal_.groups;
  for (auto& group : groups) group.schedule = numbers.at(group.schedule);
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
      .levels = std::ssize(spilled_),
      .stream_bytes = std::ssize(stream_)};
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
  lay(header.sums_at, sums_);
  lay(header.levels_at, levels_);
  lay(header.spilled_at, spilled_);
  lay(header.stream_at, stream_);
  header.size = end;
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

std::vector<int64_t> kept_of_rows(const Weight& matrix) {
  std::vector<int64_t> counts(static_cast<size_t>(matrix.shape[0]));
  for_each_kept(matrix.mask, [&](size_t i) { ++counts[i / static_cast<size_t>(matrix.shape[1])]; });
  return counts;
}

bool is_bfloat16_arithmetic_exact_enough(const std::vector<float>& codebook) {
  return std::ranges::all_of(codebook, [](float value) {
    const float size = std::abs(value);
    return size == 0 || (size >= kLeastInBFloat16 && size <= kMostInBFloat16);
  });
}

}  // namespace

std::string why_not_pg(const Weight& matrix, PackedForm form, Precision precision) {
  const int64_t rows = matrix.shape[0], cols = matrix.shape[1];
  if (matrix.mask.kept() == 0) return "it has no nonzero";
  if (!matrix.is_shared()) return "it has more than 256 different values";
  if (cols > kMostCols || rows > kMostRows) return text("it is ", rows, " x ", cols);
  if (matrix.mask.kept() >= int64_t{1} << 32) return "it has 2^32 nonzeros or more";
  if (form == PackedForm::kBFloat16 && !is_bfloat16_arithmetic_exact_enough(matrix.codebook)) {
    return "its codebook leaves the range of bfloat16 arithmetic";
  }
  const bool is_bytes = precision == Precision::kFixed16 || precision == Precision::kInt8;
  if (is_bytes != (form == PackedForm::kBytes)) return "of its precision";
  if (is_bytes && cols > kMostOfARowInBytes) {
    const auto counts = kept_of_rows(matrix);
    if (std::ranges::max(counts) > kMostOfARowInBytes) {
      return text("a row has more than ", kMostOfARowInBytes, " nonzeros");
    }
  }
  const auto without = static_cast<double>(pg_nonzeros_without_code(matrix, pg_shape(form).codes));
  if (without > kMostWithoutCode * static_cast<double>(matrix.codes.size())) {
    return text("it has more than ", pg_shape(form).codes - 1, " values that matter");
  }
  return "";
}

std::vector<std::byte> pack_pg(const Weight& matrix, PackedForm form, Precision precision,
                               PgEffort effort) {
  return Packer(matrix, form, precision, effort).bytes();
}

}  // namespace pomona
