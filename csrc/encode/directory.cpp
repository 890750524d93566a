#include "encode/directory.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/little_endian.h"
#include "base/text.h"
#include "base/varint.h"
#include "encode/chunks.h"
#include "encode/codebooks.h"
#include "format/find_codebooks.h"

#include <limits>
#include <set>

namespace pomona {
namespace {

// The byte `storage`: positions, coder of gaps, coder of codes, whether there are chunks.
constexpr int kPositionCoderAt = 3;
constexpr int kCodeCoderAt = 5;
constexpr int kIsChunkedAt = 7;
// The byte `codebook`.
constexpr int kIsGroupedAt = 3;
constexpr int kIsPlainAt = 4;
// The byte `values`.
constexpr int kHasDistanceAt = 1;

bool has_codes(const FileEntry& entry) {
  return entry.centroids >= 2 || entry.positions == Positions::kInCodes;
}

bool has_position_size(const FileEntry& entry) {
  return entry.positions == Positions::kGaps || entry.positions == Positions::kContext;
}

int64_t codebook_entries(const FileEntry& entry) {
  const int64_t groups = entry.group == 0 ? 1 : (entry.numel + entry.group - 1) / entry.group;
  return groups * entry.centroids;
}

uint8_t storage_byte(const FileEntry& entry) {
  return static_cast<uint8_t>(static_cast<int>(entry.positions) |
                              static_cast<int>(entry.position_coder) << kPositionCoderAt |
                              static_cast<int>(entry.code_coder) << kCodeCoderAt |
                              static_cast<int>(entry.chunk != 0) << kIsChunkedAt);
}

void append_codebook(std::vector<std::byte>& bytes, const FileEntry& entry) {
  bytes.push_back(static_cast<std::byte>(static_cast<int>(entry.codebook_form) |
                                         static_cast<int>(entry.group != 0) << kIsGroupedAt |
                                         static_cast<int>(entry.is_plain) << kIsPlainAt));
  if (entry.group != 0) append_varint(bytes, static_cast<uint64_t>(entry.group));
  if (!fixed_codebook_size(entry.codebook_form, entry.dtype, codebook_entries(entry))) {
    append_varint(bytes, entry.codebook_bytes);
  }
}

void append_storage(std::vector<std::byte>& bytes, const FileEntry& entry) {
  const auto put = [&](auto value) { append_varint(bytes, static_cast<uint64_t>(value)); };
  put(entry.centroids);
  bytes.push_back(static_cast<std::byte>(storage_byte(entry)));
  if (entry.centroids > 0) {
    append_codebook(bytes, entry);
  } else {
    bytes.push_back(
        static_cast<std::byte>(static_cast<int>(entry.value_form) |
                               static_cast<int>(entry.distance != 0) << kHasDistanceAt));
    if (entry.distance != 0) put(entry.distance);
  }
  if (entry.positions == Positions::kGaps) {
    bytes.push_back(static_cast<std::byte>(entry.gap_bits));
    put(entry.fillers);
  }
  if (has_position_size(entry)) put(entry.position_bytes);
  if (has_codes(entry)) put(entry.code_bytes);
  if (entry.centroids == 0 && entry.value_form != ValueForm::kRaw) put(entry.value_bytes);
  if (entry.chunk != 0) {
    put(entry.chunk);
    put(entry.chunk_bytes);
  }
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
  if (entry.kept == 0) return;
  append_storage(bytes, entry);
  if (entry.bytes() > 0) append_little_endian(bytes, record.checksum);
}

// Reads field by field; each either is what it may be or is refused with its place in the file.
class DirectoryParser {
 public:
  DirectoryParser(std::span<const std::byte> bytes, uint64_t offset)
      : bytes_(bytes), offset_(offset), next_section_(kHeaderSize) {}

  Directory parse() {
    Directory directory;
    const int64_t count = number("the number of tensors");
    std::set<std::string, std::less<>> names;
    for (int64_t i = 0; i < count; ++i) {
      directory.tensors.push_back(parse_record());
      const auto& name = directory.tensors.back().entry.name;
      if (!names.insert(name).second) refuse(text("names that differ, got '", name, "' twice"));
    }
    const int64_t extras = number("the number of other sections");
    for (int64_t i = 0; i < extras; ++i) directory.extras.push_back(parse_extra());
    if (at_ != bytes_.size()) {
      refuse(text("no bytes after the last entry, got ", bytes_.size() - at_));
    }
    if (next_section_ != offset_) {
      refuse(text("sections that end where the directory begins, got an end at ", next_section_));
    }
    return directory;
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

  int byte_up_to(int most, std::string_view what) {
    const auto value = static_cast<int>(take(1, what)[0]);
    if (value > most) refuse(text(what, " of at most ", most, ", got ", value));
    return value;
  }

  int64_t number(std::string_view what) {
    const auto value = read_varint(bytes_, at_);
    if (!value) refuse(text(what, ", got no varint"));
    return static_cast<int64_t>(*value);
  }

  int64_t number_in(int64_t least, int64_t most, std::string_view what) {
    const int64_t value = number(what);
    if (value < least || value > most) {
      refuse(text(what, " in ", least, "..", most, ", got ", value));
    }
    return value;
  }

  // Of a part that is there: the file has its bytes, and only the context coder may need none.
  uint64_t part_size(std::string_view what, bool is_in_context = false) {
    return static_cast<uint64_t>(
        number_in(is_in_context ? 0 : 1, static_cast<int64_t>(offset_), what));
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

  void parse_codebook(FileEntry& entry) {
    const int form = byte_up_to(31, "the form of codebooks");
    constexpr int kForms = 1 << kIsGroupedAt;
    if (form % kForms > static_cast<int>(CodebookForm::kPlanes)) {
      refuse(text("a form of codebooks in 0..5, got ", form % kForms));
    }
    entry.codebook_form = static_cast<CodebookForm>(form % kForms);
    entry.is_plain = (form >> kIsPlainAt & 1) != 0;
    if ((form >> kIsGroupedAt & 1) != 0) {
      entry.group = number_in(1, entry.numel - 1, "the weights that share a codebook");
    }
    const bool is_small = entry.codebook_form != CodebookForm::kPlanes;
    const bool fits = entry.group == 0
                          ? is_small
                          : entry.codebook_form != CodebookForm::kProgression && !entry.is_plain;
    const bool is_narrowed = entry.codebook_form == CodebookForm::kBFloat16 ||
                             entry.codebook_form == CodebookForm::kFloat16 ||
                             entry.codebook_form == CodebookForm::kFixed16;
    if (!fits || (is_narrowed && entry.dtype != DType::kFloat32)) {
      refuse(text("a form of codebooks that goes with the tensor, got ", form));
    }
    const int64_t entries = codebook_entries(entry);
    const auto size = fixed_codebook_size(entry.codebook_form, entry.dtype, entries);
    entry.codebook_bytes = size ? *size : part_size("the size of the codebooks");
  }

  void parse_value_form(FileEntry& entry) {
    const int form = byte_up_to(3, "the form of values");
    entry.value_form = static_cast<ValueForm>(form & 1);
    if ((form >> kHasDistanceAt & 1) == 0) return;
    if (entry.value_form != ValueForm::kPlanes || entry.kept != entry.numel) {
      refuse("a distance beside planes of all weights only, got one");
    }
    entry.distance = number_in(1, entry.numel - 1, "the distance");
  }

  void parse_storage_byte(FileEntry& entry) {
    const auto storage = static_cast<int>(take(1, "the storage")[0]);
    constexpr int kKinds = 1 << kPositionCoderAt;
    const int positions = storage % kKinds;
    if (positions > static_cast<int>(Positions::kInCodes)) {
      refuse(text("positions of a kind in 0..4, got ", positions));
    }
    entry.positions = static_cast<Positions>(positions);
    entry.position_coder = static_cast<Coder>(storage >> kPositionCoderAt & 3);
    entry.code_coder = static_cast<Coder>(storage >> kCodeCoderAt & 3);
    entry.chunk = storage >> kIsChunkedAt;  // its size follows
    const bool is_pruned = entry.kept < entry.numel;
    const bool in_codes = entry.positions == Positions::kInCodes;
    const bool fits =
        (entry.positions != Positions::kNone) == is_pruned &&
        !(in_codes && (entry.centroids == 0 || entry.centroids >= kMaxFileCentroids)) &&
        !(in_codes && entry.code_coder == Coder::kContext) &&
        (entry.positions == Positions::kGaps ? entry.position_coder != Coder::kContext
                                             : entry.position_coder == Coder::kFixed) &&
        (has_codes(entry) || entry.code_coder == Coder::kFixed);
    if (!fits) refuse(text("a storage that goes with the tensor, got ", storage));
  }

  void parse_sizes(FileEntry& entry) {
    if (entry.positions == Positions::kGaps) {
      entry.gap_bits = byte_up_to(kMaxGapBits, "the gap bits");
      if (entry.gap_bits < kMinGapBits) refuse(text("gap bits in 2..16, got ", entry.gap_bits));
      entry.fillers = number_in(0, entry.numel >> entry.gap_bits, "the number of fillers");
    }
    if (has_position_size(entry)) {
      entry.position_bytes =
          part_size("the size of the positions", entry.positions == Positions::kContext);
    }
    if (entry.positions == Positions::kBitmask) {
      entry.position_bytes = static_cast<uint64_t>(entry.numel + 7) / 8;
    }
    if (has_codes(entry)) {
      entry.code_bytes = part_size("the size of the codes", entry.code_coder == Coder::kContext);
    }
    if (entry.centroids == 0) {
      entry.value_bytes =
          entry.value_form == ValueForm::kRaw
              ? static_cast<uint64_t>(entry.kept) * static_cast<uint64_t>(item_size(entry.dtype))
              : part_size("the size of the values");
    }
  }

  void parse_chunks(FileEntry& entry) {
    const bool is_chunked = entry.chunk != 0;
    if (!is_chunked && entry.numel > kMaxChunk) {
      refuse("chunks of a tensor of more than 2^24 elements, got none");
    }
    if (is_chunked) entry.chunk = number_in(kMinChunk, kMaxChunk, "the elements of a chunk");
    const bool is_in_context =
        entry.positions == Positions::kContext || entry.code_coder == Coder::kContext;
    const int64_t elements = is_chunked ? entry.chunk : entry.numel;
    const bool cuts = !is_chunked || (elements < entry.numel && elements % kChunkAlignment == 0);
    if (!cuts || (is_in_context && !fits_context(coded_matrix(entry.shape), elements))) {
      refuse(text("chunks that cut the tensor and that its coders take, got ", elements, " of ",
                  entry.numel, " elements"));
    }
    if (!is_chunked) return;
    entry.chunk_bytes = static_cast<uint64_t>(
        number_in(0, static_cast<int64_t>(offset_), "the size of the table of chunks"));
    // A byte or more of each chunk, but where all sizes are known: so few bytes, so few chunks.
    const bool has_table = entry.positions != Positions::kNone || entry.centroids > 1 ||
                           entry.value_form == ValueForm::kPlanes;
    const int64_t count = chunk_count(entry.numel, entry.chunk);
    if (has_table && static_cast<uint64_t>(count) > entry.chunk_bytes) {
      refuse(text("a table of at least ", count, " bytes for as many chunks, got ",
                  entry.chunk_bytes));
    }
  }

  void parse_storage(FileEntry& entry) {
    entry.centroids = number_in(0, kMaxFileCentroids, "the number of centroids");
    if (entry.centroids > 0 && !may_be_shared(entry.dtype)) {
      refuse(text("no centroids beside ", dtype_name(entry.dtype), ", got ", entry.centroids));
    }
    parse_storage_byte(entry);
    entry.centroids > 0 ? parse_codebook(entry) : parse_value_form(entry);
    parse_sizes(entry);
    parse_chunks(entry);
  }

  void place(uint64_t size, const std::string& name) {
    if (size > offset_ - next_section_) {
      refuse(text("sections before byte ", offset_, ", got ", size, " bytes of ", name,
                  " from byte ", next_section_, " on"));
    }
    next_section_ += size;
  }

  TensorRecord parse_record() {
    TensorRecord record;
    FileEntry& entry = record.entry;
    const int64_t name_size = number("the size of a name");
    const auto name = take(static_cast<size_t>(name_size), "a name");
    entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    entry.dtype = static_cast<DType>(byte_up_to(kDTypeCount - 1, "a dtype"));
    parse_shape(entry);
    entry.kept = number_in(0, entry.numel, "the number of kept weights");
    entry.offset = next_section_;
    if (entry.kept == 0) return record;
    parse_storage(entry);
    place(entry.bytes(), entry.name);
    if (entry.bytes() > 0) {
      record.checksum = load_little_endian<uint32_t>(take(4, "a checksum").data());
    }
    return record;
  }

  ExtraSection parse_extra() {
    ExtraSection extra;
    extra.kind = static_cast<uint64_t>(number("the kind of a section"));
    extra.offset = next_section_;
    extra.size = part_size("the size of a section");
    place(extra.size, "another section");
    extra.checksum = load_little_endian<uint32_t>(take(4, "a checksum").data());
    if (extra.kind % 2 != 0) {
      throw InvalidArgument(text("FileReader: expected sections of kinds that it knows, got kind ",
                                 extra.kind, ". It was written by a newer version of pomona."));
    }
    return extra;
  }

  std::span<const std::byte> bytes_;
  uint64_t offset_;        // of the directory in the file
  uint64_t next_section_;  // where the next section begins
  size_t at_ = 0;
};

}  // namespace

std::string part_name(const FileEntry& entry, std::string_view part) {
  return text(entry.name, '/', part);
}

std::vector<std::byte> write_directory(const Directory& directory) {
  std::vector<std::byte> bytes;
  append_varint(bytes, directory.tensors.size());
  for (const auto& record : directory.tensors) append_record(bytes, record);
  append_varint(bytes, directory.extras.size());
  for (const auto& extra : directory.extras) {
    append_varint(bytes, extra.kind);
    append_varint(bytes, extra.size);
    append_little_endian(bytes, extra.checksum);
  }
  return bytes;
}

Directory read_directory(std::span<const std::byte> bytes, uint64_t offset) {
  return DirectoryParser(bytes, offset).parse();
}

}  // namespace pomona
