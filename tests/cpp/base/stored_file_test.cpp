#include "base/stored_file.h"

#include "pomona/error.h"

#include "temporary_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace {

using pomona::FileError;
using pomona::StoredFile;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

int error_number_of(const std::filesystem::path& path) {
  try {
    StoredFile file(path);
  } catch (const FileError& error) {
    return error.code().value();
  }
  return 0;
}

TEST(StoredFile, ReadsAnyPart) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "0123456789");
  const StoredFile file(folder / "a");
  EXPECT_EQ(file.size(), 10u);
  EXPECT_EQ(text_of(file.read(3, 4)), "3456");
  EXPECT_EQ(text_of(file.read(8, 4)), "89");
  EXPECT_EQ(text_of(file.read(100, uint64_t{1} << 62)), "");
}

TEST(StoredFile, CutShortWhileItIsOpenGivesFewerBytes) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "0123456789");
  const StoredFile file(folder / "a");
  std::filesystem::resize_file(folder / "a", 5);
  EXPECT_EQ(text_of(file.read(3, 4)), "34");
}

TEST(StoredFile, RefusesWhatIsNotAFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(error_number_of(folder / "none"), ENOENT);
  EXPECT_EQ(error_number_of(folder.path()), EISDIR);
  mkfifo((folder / "pipe").c_str(), 0600);
  EXPECT_EQ(error_number_of(folder / "pipe"), EINVAL);
}

}  // namespace
