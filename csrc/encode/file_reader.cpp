// Reads header, footer and directory when a file is opened, sections when they are asked for.
// Mirrors file_writer.cpp; the pictures are in docs/format.md.
#include "pomona/error.h"
#include "pomona/file.h"

#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/mapped_file.h"
#include "base/text.h"
#include "encode/directory.h"
#include "encode/sections.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>

namespace pomona {
namespace {

constexpr const char* kWrongChecksum =
    "a right checksum, got a wrong one; the file is damaged or cut short";

// Fuzzers never get past checksums, so their builds (tests/fuzz) do without.
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr bool kChecksChecksums = false;
#else
constexpr bool kChecksChecksums = true;
#endif
bool is_wrong(uint32_t checksum, uint32_t stored) {
  return kChecksChecksums && checksum != stored;
}

[[noreturn]] void refuse(const MappedFile& file, std::string_view section, uint64_t offset,
                         const std::string& what) {
  throw CorruptFile(std::string(section), offset,
                    text("expected ", what, " (", file.path().string(), ")"));
}

// The checksum that stands in the last four bytes, of all bytes before it.
void check_own_checksum(const MappedFile& file, std::string_view section, uint64_t offset,
                        std::span<const std::byte> bytes) {
  const auto covered = bytes.first(bytes.size() - 4);
  const auto stored = load_little_endian<uint32_t>(bytes.data() + covered.size());
  if (is_wrong(crc32c(covered), stored)) refuse(file, section, offset, kWrongChecksum);
}

void check_magic(const MappedFile& file, std::span<const std::byte> bytes) {
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

void check_header(const MappedFile& file) {
  const auto header = file.bytes().first(std::min(kHeaderSize, file.bytes().size()));
  check_magic(file, header);
  if (header.size() < kHeaderSize) {
    refuse(file, "header", header.size(),
           text("a header of ", kHeaderSize, " bytes, got a file of ", header.size()));
  }
  check_own_checksum(file, "header", 0, header);
  const auto version = load_little_endian<uint16_t>(header.data() + 8);
  const auto flags = load_little_endian<uint16_t>(header.data() + 10);
  if (version < kVersion) {
    refuse(file, "header", 8,
           text("version ", kVersion, ", got ", version, ", which was never released"));
  }
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

Footer read_footer(const MappedFile& file) {
  if (file.bytes().size() < kHeaderSize + kFooterSize) {
    refuse(file, "footer", file.bytes().size(),
           text("a file of at least ", kHeaderSize + kFooterSize, " bytes, got ",
                file.bytes().size()));
  }
  const uint64_t offset = file.bytes().size() - kFooterSize;
  const auto bytes = file.bytes().subspan(offset);
  check_own_checksum(file, "footer", offset, bytes);
  const auto directory_offset = load_little_endian<uint64_t>(bytes.data());
  const auto file_size = load_little_endian<uint64_t>(bytes.data() + 8);
  if (file_size != file.bytes().size()) {
    refuse(file, "footer", offset + 8,
           text("a file of ", file_size, " bytes, got ", file.bytes().size()));
  }
  if (directory_offset < kHeaderSize || directory_offset > offset) {
    refuse(file, "footer", offset,
           text("a directory between byte ", kHeaderSize, " and ", offset, ", got ",
                directory_offset));
  }
  return {directory_offset, offset - directory_offset,
          load_little_endian<uint32_t>(bytes.data() + 16)};
}

// Checks a section without leaving it in memory: its pages come back as they are decoded.
void check_section(const MappedFile& file, std::span<const std::byte> section, uint32_t checksum,
                   std::string_view name) {
  constexpr size_t kBlock = size_t{1} << 22;
  uint32_t crc = 0;
  for (size_t at = 0; at < section.size(); at += kBlock) {
    const auto block = section.subspan(at, std::min(kBlock, section.size() - at));
    crc = crc32c(block, crc);
    if (section.size() > kBlock) file.release(block);
  }
  if (is_wrong(crc, checksum)) {
    refuse(file, name, static_cast<uint64_t>(section.data() - file.bytes().data()), kWrongChecksum);
  }
}

}  // namespace

struct FileReader::Impl {
  explicit Impl(const std::filesystem::path& path) : file(path) {
    check_header(file);
    const Footer footer = read_footer(file);
    const auto bytes = file.bytes().subspan(footer.directory_offset, footer.directory_size);
    if (is_wrong(crc32c(bytes), footer.directory_checksum)) {
      refuse(file, "directory", footer.directory_offset, kWrongChecksum);
    }
    Directory directory = read_directory(bytes, footer.directory_offset);
    for (auto& record : directory.tensors) {
      index_of.emplace(record.entry.name, entries.size());
      entries.push_back(std::move(record.entry));
      checksums.push_back(record.checksum);
    }
    for (const ExtraSection& extra : directory.extras) {
      const auto section = file.bytes().subspan(extra.offset, extra.size);
      if (extra.kind != kMetadata) continue;
      check_section(file, section, extra.checksum, "metadata");
      metadata.assign(reinterpret_cast<const char*>(section.data()), section.size());
    }
  }

  size_t index(std::string_view name) const {
    const auto found = index_of.find(name);
    if (found != index_of.end()) return found->second;
    std::vector<std::string> names;
    for (const auto& entry : entries) names.push_back(entry.name);
    throw InvalidArgument(text("FileReader: expected `name` of a tensor in ", file.path().string(),
                               ", got '", name, "'. It holds: ", join(names), "."));
  }

  // Checked against its checksum, when it is asked for.
  TensorDecoder decoder(size_t index) const {
    const FileEntry& entry = entries[index];
    const auto section = file.bytes().subspan(entry.offset, entry.bytes());
    check_section(file, section, checksums[index], entry.name);
    return TensorDecoder(entry, section);
  }

  void decode_all(std::span<const size_t> indices, std::span<const std::span<std::byte>> targets,
                  const ParallelFor& parallel, const std::function<void(uint64_t)>& progress) const;

  MappedFile file;
  std::vector<FileEntry> entries;
  std::vector<uint32_t> checksums;
  std::map<std::string, size_t, std::less<>> index_of;
  std::string metadata;
};

// Threads take chunks, of whichever tensor; targets are empty when they are only checked.
void FileReader::Impl::decode_all(std::span<const size_t> indices,
                                  std::span<const std::span<std::byte>> targets,
                                  const ParallelFor& parallel,
                                  const std::function<void(uint64_t)>& progress) const {
  std::vector<std::optional<TensorDecoder>> decoders(indices.size());
  run_tasks(parallel, indices.size(), [&](int64_t t) {
    decoders[static_cast<size_t>(t)].emplace(decoder(indices[static_cast<size_t>(t)]));
  });
  struct Task {
    size_t tensor, chunk;
  };
  std::vector<Task> tasks;
  for (size_t t = 0; t < decoders.size(); ++t) {
    for (size_t c = 0; c < decoders[t]->chunk_count(); ++c) tasks.push_back({t, c});
  }
  std::mutex mutex;
  std::vector<int64_t> kept(indices.size());
  uint64_t done = 0;
  run_tasks(parallel, tasks.size(), [&](int64_t i) {
    const auto [tensor, c] = tasks[static_cast<size_t>(i)];
    const TensorDecoder& decoder = *decoders[tensor];
    const auto item = static_cast<size_t>(item_size(entries[indices[tensor]].dtype));
    const Chunk& chunk = decoder.chunk(c);
    const auto begin = static_cast<size_t>(chunk.begin) * item;
    const auto size = static_cast<size_t>(chunk.size) * item;
    int64_t its_kept = 0;
    if (targets.empty()) {
      its_kept = decoder.decode(c).mask.kept();
    } else {
      its_kept = decoder.decode_into(c, targets[tensor].subspan(begin, size));
    }
    file.release(decoder.bytes_of(c));
    const std::scoped_lock lock(mutex);
    kept[tensor] += its_kept;
    done += size;
    if (progress) progress(done);
  });
  for (size_t t = 0; t < indices.size(); ++t) {
    const FileEntry& entry = entries[indices[t]];
    if (kept[t] != entry.kept) {
      refuse(file, part_name(entry, "codes"), entry.offset,
             text(entry.kept, " kept weights, got ", kept[t]));
    }
  }
}

FileReader::FileReader(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
FileReader::~FileReader() = default;
FileReader::FileReader(FileReader&&) noexcept = default;

const std::vector<FileEntry>& FileReader::entries() const {
  return impl_->entries;
}

uint64_t FileReader::size() const {
  return impl_->file.bytes().size();
}

bool FileReader::contains(std::string_view name) const {
  return impl_->index_of.contains(name);
}

const std::string& FileReader::metadata() const {
  return impl_->metadata;
}

Weight FileReader::read(std::string_view name, const ParallelFor& parallel) const {
  const size_t index = impl_->index(name);
  Weight weight = impl_->decoder(index).weight(parallel);
  const FileEntry& entry = impl_->entries[index];
  impl_->file.release(impl_->file.bytes().subspan(entry.offset, entry.bytes()));
  return weight;
}

void FileReader::read_into(std::span<const Target> targets, const ParallelFor& parallel,
                           const std::function<void(uint64_t)>& progress) const {
  std::vector<size_t> indices;
  std::vector<std::span<std::byte>> memory;
  for (const Target& target : targets) {
    indices.push_back(impl_->index(target.name));
    const FileEntry& entry = impl_->entries[indices.back()];
    const auto size = static_cast<uint64_t>(entry.numel * item_size(entry.dtype));
    if (target.dense.size() != size) {
      throw InvalidArgument(text("FileReader: expected `dense` of ", size, " bytes for '",
                                 target.name, "', got ", target.dense.size(), "."));
    }
    // A tensor without weights has no chunks.
    if (entry.kept == 0 && size > 0) std::memset(target.dense.data(), 0, size);
    memory.push_back(target.dense);
  }
  impl_->decode_all(indices, memory, parallel, progress);
}

void FileReader::verify(const ParallelFor& parallel,
                        const std::function<void(uint64_t)>& progress) const {
  std::vector<size_t> indices(impl_->entries.size());
  std::iota(indices.begin(), indices.end(), size_t{0});
  impl_->decode_all(indices, {}, parallel, progress);
}

void FileReader::verify(std::span<const std::string> names, const ParallelFor& parallel) const {
  std::vector<size_t> indices;
  for (const std::string& name : names) indices.push_back(impl_->index(name));
  impl_->decode_all(indices, {}, parallel, {});
}

std::string_view coder_name(Coder coder) {
  constexpr std::array<std::string_view, 4> kNames{"fixed", "huffman", "rans", "context"};
  return kNames.at(static_cast<size_t>(coder));
}

std::string_view positions_name(Positions kind) {
  constexpr std::array<std::string_view, 5> kNames{"none", "gaps", "bitmask", "context",
                                                   "in codes"};
  return kNames.at(static_cast<size_t>(kind));
}

}  // namespace pomona
