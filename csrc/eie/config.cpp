#include "pomona/eie.h"
#include "pomona/error.h"

#include "base/text.h"

#include <bit>
#include <limits>

namespace pomona::eie {
namespace {

constexpr int64_t kMostPes = 1024, kMostSlots = 4096, kMostBytes = int64_t{1} << 40;

void check_range(const char* member, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw InvalidArgument(
      text("eie: expected `", member, "` in ", least, "..", most, ", got ", value, "."));
}

}  // namespace

int bits_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFixed8:
      return 8;
    case Arithmetic::kFixed16:
      return 16;
    case Arithmetic::kFixed32:
    case Arithmetic::kFloat32:
      break;
  }
  return 32;
}

void check_config(const Config& config) {
  check_range("pes", config.pes, 1, kMostPes);
  check_range("queue_slots", config.queue_slots, 2, kMostSlots);
  check_range("code_bits", config.code_bits, 1, 8);
  check_range("gap_bits", config.gap_bits, 1, 8);
  check_range("matrix_bytes", config.matrix_bytes, 1, kMostBytes);
  check_range("pointer_bytes", config.pointer_bytes, 4, kMostBytes);
  check_range("activation_registers", config.activation_registers, 1, kMostBytes);
  check_range("activation_sram_bytes", config.activation_sram_bytes, 0, kMostBytes);
  const int64_t width = config.sram_width_bits;
  if (width < 32 || width > 512 || !std::has_single_bit(static_cast<uint64_t>(width))) {
    throw InvalidArgument(
        text("eie: expected `sram_width_bits` to be 32, 64, 128, 256 or 512, got ", width, "."));
  }
  if (!(config.clock_hz > 0 && config.clock_hz < std::numeric_limits<double>::infinity())) {
    throw InvalidArgument(
        text("eie: expected `clock_hz` to be above 0, got ", config.clock_hz, "."));
  }
}

Config unbounded(Config config) {
  constexpr int64_t kPlenty = int64_t{1} << 36;
  config.matrix_bytes = config.pointer_bytes = config.activation_sram_bytes = kPlenty;
  config.activation_registers = kPlenty;
  return config;
}

}  // namespace pomona::eie
