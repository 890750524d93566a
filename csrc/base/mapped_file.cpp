#include "base/mapped_file.h"

#include "pomona/error.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace pomona {
namespace {

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      // O_NONBLOCK: opening a named pipe must not wait for a writer.
      : number_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (number_ < 0) throw FileError(errno, "cannot read", path);
  }
  ~Descriptor() { close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

size_t size_of_regular_file(const Descriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  const int error_number = fstat(file.number(), &status) != 0 ? errno
                           : S_ISDIR(status.st_mode)          ? EISDIR
                           : S_ISREG(status.st_mode)          ? 0
                                                              : EINVAL;
  if (error_number != 0) {
    throw FileError(error_number, "cannot read (expected a regular file)", path);
  }
  return static_cast<size_t>(status.st_size);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, Access access) : path_(path) {
  const Descriptor file(path);
  const size_t size = size_of_regular_file(file, path);
  if (size == 0) return;  // cannot be mapped
  const int allowed = access == Access::kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
  void* const memory = mmap(nullptr, size, allowed, MAP_PRIVATE, file.number(), 0);
  if (memory == MAP_FAILED) throw FileError(errno, "cannot map", path);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::span<const std::byte> part) const {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data());
  const uintptr_t first = (begin + page - 1) / page * page;  // whole pages only
  const uintptr_t last = (begin + part.size()) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace pomona
