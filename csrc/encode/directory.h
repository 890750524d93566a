#pragma once
// What stands where in a file: constants, and the directory that lists the tensors' sections.
// Source: docs/format.md; the order of fields there and here is the same.

#include "pomona/file.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

inline constexpr std::array<uint8_t, 8> kMagic{0x89, 'P', 'O', 'M', '\r', '\n', 0x1A, '\n'};
inline constexpr uint16_t kVersion = 2;
inline constexpr size_t kHeaderSize = 16;
inline constexpr size_t kFooterSize = 24;
inline constexpr int64_t kMaxNumel = int64_t{1} << 36;
inline constexpr int64_t kMaxFileCentroids = 256;

// "fc1.weight/positions".
std::string part_name(const FileEntry& entry, std::string_view part);

struct TensorRecord {
  FileEntry entry;
  uint32_t checksum = 0;  // of its section; 0 where there is none
};

// A section that belongs to no tensor. Odd kinds must be understood, even ones may be skipped.
struct ExtraSection {
  uint64_t kind = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  uint32_t checksum = 0;
};
inline constexpr uint64_t kMetadata = 0;

struct Directory {
  std::vector<TensorRecord> tensors;  // in the order in which their sections lie
  std::vector<ExtraSection> extras;   // after them
};

std::vector<std::byte> write_directory(const Directory& directory);
// `offset` is the directory's own in the file; the sections' offsets follow from their order.
// Throws CorruptFile for anything that write_directory would not write, InvalidArgument for a
// section that must be understood and is not.
Directory read_directory(std::span<const std::byte> bytes, uint64_t offset);

}  // namespace pomona
