#include "nn/packed_cache.h"

#include "pomona/error.h"

#include "base/crc32c.h"
#include "base/isa.h"
#include "base/little_endian.h"
#include "base/new_file.h"
#include "base/text.h"
#include "base/varint.h"
#include "infer/packed_matrix.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace pomona {
namespace {

constexpr std::array kMagic = {'P', 'O', 'M', 'C', 'A', 'C', 'H', 'E'};
constexpr uint64_t kAlignment = 64;
// Of a .pomona file: where its size and the checksum of its directory stand, which has those of all
// tensors.
constexpr size_t kFooterBytes = 24;

struct Header {
  std::array<char, 8> magic = kMagic;
  uint64_t key_bytes = 0, directory_bytes = 0;
  uint64_t file_bytes = 0;
  uint64_t checksum = 0;  // of header (with 0 here), key and directory
  uint64_t reserved[3] = {};
};
static_assert(sizeof(Header) == 64);

uint64_t aligned(uint64_t at) {
  return (at + kAlignment - 1) / kAlignment * kAlignment;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

uint32_t checksum_of(Header header, std::span<const std::byte> key_and_directory) {
  header.checksum = 0;
  return crc32c(key_and_directory, crc32c(std::as_bytes(std::span(&header, 1))));
}

std::vector<std::byte> directory_of(std::span<const CachedTensor> tensors) {
  std::vector<std::byte> bytes;
  append_varint(bytes, tensors.size());
  for (const CachedTensor& tensor : tensors) {
    append_varint(bytes, tensor.name.size());
    const auto name = bytes_of(tensor.name);
    bytes.insert(bytes.end(), name.begin(), name.end());
    append_varint(bytes, tensor.is_packed ? 1 : 0);
    append_varint(bytes, static_cast<uint64_t>(tensor.dtype));
    append_varint(bytes, tensor.shape.size());
    for (const int64_t size : tensor.shape) append_varint(bytes, static_cast<uint64_t>(size));
    append_varint(bytes, tensor.bytes.size());
  }
  return bytes;
}

// The directory's entries one after the other; its checksum held, so what is wrong now is of
// another version or forged.
class Directory {
 public:
  Directory(std::span<const std::byte> bytes, std::span<std::byte> file, uint64_t tensors_at)
      : bytes_(bytes), file_(file), at_(tensors_at) {}

  std::optional<std::vector<CachedTensor>> read() {
    const uint64_t count = number();
    std::vector<CachedTensor> tensors;
    for (uint64_t i = 0; is_good_ && i < count; ++i) tensors.push_back(entry());
    is_good_ &= position_ == bytes_.size() && at_ == file_.size();
    if (!is_good_) return std::nullopt;
    return tensors;
  }

 private:
  uint64_t number() {
    const auto value = read_varint(bytes_, position_);
    is_good_ &= value.has_value();
    return value.value_or(0);
  }

  CachedTensor entry() {
    CachedTensor tensor;
    const uint64_t length = number();
    if (!is_good_ || length > bytes_.size() - position_) {
      is_good_ = false;
      return tensor;
    }
    tensor.name.assign(reinterpret_cast<const char*>(bytes_.data()) + position_, length);
    position_ += length;
    tensor.is_packed = number() == 1;
    const uint64_t dtype = number(), dimensions = number();
    is_good_ &= dtype < static_cast<uint64_t>(kDTypeCount);
    if (!is_good_) return tensor;
    tensor.dtype = static_cast<DType>(dtype);
    const auto item = static_cast<uint64_t>(item_size(tensor.dtype));
    constexpr uint64_t kMostExtent = uint64_t{1} << 60;
    uint64_t expected = item, extent = item;  // as if no size were 0: strides must fit too
    for (uint64_t d = 0; is_good_ && d < dimensions; ++d) {
      const uint64_t size = number();
      is_good_ &= size == 0 || (expected <= file_.size() / size && extent <= kMostExtent / size);
      if (!is_good_) return tensor;
      expected *= size;
      extent *= std::max<uint64_t>(size, 1);
      tensor.shape.push_back(static_cast<int64_t>(size));
    }
    const uint64_t size = number();
    is_good_ &= size == expected && at_ <= file_.size() && size <= file_.size() - at_;
    if (!is_good_) return tensor;
    tensor.bytes = file_.subspan(at_, size);
    at_ = std::min<uint64_t>(aligned(at_ + size), file_.size());
    return tensor;
  }

  std::span<const std::byte> bytes_;
  std::span<std::byte> file_;
  uint64_t at_;
  size_t position_ = 0;
  bool is_good_ = true;
};

bool is_packed_well(const CachedTensor& tensor) {
  if (!tensor.is_packed) return true;
  if (tensor.dtype != DType::kUInt8 || tensor.shape.size() != 1) return false;
  try {
    PackedMatrix::check(tensor.bytes);
    return true;
  } catch (const InvalidArgument&) {
    return false;  // the cache is made anew
  }
}

}  // namespace

std::string packed_cache_key(const std::filesystem::path& file, const Packing& packing) {
  const MappedFile mapped(file);
  const auto footer = mapped.bytes().last(std::min(mapped.bytes().size(), kFooterBytes));
  std::string key = text("pomona ", version(), ", ", mapped.bytes().size(), " bytes, ");
  constexpr char kDigits[] = "0123456789abcdef";
  for (const std::byte byte : footer) {
    key += kDigits[std::to_integer<int>(byte) >> 4];
    key += kDigits[std::to_integer<int>(byte) & 15];
  }
  key +=
      text(", ", packing.layout ? layout_name(*packing.layout) : "any layout", " in ",
           precision_name(packing.precision), ", isa ", static_cast<int>(resolve_isa(Isa::kBest)));
  return key;
}

std::optional<PackedCache> read_packed_cache(const std::filesystem::path& path,
                                             std::string_view key) {
  std::shared_ptr<const MappedFile> file;
  try {
    file = std::make_shared<MappedFile>(path, MappedFile::Access::kCopyOnWrite);
  } catch (const FileError&) {
    return std::nullopt;
  }
  const auto bytes = file->writable_bytes();
  Header header;
  if (bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto rest = bytes.subspan(sizeof header);
  if (header.magic != kMagic || header.file_bytes != bytes.size() ||
      header.key_bytes > rest.size() || header.directory_bytes > rest.size() - header.key_bytes) {
    return std::nullopt;
  }
  const auto named = rest.first(header.key_bytes + header.directory_bytes);
  if (header.checksum != checksum_of(header, named)) return std::nullopt;
  if (!std::ranges::equal(named.first(header.key_bytes), bytes_of(key))) return std::nullopt;
  const uint64_t tensors_at =
      std::min<uint64_t>(aligned(sizeof header + named.size()), bytes.size());
  Directory directory(named.subspan(header.key_bytes), bytes, tensors_at);
  auto tensors = directory.read();
  if (!tensors || !std::ranges::all_of(*tensors, is_packed_well)) return std::nullopt;
  return PackedCache{std::move(file), *std::move(tensors)};
}

void write_packed_cache(const std::filesystem::path& path, std::string_view key,
                        std::span<const CachedTensor> tensors) {
  const auto directory = directory_of(tensors);
  std::vector<std::byte> named(bytes_of(key).begin(), bytes_of(key).end());
  named.insert(named.end(), directory.begin(), directory.end());
  Header header{.key_bytes = key.size(), .directory_bytes = directory.size()};
  header.file_bytes = aligned(sizeof header + named.size());
  for (const CachedTensor& tensor : tensors) header.file_bytes += aligned(tensor.bytes.size());
  header.checksum = checksum_of(header, named);
  NewFile file(path);
  const auto pad = [&] {
    static constexpr std::array<std::byte, kAlignment> kZeros{};
    file.append(std::span(kZeros).first(aligned(file.size()) - file.size()));
  };
  file.append(std::as_bytes(std::span(&header, 1)));
  file.append(named);
  pad();
  for (const CachedTensor& tensor : tensors) {
    file.append(tensor.bytes);
    pad();
  }
  file.commit();
}

}  // namespace pomona
