#include "encode/directory.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/little_endian.h"
#include "base/text.h"
#include "base/varint.h"

#include <set>

namespace pomona {
namespace {

bool has_code_size(const FileEntry& entry) {
  return entry.centroids >= 2 && entry.kept > 0;
}

void append_record(std::vector<std::byte>& bytes, const TensorRecord& record) {
  const FileEntry& entry = record.entry;
  const auto put = [&](auto value) { append_varint(bytes, static_cast<uint64_t>(value)); };
  put(entry.name.size());
  const auto* name = reinterpret_cast<const std::byte*>(entry.name.data());
  bytes.insert(bytes.end(), name, name + entry.name.size());
  bytes.push_back(static_cast<std::byte>(entry.dtype));
  put(entry.shape.size());
  for (const int64_t size : entry.shape) put(size);
  put(entry.kept);
  put(entry.centroids);
  bytes.push_back(static_cast<std::byte>(entry.gap_bits));
  if (entry.gap_bits > 0) {
    put(entry.fillers);
    put(entry.position_bytes);
  }
  if (has_code_size(entry)) put(entry.code_bytes);
  for (const Section section : kSections) {
    if (section_size(entry, section) == 0) continue;
    append_little_endian(bytes, record.checksums[static_cast<size_t>(section)]);
  }
}

// Reads field by field; each either is what it may be or is refused with its place in the file.
class DirectoryParser {
 public:
  DirectoryParser(std::span<const std::byte> bytes, uint64_t offset)
      : bytes_(bytes), offset_(offset), next_section_(kHeaderSize) {}

  std::vector<TensorRecord> parse() {
    const int64_t count = number("the number of tensors");
    std::vector<TensorRecord> records;
    std::set<std::string, std::less<>> names;
    for (int64_t i = 0; i < count; ++i) {
      records.push_back(parse_record());
      if (!names.insert(records.back().entry.name).second) {
        refuse(text("names that differ, got '", records.back().entry.name, "' twice"));
      }
    }
    if (at_ != bytes_.size()) {
      refuse(text("no bytes after the last entry, got ", bytes_.size() - at_));
    }
    if (next_section_ != offset_) {
      refuse(text("sections that end where the directory begins, got an end at ", next_section_));
    }
    return records;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw CorruptFile("directory", offset_ + at_, "expected " + what);
  }

  std::span<const std::byte> take(size_t size, std::string_view what) {
    if (size > bytes_.size() - at_) refuse(text(what, ", got the end of the directory"));
    at_ += size;
    return bytes_.subspan(at_ - size, size);
  }

  int64_t number(std::string_view what) {
    const auto value = read_varint(bytes_, at_);
    if (!value) refuse(text(what, ", got no varint"));
    return static_cast<int64_t>(*value);
  }

  int64_t number_up_to(int64_t most, std::string_view what) {
    const int64_t value = number(what);
    if (value > most) refuse(text(what, " of at most ", most, ", got ", value));
    return value;
  }

  void parse_shape(FileEntry& entry) {
    const int64_t dimensions = number("the number of dimensions");
    bool is_empty = false, is_too_large = false;
    entry.numel = 1;
    for (int64_t d = 0; d < dimensions; ++d) {
      const int64_t size = number("a size of the shape");
      entry.shape.push_back(size);
      is_empty |= size == 0;
      is_too_large |= size > 0 && entry.numel > kMaxNumel / size;
      if (!is_empty && !is_too_large) entry.numel *= size;
    }
    if (is_empty) entry.numel = 0;
    if (!is_empty && is_too_large) refuse("a shape of at most 2^36 elements, got more");
  }

  void parse_centroids(FileEntry& entry) {
    entry.centroids = number_up_to(kMaxFileCentroids, "the number of centroids");
    const bool may_be_shared = entry.dtype == DType::kFloat32 || entry.dtype == DType::kFloat16 ||
                               entry.dtype == DType::kBFloat16;
    if (entry.centroids > 0 && !may_be_shared) {
      refuse(text("no centroids beside ", dtype_name(entry.dtype), ", got ", entry.centroids));
    }
  }

  void parse_positions(FileEntry& entry) {
    entry.gap_bits = static_cast<int>(take(1, "the gap bits")[0]);
    const bool is_pruned = entry.kept > 0 && entry.kept < entry.numel;
    const bool fits = is_pruned ? entry.gap_bits >= kMinGapBits && entry.gap_bits <= kMaxGapBits
                                : entry.gap_bits == 0;
    if (!fits) {
      refuse(text("gap bits of 2..8 when some weights are pruned and 0 otherwise, got ",
                  entry.gap_bits, " with ", entry.kept, " of ", entry.numel, " kept"));
    }
    if (!is_pruned) return;
    entry.fillers = number_up_to(entry.numel >> entry.gap_bits, "the number of fillers");
    entry.position_bytes = section_bytes("the size of the positions");
  }

  uint64_t section_bytes(std::string_view what) {
    const int64_t size = number(what);
    if (size == 0) refuse(text(what, " above 0, got 0"));
    return static_cast<uint64_t>(size);
  }

  void place_sections(FileEntry& entry) {
    entry.offset = next_section_;
    for (const Section section : kSections) {
      const uint64_t size = section_size(entry, section);
      if (size > offset_ - next_section_) {
        refuse(text("sections before byte ", offset_, ", got ", size, " bytes of ",
                    section_name(entry, section), " from byte ", next_section_, " on"));
      }
      next_section_ += size;
    }
  }

  TensorRecord parse_record() {
    TensorRecord record;
    FileEntry& entry = record.entry;
    const int64_t name_size = number("the size of a name");
    const auto name = take(static_cast<size_t>(name_size), "a name");
    entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    const auto dtype = static_cast<int>(take(1, "a dtype")[0]);
    if (dtype >= kDTypeCount) refuse(text("a dtype below ", kDTypeCount, ", got ", dtype));
    entry.dtype = static_cast<DType>(dtype);
    parse_shape(entry);
    entry.kept = number_up_to(entry.numel, "the number of kept weights");
    parse_centroids(entry);
    parse_positions(entry);
    if (has_code_size(entry)) entry.code_bytes = section_bytes("the size of the codes");
    const auto item = static_cast<uint64_t>(item_size(entry.dtype));
    entry.codebook_bytes = static_cast<uint64_t>(entry.centroids) * item;
    entry.value_bytes = entry.centroids == 0 ? static_cast<uint64_t>(entry.kept) * item : 0;
    place_sections(entry);
    for (const Section section : kSections) {
      if (section_size(entry, section) == 0) continue;
      record.checksums[static_cast<size_t>(section)] =
          load_little_endian<uint32_t>(take(4, "a checksum").data());
    }
    return record;
  }

  std::span<const std::byte> bytes_;
  uint64_t offset_;        // of the directory in the file
  uint64_t next_section_;  // where the next section begins
  size_t at_ = 0;
};

}  // namespace

uint64_t section_size(const FileEntry& entry, Section section) {
  switch (section) {
    case Section::kCodebook:
      return entry.codebook_bytes;
    case Section::kPositions:
      return entry.position_bytes;
    case Section::kCodes:
      return entry.code_bytes;
    case Section::kValues:
      return entry.value_bytes;
  }
  return 0;
}

std::string section_name(const FileEntry& entry, Section section) {
  return text(entry.name, '/', kSectionNames[static_cast<size_t>(section)]);
}

std::vector<std::byte> write_directory(std::span<const TensorRecord> records) {
  std::vector<std::byte> bytes;
  append_varint(bytes, records.size());
  for (const auto& record : records) append_record(bytes, record);
  return bytes;
}

std::vector<TensorRecord> read_directory(std::span<const std::byte> bytes, uint64_t offset) {
  return DirectoryParser(bytes, offset).parse();
}

}  // namespace pomona
