// Reads header, footer and directory when a file is opened, sections when they are asked for.
// Mirrors file_writer.cpp; the pictures are in docs/format.md.
#include "pomona/error.h"
#include "pomona/file.h"

#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/stored_file.h"
#include "base/text.h"
#include "encode/directory.h"
#include "encode/sections.h"

#include <algorithm>
#include <map>

namespace pomona {
namespace {

using Bytes = std::vector<std::byte>;

constexpr const char* kWrongChecksum =
    "a right checksum, got a wrong one; the file is damaged or cut short";

[[noreturn]] void refuse(const StoredFile& file, std::string_view section, uint64_t offset,
                         const std::string& what) {
  throw CorruptFile(std::string(section), offset,
                    text("expected ", what, " (", file.path().string(), ")"));
}

// All `size` bytes, or the file is shorter than it was or said.
Bytes read_whole(const StoredFile& file, std::string_view section, uint64_t offset, uint64_t size) {
  auto bytes = file.read(offset, size);
  if (bytes.size() != size) {
    refuse(file, section, offset + bytes.size(),
           text(size, " bytes from byte ", offset, " on, got ", bytes.size()));
  }
  return bytes;
}

// The checksum that stands in the last four bytes, of all bytes before it.
void check_own_checksum(const StoredFile& file, std::string_view section, uint64_t offset,
                        std::span<const std::byte> bytes) {
  const auto covered = bytes.first(bytes.size() - 4);
  const auto stored = load_little_endian<uint32_t>(bytes.data() + covered.size());
  if (crc32c(covered) != stored) refuse(file, section, offset, kWrongChecksum);
}

void check_magic(const StoredFile& file, std::span<const std::byte> bytes) {
  if (bytes.empty()) refuse(file, "header", 0, "a pomona file, got an empty file");
  const size_t size = std::min(bytes.size(), kMagic.size());
  const auto same = [](std::byte a, uint8_t b) { return static_cast<uint8_t>(a) == b; };
  if (std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size), kMagic.begin(),
                 same)) {
    return;
  }
  const bool looks_translated = bytes.size() >= 4 && same(bytes[1], kMagic[1]) &&
                                same(bytes[2], kMagic[2]) && same(bytes[3], kMagic[3]);
  refuse(file, "header", 0,
         looks_translated ? "a pomona file, got one that was changed on its way (copied as text?)"
                          : "a pomona file, got something else");
}

void check_header(const StoredFile& file) {
  const auto header = file.read(0, kHeaderSize);
  check_magic(file, header);
  if (header.size() < kHeaderSize) {
    refuse(file, "header", header.size(),
           text("a header of ", kHeaderSize, " bytes, got a file of ", header.size()));
  }
  check_own_checksum(file, "header", 0, header);
  const auto version = load_little_endian<uint16_t>(header.data() + 8);
  const auto flags = load_little_endian<uint16_t>(header.data() + 10);
  if (version == 0) refuse(file, "header", 8, "a version of at least 1, got 0");
  if (version > kVersion || flags != 0) {
    throw InvalidArgument(text("FileReader: expected a file of version ", kVersion,
                               " without flags, got version ", version, " with flags ", flags, " (",
                               file.path().string(),
                               "). It was written by a newer version of pomona."));
  }
}

struct Footer {
  uint64_t directory_offset;
  uint64_t directory_size;
  uint32_t directory_checksum;
};

Footer read_footer(const StoredFile& file) {
  if (file.size() < kHeaderSize + kFooterSize) {
    refuse(file, "footer", file.size(),
           text("a file of at least ", kHeaderSize + kFooterSize, " bytes, got ", file.size()));
  }
  const uint64_t offset = file.size() - kFooterSize;
  const auto bytes = read_whole(file, "footer", offset, kFooterSize);
  check_own_checksum(file, "footer", offset, bytes);
  const auto directory_offset = load_little_endian<uint64_t>(bytes.data());
  const auto file_size = load_little_endian<uint64_t>(bytes.data() + 8);
  if (file_size != file.size()) {
    refuse(file, "footer", offset + 8, text("a file of ", file_size, " bytes, got ", file.size()));
  }
  if (directory_offset < kHeaderSize || directory_offset > offset) {
    refuse(file, "footer", offset,
           text("a directory between byte ", kHeaderSize, " and ", offset, ", got ",
                directory_offset));
  }
  return {directory_offset, offset - directory_offset,
          load_little_endian<uint32_t>(bytes.data() + 16)};
}

}  // namespace

struct FileReader::Impl {
  explicit Impl(const std::filesystem::path& path) : file(path) {
    check_header(file);
    const Footer footer = read_footer(file);
    const auto directory =
        read_whole(file, "directory", footer.directory_offset, footer.directory_size);
    if (crc32c(directory) != footer.directory_checksum) {
      refuse(file, "directory", footer.directory_offset, kWrongChecksum);
    }
    for (auto& record : read_directory(directory, footer.directory_offset)) {
      index_of.emplace(record.entry.name, entries.size());
      entries.push_back(std::move(record.entry));
      checksums.push_back(record.checksums);
    }
  }

  Weight read(size_t index) const {
    const FileEntry& entry = entries[index];
    PerSection<Bytes> sections;
    uint64_t offset = entry.offset;
    for (const Section section : kSections) {
      const auto s = static_cast<size_t>(section);
      const uint64_t size = section_size(entry, section);
      if (size == 0) continue;
      const std::string name = section_name(entry, section);
      sections[s] = read_whole(file, name, offset, size);
      if (crc32c(sections[s]) != checksums[index][s]) {
        refuse(file, name, offset, kWrongChecksum);
      }
      offset += size;
    }
    return decode_sections(entry, std::move(sections));
  }

  StoredFile file;
  std::vector<FileEntry> entries;
  std::vector<PerSection<uint32_t>> checksums;
  std::map<std::string, size_t, std::less<>> index_of;
};

FileReader::FileReader(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
FileReader::~FileReader() = default;
FileReader::FileReader(FileReader&&) noexcept = default;

const std::vector<FileEntry>& FileReader::entries() const {
  return impl_->entries;
}

uint64_t FileReader::size() const {
  return impl_->file.size();
}

bool FileReader::contains(std::string_view name) const {
  return impl_->index_of.contains(name);
}

Weight FileReader::read(std::string_view name) const {
  const auto found = impl_->index_of.find(name);
  if (found == impl_->index_of.end()) {
    std::vector<std::string> names;
    for (const auto& entry : impl_->entries) names.push_back(entry.name);
    throw InvalidArgument(text("FileReader: expected `name` of a tensor in ",
                               impl_->file.path().string(), ", got '", name,
                               "'. It holds: ", join(names), "."));
  }
  return impl_->read(found->second);
}

void FileReader::verify() const {
  for (size_t i = 0; i < impl_->entries.size(); ++i) impl_->read(i);
}

}  // namespace pomona
