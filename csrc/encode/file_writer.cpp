// Writes, in this order: header, sections, directory, footer. file_reader.cpp mirrors it; the
// pictures are in docs/format.md.
#include "pomona/encode.h"
#include "pomona/error.h"
#include "pomona/file.h"

#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/new_file.h"
#include "base/text.h"
#include "encode/directory.h"
#include "encode/sections.h"

#include <set>
#include <utility>

namespace pomona {
namespace {

std::vector<std::byte> make_header() {
  std::vector<std::byte> header;
  for (const uint8_t byte : kMagic) header.push_back(static_cast<std::byte>(byte));
  append_little_endian(header, kVersion);
  append_little_endian(header, uint16_t{0});  // flags
  append_little_endian(header, crc32c(header));
  return header;
}

std::vector<std::byte> make_footer(uint64_t directory_offset,
                                   std::span<const std::byte> directory) {
  std::vector<std::byte> footer;
  append_little_endian(footer, directory_offset);
  append_little_endian(footer, directory_offset + directory.size() + kFooterSize);
  append_little_endian(footer, crc32c(directory));
  append_little_endian(footer, crc32c(footer));
  return footer;
}

void check_coding(const Coding& coding) {
  if (coding.gap_bits == 0) return;
  if (coding.gap_bits < kMinGapBits || coding.gap_bits > kMaxGapBits) {
    throw InvalidArgument(text("FileWriter: expected `gap_bits` to be 0 or in ", kMinGapBits, "..",
                               kMaxGapBits, ", got ", coding.gap_bits, "."));
  }
}

void check_weight(const Weight& weight) {
  weight.check();
  if (weight.numel() > kMaxNumel) {
    throw InvalidArgument(text("FileWriter: expected '", weight.name,
                               "' to have at most 2^36 elements, got ", weight.numel(), "."));
  }
}

}  // namespace

struct FileWriter::Impl {
  Impl(const std::filesystem::path& path, Coding how) : coding(std::move(how)), file(path) {
    file.append(make_header());
  }
  void check_is_open() const {
    if (!file.is_open()) {
      throw InvalidArgument(
          "FileWriter: expected an open file, got one that was committed or met an error.");
    }
  }

  // Appends a section and returns its checksum.
  uint32_t append(std::span<const std::byte> section) {
    if (section.empty()) return 0;
    file.append(section);
    return crc32c(section);
  }

  Coding coding;
  NewFile file;
  Directory directory;
  std::string metadata;
  std::set<std::string, std::less<>> names;
};

FileWriter::FileWriter(std::filesystem::path path, Coding coding) {
  check_coding(coding);
  impl_ = std::make_unique<Impl>(path, std::move(coding));
}

FileWriter::~FileWriter() = default;

FileEntry coded_entry(const Weight& weight, const Coding& coding) {
  check_coding(coding);
  check_weight(weight);
  return encode_tensor(weight, coding).entry;
}

FileEntry FileWriter::add(const Weight& weight) {
  impl_->check_is_open();
  check_weight(weight);
  if (impl_->names.contains(weight.name)) {
    throw InvalidArgument(
        text("FileWriter: expected names that differ, got '", weight.name, "' twice."));
  }
  CodedTensor coded = encode_tensor(weight, impl_->coding);
  coded.entry.offset = impl_->file.size();
  const uint32_t checksum = impl_->append(coded.section);
  impl_->names.insert(weight.name);
  impl_->directory.tensors.push_back({std::move(coded.entry), checksum});
  return impl_->directory.tensors.back().entry;
}

void FileWriter::set_metadata(std::string json) {
  impl_->check_is_open();
  constexpr uint64_t kMost = uint64_t{1} << 32;
  if (json.size() > kMost) {
    throw InvalidArgument(
        text("FileWriter: expected metadata of at most 2^32 bytes, got ", json.size(), "."));
  }
  impl_->metadata = std::move(json);
}

uint64_t FileWriter::commit() {
  impl_->check_is_open();
  if (!impl_->metadata.empty()) {
    const uint32_t checksum = impl_->append(std::as_bytes(std::span(impl_->metadata)));
    impl_->directory.extras.push_back(
        {.kind = kMetadata, .size = impl_->metadata.size(), .checksum = checksum});
  }
  const auto directory = write_directory(impl_->directory);
  const auto footer = make_footer(impl_->file.size(), directory);
  impl_->file.append(directory);
  impl_->file.append(footer);
  impl_->file.commit();
  return impl_->file.size();
}

}  // namespace pomona
