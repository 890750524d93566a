#include "base/mapped_file.h"

#include "pomona/error.h"

#include "temporary_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

namespace {

using pomona::FileError;
using pomona::MappedFile;
using pomona::testing::TemporaryFolder;

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

int error_of(const std::filesystem::path& path) {
  try {
    const MappedFile file(path);
  } catch (const FileError& error) {
    return error.code().value();
  }
  return 0;
}

TEST(MappedFile, HoldsTheBytesOfTheFile) {
  const TemporaryFolder folder;
  write(folder / "a", "pomona");
  const MappedFile file(folder / "a");
  ASSERT_EQ(file.bytes().size(), 6u);
  EXPECT_EQ(static_cast<char>(file.bytes()[0]), 'p');
  EXPECT_EQ(file.path(), folder / "a");
}

TEST(MappedFile, OfNoBytesIsEmpty) {
  const TemporaryFolder folder;
  write(folder / "empty", "");
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
}

TEST(MappedFile, ComesBackAfterItsPagesWereReleased) {
  const TemporaryFolder folder;
  write(folder / "a", std::string(100000, 'x'));
  const MappedFile file(folder / "a");
  file.release(file.bytes().subspan(1, 99000));
  EXPECT_TRUE(std::ranges::all_of(file.bytes(), [](std::byte b) { return b == std::byte{'x'}; }));
}

TEST(MappedFile, SaysWhatCannotBeRead) {
  const TemporaryFolder folder;
  EXPECT_EQ(error_of(folder / "missing"), ENOENT);
  EXPECT_EQ(error_of(folder.path()), EISDIR);
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_of(folder / "pipe"), EINVAL);
}

}  // namespace
