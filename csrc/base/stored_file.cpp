#include "base/stored_file.h"

#include "pomona/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace pomona {

StoredFile::StoredFile(const std::filesystem::path& path) : path_(path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) throw FileError(errno, "cannot read", path);
  struct stat status {};
  const int error_number = fstat(descriptor_, &status) != 0 ? errno
                           : S_ISDIR(status.st_mode)        ? EISDIR
                           : S_ISREG(status.st_mode)        ? 0
                                                            : EINVAL;
  if (error_number != 0) {
    close(descriptor_);
    throw FileError(error_number, "cannot read (expected a regular file)", path);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

StoredFile::~StoredFile() {
  close(descriptor_);
}

std::vector<std::byte> StoredFile::read(uint64_t offset, uint64_t size) const {
  const uint64_t there = offset < size_ ? size_ - offset : 0;
  std::vector<std::byte> bytes(static_cast<size_t>(std::min(size, there)));
  size_t done = 0;
  while (done < bytes.size()) {
    constexpr size_t kMost = size_t{1} << 30;  // Linux reads at most 2 GiB at once
    const ssize_t got =
        pread(descriptor_, bytes.data() + done, std::min(bytes.size() - done, kMost),
              static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(errno, "cannot read", path_);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace pomona
