#pragma once
// Permute-gather tiles as bytes: rows dealt into lanes, groups of 64 lanes with a schedule each,
// the stream that the kernels read, and what spilled.
//
//   y[row of lane] = bias + sum over the steps of the lane's group of  x[index] * codebook[code]
//                         + sum over its spilled nonzeros of  x[column] * value
//
// Rows are taken in blocks of 512, sorted by their nonzeros within the block, so that the lanes of
// a group are about as long, and one thread writes the outputs of a block. A row much longer than
// its neighbours may be split over several lanes of its block. A group takes `vectors` registers of
// 16 lanes; its stream is
//
//   for every `shape.steps` steps:  for each vector:  shape.bytes bytes
//
//   kFloat32   16 words (a lane each) of three slots: index of step s at bit 5 s, code at bit
//              16 + 5 s                                                     10 bits a slot
//   kBFloat16  32 halves (a lane has two): index in the low 6 bits, code above   16 bits a slot
//   kBytes     64 bytes for each of two steps (a lane has four): index in the low 7 bits, bit 7 is
//              the fifth bit of the code; then 64 bytes of the codes' low nibbles, the first step's
//              in the low half                                              12 bits a slot
//
// Code 0 is 0.0 and means that the slot is empty. Spilled nonzeros stand in levels of 16, one for
// each lane of a vector, column 0 and value 0.0 where a lane has no more.
//
// Sections begin at multiples of 64 bytes. The bytes are for the machine that made them (but the
// instruction set does not matter), and any reader checks them first.
//
// Source: thesis §4.8 (batch-1 inference wants an indirect look-up and a relative index that
// sparse libraries lack).

#include "pomona/export.h"
#include "pomona/packed.h"
#include "pomona/parallel.h"

#include "infer/packed_header.h"
#include "infer/pg_schedule.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pomona {

inline constexpr uint8_t kPgVersion = 1;
inline constexpr int64_t kPgLanes = 64;       // of a group
inline constexpr int64_t kPgBlockRows = 512;  // that are sorted together
inline constexpr uint32_t kPgNoRow = ~uint32_t{0};

struct PgHeader {
  uint32_t magic = kPackedMagic;
  uint8_t layout = 0;
  uint8_t version = kPgVersion;
  uint8_t form = 0;
  uint8_t precision = 0;
  int64_t rows = 0, cols = 0, nnz = 0;
  int64_t groups = 0;     // of 64 lanes
  int64_t schedules = 0;  // different numbers of steps
  int64_t steps = 0;      // of all schedules
  int64_t levels = 0;     // of 16 spilled nonzeros
  int64_t stream_bytes = 0;
  // Where the sections begin, in bytes from the header; `size` is the end of the last.
  int64_t lanes_at = 0, groups_at = 0, blocks_at = 0, schedules_at = 0, steps_at = 0;
  int64_t codebook_at = 0, sums_at = 0, levels_at = 0, spilled_at = 0, stream_at = 0;
  int64_t size = 0;
};
static_assert(sizeof(PgHeader) == 160);

struct PgGroup {
  uint32_t schedule = 0;
  uint32_t vectors = 0;  // 1 to 4
  uint64_t stream_at = 0;
};

// The steps of a schedule are steps[begin] to steps[begin + steps].
struct PgScheduleSpan {
  uint32_t begin = 0;
  uint32_t steps = 0;
};

// A step as a kernel takes it: byte offsets into a plane of views (pg_views.h).
struct PgOffsets {
  uint32_t first = 0;
  uint32_t second = 0;
};

struct PgSpilled {
  uint32_t columns[16];
  float values[16];
};

// What the slots' codes stand for, in the kernels' arithmetics; entry 0 is 0.
struct PgCodebook {
  float values[64];
  uint16_t high[64];     // the values in bfloat16,
  uint16_t low[64];      // and what that leaves, in bfloat16
  int8_t byte_high[64];  // value / scale = 256 * high + low, or high alone for int8
  int8_t byte_low[64];
  float scale;
  uint32_t has_low;  // whether `high` is not all there is
  uint32_t codes;    // in use, 0 among them
  uint8_t reserved[52];
};
static_assert(sizeof(PgCodebook) == 704);

// Where a plane of views has its second view, and its size, in bytes.
constexpr int64_t pg_second_at(int64_t blocks) {
  return 64 * (blocks + 1);
}
constexpr int64_t pg_plane_bytes(int64_t blocks) {
  return pg_second_at(blocks) + (blocks + 15) / 16 * 16 * 64;
}

struct PgView {
  PgHeader header;
  PackedForm form() const { return static_cast<PackedForm>(header.form); }
  Precision precision() const { return static_cast<Precision>(header.precision); }
  // Of a plane of views of x.
  int64_t plane_bytes() const { return pg_plane_bytes(pg_blocks(header.cols, form())); }
  std::span<const uint32_t> lanes{};  // the row of each, or kPgNoRow
  std::span<const PgGroup> groups{};
  std::span<const uint32_t> blocks{};  // the first group of each 512 rows, and an end
  std::span<const PgScheduleSpan> schedules{};
  std::span<const PgOffsets> steps{};
  const PgCodebook* codebook = nullptr;
  std::span<const int32_t> sums{};     // of a lane's codes in bytes; empty for other forms
  std::span<const uint32_t> levels{};  // the first level of each vector, and an end
  std::span<const PgSpilled> spilled{};
  const std::byte* stream = nullptr;
};

// Why a matrix cannot have this layout; empty when it can. REQUIRES: as pack_csr16.
POMONA_API std::string why_not_pg(const Weight& matrix, PackedForm form, Precision precision);

// kThorough fills slots best; kQuick packs with one view, in a fraction of the time.
enum class PgEffort : uint8_t { kQuick, kThorough };

// The bytes of a matrix, the same on any threads. REQUIRES: why_not_pg() is empty.
POMONA_API std::vector<std::byte> pack_pg(const Weight& matrix, PackedForm form,
                                          Precision precision,
                                          PgEffort effort = PgEffort::kThorough,
                                          const ParallelFor& parallel_for = {});

// The header, when the buffer is long enough, aligned, of this version and exactly this long; the
// sections are within it. O(1). Throws InvalidArgument.
POMONA_API PgHeader read_pg_header(std::span<const std::byte> bytes);

// Everything that pack_pg promises and a kernel relies on. O(groups + steps + spilled). Throws
// InvalidArgument that says what is wrong.
POMONA_API PgView check_pg(std::span<const std::byte> bytes);
// REQUIRES: check_pg(bytes) passed.
POMONA_API PgView view_pg(std::span<const std::byte> bytes);

// The slot of a lane of a vector: REQUIRES slot < shape.slots, step < steps of the group.
struct PgSlot {
  uint32_t index = 0;
  uint32_t code = 0;
};
POMONA_API PgSlot pg_slot(PackedForm form, const std::byte* stream, int64_t vectors, int64_t step,
                          int64_t lane, int64_t slot);

// The column at an index of the window of a step; at or past `cols` where x has ended.
POMONA_API int64_t pg_column(const PgView& matrix, const PgOffsets& offsets, uint32_t index);

}  // namespace pomona
