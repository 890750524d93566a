#pragma once
// What stands where in a file: constants, the sections of a tensor, and the directory that lists
// them. Source: docs/format.md; the order of fields there and here is the same.

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
inline constexpr uint16_t kVersion = 1;
inline constexpr size_t kHeaderSize = 16;
inline constexpr size_t kFooterSize = 24;
inline constexpr int64_t kMaxNumel = int64_t{1} << 36;  // so that a mask is 8 GiB at most
inline constexpr int64_t kMaxFileCentroids = 256;

// In the order in which they lie in the file.
enum class Section : uint8_t { kCodebook, kPositions, kCodes, kValues };
inline constexpr std::array kSections{Section::kCodebook, Section::kPositions, Section::kCodes,
                                      Section::kValues};
inline constexpr std::array<std::string_view, 4> kSectionNames{"codebook", "positions", "codes",
                                                               "values"};

// One number or string of bytes for each section.
template <class T>
using PerSection = std::array<T, kSections.size()>;

// 0 when the tensor has no such section.
uint64_t section_size(const FileEntry& entry, Section section);
// "fc1.weight/positions".
std::string section_name(const FileEntry& entry, Section section);

struct TensorRecord {
  FileEntry entry;
  PerSection<uint32_t> checksums{};  // 0 where there is no section
};

std::vector<std::byte> write_directory(std::span<const TensorRecord> records);
// `offset` is the directory's own in the file; the tensors' offsets follow from their order. Throws
// CorruptFile for anything that write_directory would not write.
std::vector<TensorRecord> read_directory(std::span<const std::byte> bytes, uint64_t offset);

}  // namespace pomona
