// Checking and reading the bytes of pg_layout.h.

#include "infer/pg_layout.h"

#include "base/text.h"

#include <algorithm>
#include <cstring>

namespace pomona {
namespace {

// The sections of a header in their order, and the bytes of each.
struct Section {
  const char* name;
  int64_t at, count, item_bytes;
};

std::array<Section, 10> sections_of(const PgHeader& h) {
  const int64_t row_blocks = (h.rows + kPgBlockRows - 1) / kPgBlockRows;
  const int64_t sums =
      static_cast<PackedForm>(h.form) == PackedForm::kBytes ? kPgLanes * h.groups : 0;
  return {{{"lanes", h.lanes_at, kPgLanes * h.groups, 4},
           {"groups", h.groups_at, h.groups, sizeof(PgGroup)},
           {"blocks", h.blocks_at, row_blocks + 1, 4},
           {"schedules", h.schedules_at, h.schedules, sizeof(PgScheduleSpan)},
           {"steps", h.steps_at, h.steps, sizeof(PgOffsets)},
           {"codebook", h.codebook_at, 1, sizeof(PgCodebook)},
           {"sums", h.sums_at, sums, 4},
           {"levels", h.levels_at, 4 * h.groups + 1, 4},
           {"spilled", h.spilled_at, h.levels, sizeof(PgSpilled)},
           {"stream", h.stream_at, h.stream_bytes, 1}}};
}

void check_lanes(const PgView& view) {
  const auto& blocks = view.blocks;
  if (blocks[0] != 0 || blocks.back() != view.groups.size()) {
    refuse_packed(text("with blocks from 0 to ", view.groups.size()), blocks.back());
  }
  for (size_t b = 0; b + 1 < blocks.size(); ++b) {
    if (blocks[b + 1] < blocks[b] || blocks[b + 1] > view.groups.size()) {
      refuse_packed("with blocks that rise", blocks[b + 1]);
    }
    const auto first = static_cast<int64_t>(b) * kPgBlockRows;
    const int64_t last = std::min(first + kPgBlockRows, view.header.rows);
    for (size_t l = blocks[b] * kPgLanes; l < blocks[b + 1] * kPgLanes; ++l) {
      const uint32_t row = view.lanes[l];
      if (row != kPgNoRow && (row < first || row >= last)) {
        refuse_packed(text("with rows of block ", b, " in ", first, "..", last - 1), row);
      }
    }
  }
}

void check_groups(const PgView& view) {
  const auto shape = pg_shape(view.form());
  for (const auto& schedule : view.schedules) {
    const auto end = uint64_t{schedule.begin} + schedule.steps;
    if (end > view.steps.size() || schedule.steps % static_cast<uint32_t>(shape.steps) != 0) {
      refuse_packed("with schedules within its steps", end);
    }
  }
  const auto stream = static_cast<uint64_t>(view.header.stream_bytes);
  for (const auto& group : view.groups) {
    if (group.schedule >= view.schedules.size())
      refuse_packed("with schedules of groups", group.schedule);
    if (group.vectors < 1 || group.vectors > 4)
      refuse_packed("with 1..4 vectors a group", group.vectors);
    const uint64_t steps = view.schedules[group.schedule].steps;
    const uint64_t size = steps / static_cast<uint64_t>(shape.steps) * group.vectors *
                          static_cast<uint64_t>(shape.bytes);
    if (group.stream_at > stream || size > stream - group.stream_at || group.stream_at % 64 != 0) {
      refuse_packed("with groups within its stream", group.stream_at);
    }
  }
}

void check_columns(const PgView& view) {
  const auto plane = static_cast<uint32_t>(
      std::min<int64_t>(pg_plane_bytes(pg_blocks(view.header.cols, view.form())), 1u << 31));
  for (const auto& step : view.steps) {
    for (const uint32_t offset : {step.first, step.second}) {
      if (offset % 64 != 0 || offset >= plane) refuse_packed("with steps within x", offset);
    }
  }
  if (view.levels[0] != 0 || view.levels.back() != view.spilled.size()) {
    refuse_packed(text("with levels from 0 to ", view.spilled.size()), view.levels.back());
  }
  for (size_t v = 1; v < view.levels.size(); ++v) {
    if (view.levels[v] < view.levels[v - 1]) refuse_packed("with levels that rise", view.levels[v]);
  }
  for (const auto& level : view.spilled) {
    for (const uint32_t column : level.columns) {
      if (column >= view.header.cols && !(column == 0 && view.header.cols == 0)) {
        refuse_packed(text("with columns below ", view.header.cols), column);
      }
    }
  }
}

template <class T>
std::span<const T> section(const std::byte* base, int64_t at, int64_t count) {
  return {reinterpret_cast<const T*>(base + at), static_cast<size_t>(count)};
}

}  // namespace

PgHeader read_pg_header(std::span<const std::byte> bytes) {
  const bool is_pgv = bytes.size() >= sizeof(PgHeader) && named_layout(bytes) == Layout::kPgv;
  check_packed_start(bytes, sizeof(PgHeader), is_pgv ? Layout::kPgv : Layout::kPg32, kPgVersion);
  PgHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.form > static_cast<uint8_t>(PackedForm::kBytes))
    refuse_packed("of form 0..2", int{header.form});
  if (header.precision > static_cast<uint8_t>(Precision::kInt8)) {
    refuse_packed("of precision 0..3", int{header.precision});
  }
  const auto is_bytes = static_cast<PackedForm>(header.form) == PackedForm::kBytes;
  if (is_bytes != is_pgv) refuse_packed("of a form that fits its layout", int{header.form});
  if (is_bytes != (static_cast<Precision>(header.precision) >= Precision::kFixed16)) {
    refuse_packed("of a precision that fits its form", int{header.precision});
  }
  if (header.size != std::ssize(bytes)) {
    refuse_packed(text("of ", header.size, " bytes, as its header says"), bytes.size());
  }
  for (const int64_t count : {header.rows, header.cols, header.nnz, header.groups, header.schedules,
                              header.steps, header.levels, header.stream_bytes}) {
    if (count < 0 || count > header.size * 8 * 64) refuse_packed("with sizes that fit it", count);
  }
  int64_t end = (static_cast<int64_t>(sizeof(PgHeader)) + 63) / 64 * 64;
  for (const auto& section : sections_of(header)) {
    if (section.at != end)
      refuse_packed(text("with section ", section.name, " at ", end), section.at);
    end += (section.count * section.item_bytes + 63) / 64 * 64;
    if (end > header.size) refuse_packed(text("of ", end, " bytes or more"), header.size);
  }
  if (end != header.size) refuse_packed(text("of ", end, " bytes"), header.size);
  return header;
}

PgView view_pg(std::span<const std::byte> bytes) {
  PgView view;
  std::memcpy(&view.header, bytes.data(), sizeof view.header);
  const auto& h = view.header;
  const auto all = sections_of(h);
  const auto* base = bytes.data();
  view.lanes = section<uint32_t>(base, all[0].at, all[0].count);
  view.groups = section<PgGroup>(base, all[1].at, all[1].count);
  view.blocks = section<uint32_t>(base, all[2].at, all[2].count);
  view.schedules = section<PgScheduleSpan>(base, all[3].at, all[3].count);
  view.steps = section<PgOffsets>(base, all[4].at, all[4].count);
  view.codebook = section<PgCodebook>(base, all[5].at, 1).data();
  view.sums = section<int32_t>(base, all[6].at, all[6].count);
  view.levels = section<uint32_t>(base, all[7].at, all[7].count);
  view.spilled = section<PgSpilled>(base, all[8].at, all[8].count);
  view.stream = base + h.stream_at;
  return view;
}

PgView check_pg(std::span<const std::byte> bytes) {
  read_pg_header(bytes);
  const auto view = view_pg(bytes);
  check_lanes(view);
  check_groups(view);
  check_columns(view);
  return view;
}

PgSlot pg_slot(PackedForm form, const std::byte* stream, int64_t vectors, int64_t step,
               int64_t lane, int64_t slot) {
  const auto shape = pg_shape(form);
  const int64_t l = lane % 16, within = step % shape.steps;
  const std::byte* from = stream + (step / shape.steps * vectors + lane / 16) * shape.bytes;
  const auto load = [&](int64_t at, auto word) {
    std::memcpy(&word, from + at, sizeof word);
    return static_cast<uint32_t>(word);
  };
  switch (form) {
    case PackedForm::kFloat32: {
      const uint32_t word = load(4 * l, uint32_t{});
      return {(word >> (5 * within)) & 31, (word >> (16 + 5 * within)) & 31};
    }
    case PackedForm::kBFloat16: {
      const uint32_t half = load(4 * l + 2 * slot, uint16_t{});
      return {half & 63, half >> 6 & 63};
    }
    case PackedForm::kBytes: {
      const uint32_t index = load(64 * within + 4 * l + slot, uint8_t{});
      const uint32_t nibbles = load(128 + 4 * l + slot, uint8_t{});
      return {index & 127, (nibbles >> (4 * within) & 15) | (index >> 3 & 16)};
    }
  }
  return {};
}

int64_t pg_column(const PgView& matrix, const PgOffsets& offsets, uint32_t index) {
  const int64_t elements = pg_shape(matrix.form()).elements, half = kPgWords * elements;
  const int64_t blocks = pg_blocks(matrix.header.cols, matrix.form());
  const int64_t offset = index < half ? offsets.first : offsets.second, within = index % half;
  if (offset < pg_second_at(blocks)) return offset / 64 * half + within;
  const int64_t block = (offset - pg_second_at(blocks)) / 64;
  return (within / elements * blocks + block) * elements + within % elements;
}

}  // namespace pomona
