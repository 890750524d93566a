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

}  // namespace

struct FileWriter::Impl {
  Impl(const std::filesystem::path& path, Coding how) : coding(how), file(path) {
    file.append(make_header());
  }
  void check_is_open() const {
    if (!file.is_open()) {
      throw InvalidArgument(
          "FileWriter: expected an open file, got one that was committed or met an error.");
    }
  }

  Coding coding;
  NewFile file;
  std::vector<TensorRecord> records;
  std::set<std::string, std::less<>> names;
};

FileWriter::FileWriter(std::filesystem::path path, Coding coding) {
  check_coding(coding);
  impl_ = std::make_unique<Impl>(path, coding);
}

FileWriter::~FileWriter() = default;

FileEntry FileWriter::add(const Weight& weight) {
  impl_->check_is_open();
  weight.check();
  if (weight.numel() > kMaxNumel) {
    throw InvalidArgument(text("FileWriter: expected '", weight.name,
                               "' to have at most 2^36 elements, got ", weight.numel(), "."));
  }
  if (impl_->names.contains(weight.name)) {
    throw InvalidArgument(
        text("FileWriter: expected names that differ, got '", weight.name, "' twice."));
  }
  TensorRecord record;
  const auto sections = encode_sections(weight, impl_->coding, record.entry);
  record.entry.offset = impl_->file.size();
  for (const Section section : kSections) {
    const auto& bytes = sections[static_cast<size_t>(section)];
    if (bytes.empty()) continue;
    record.checksums[static_cast<size_t>(section)] = crc32c(bytes);
    impl_->file.append(bytes);
  }
  impl_->names.insert(weight.name);
  impl_->records.push_back(std::move(record));
  return impl_->records.back().entry;
}

uint64_t FileWriter::commit() {
  impl_->check_is_open();
  const auto directory = write_directory(impl_->records);
  const auto footer = make_footer(impl_->file.size(), directory);
  impl_->file.append(directory);
  impl_->file.append(footer);
  impl_->file.commit();
  return impl_->file.size();
}

}  // namespace pomona
