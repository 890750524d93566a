#include "infer/packed_header.h"

#include <cstring>

namespace pomona {
namespace {

struct Start {
  uint32_t magic;
  uint8_t layout;
  uint8_t version;
};

Start start_of(std::span<const std::byte> bytes) {
  Start start;
  std::memcpy(&start, bytes.data(), sizeof start);
  return start;
}

}  // namespace

Layout named_layout(std::span<const std::byte> bytes) {
  return static_cast<Layout>(start_of(bytes).layout);
}

void check_packed_start(std::span<const std::byte> bytes, size_t header_bytes, Layout layout,
                        uint8_t version) {
  if (bytes.size() < header_bytes) {
    refuse_packed(text("of at least ", header_bytes, " bytes"), bytes.size());
  }
  const auto misaligned = reinterpret_cast<uintptr_t>(bytes.data()) % alignof(int64_t);
  if (misaligned != 0) {
    refuse_packed("to begin at a multiple of 8 bytes", text(misaligned, " past one"));
  }
  const Start start = start_of(bytes);
  if (start.magic != kPackedMagic) refuse_packed("to begin with the bytes \"pmpk\"", "others");
  if (start.layout != static_cast<uint8_t>(layout)) {
    refuse_packed(text("of layout ", layout_name(layout), " (", static_cast<int>(layout), ")"),
                  int{start.layout});
  }
  if (start.version != version)
    refuse_packed(text("of version ", int{version}), int{start.version});
}

}  // namespace pomona
