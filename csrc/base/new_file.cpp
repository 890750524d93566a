#include "base/new_file.h"

#include "pomona/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>
#include <string>
#include <utility>

namespace pomona {
namespace {

// Follows links, so that a link stays a link; a link to nowhere is left to the rename.
std::filesystem::path without_links(const std::filesystem::path& path) {
  std::error_code error;
  auto target = std::filesystem::canonical(path, error);
  return error ? std::filesystem::absolute(path) : target;
}

// Throws unless the target may be replaced. Returns its permission bits, or nothing when it does
// not exist.
bool permissions_of(const std::filesystem::path& target, const std::filesystem::path& path,
                    mode_t& permissions) {
  struct stat status {};
  if (stat(target.c_str(), &status) != 0) {
    if (errno == ENOENT) return false;
    throw FileError(errno, "cannot write", path);
  }
  if (S_ISDIR(status.st_mode)) throw FileError(EISDIR, "cannot write", path);
  if (!S_ISREG(status.st_mode)) {
    throw FileError(EINVAL, "cannot write (expected a regular file)", path);
  }
  if (access(target.c_str(), W_OK) != 0) throw FileError(errno, "cannot write", path);
  permissions = status.st_mode & 07777;
  return true;
}

std::string random_name() {
  std::random_device random;
  const uint64_t number = (uint64_t{random()} << 32) | random();
  char name[40];
  std::snprintf(name, sizeof name, ".pomona-%016llx.tmp", static_cast<unsigned long long>(number));
  return name;
}

}  // namespace

NewFile::NewFile(const std::filesystem::path& path) : path_(path) {
  if (path.empty()) throw FileError(ENOENT, "cannot write", path);
  target_ = without_links(path);
  mode_t permissions = 0;
  const bool is_replacing = permissions_of(target_, path_, permissions);
  if (!target_.has_filename()) throw FileError(EISDIR, "cannot write", path_);
  open_beside_target();
  if (is_replacing && fchmod(descriptor_, permissions) != 0) fail("cannot set permissions of");
}

NewFile::~NewFile() {
  discard();
}

void NewFile::open_beside_target() {
  constexpr int kTries = 16;  // a name that is taken is drawn again
  for (int attempt = 0; attempt < kTries; ++attempt) {
    temporary_ = target_.parent_path() / random_name();
    descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) return;
    if (errno != EEXIST) break;
  }
  throw FileError(errno, "cannot write", path_);
}

void NewFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    constexpr size_t kMost = size_t{1} << 30;  // Linux writes at most 2 GiB at once
    const ssize_t written = write(descriptor_, bytes.data(), std::min(bytes.size(), kMost));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("cannot write");
    }
    size_ += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void NewFile::commit() {
  if (fsync(descriptor_) != 0) fail("cannot flush");
  if (close(std::exchange(descriptor_, -1)) != 0) fail("cannot close");
  if (rename(temporary_.c_str(), target_.c_str()) != 0) fail("cannot rename to");
  temporary_.clear();
  // The new name reaches the disk with its folder. The file is whole either way, so a file system
  // that cannot flush folders is no error.
  const int folder = open(target_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
}

void NewFile::fail(const char* action) {
  const int error_number = errno;
  discard();
  throw FileError(error_number, action, path_);
}

void NewFile::discard() noexcept {
  if (descriptor_ >= 0) close(std::exchange(descriptor_, -1));
  if (!temporary_.empty()) unlink(temporary_.c_str());
  temporary_.clear();
}

}  // namespace pomona
