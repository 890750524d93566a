#include "base/new_file.h"

#include "pomona/error.h"

#include "error_of.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <string_view>

namespace {

using pomona::FileError;
using pomona::NewFile;
using pomona::testing::contents_of;
using pomona::testing::error_of;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

void save(const std::filesystem::path& path, std::string_view text) {
  NewFile file(path);
  file.append(bytes_of(text));
  file.commit();
}

// No file of this process may grow past `bytes` while this lives: a full disk.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit now{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST(NewFile, IsThereOnlyAfterCommit) {
  const TemporaryFolder folder;
  NewFile file(folder / "a");
  file.append(bytes_of("one "));
  file.append(bytes_of("two"));
  EXPECT_FALSE(exists(folder / "a"));
  file.commit();
  EXPECT_EQ(contents_of(folder / "a"), "one two");
  EXPECT_EQ(file.size(), 7u);
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(NewFile, WithoutCommitLeavesNothingBehindAndTheOldFileWhole) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  { NewFile(folder / "a").append(bytes_of("new")); }
  EXPECT_EQ(contents_of(folder / "a"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(NewFile, KeepsThePermissionsOfTheFileItReplaces) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  chmod((folder / "a").c_str(), 0640);
  save(folder / "a", "new");
  struct stat status {};
  stat((folder / "a").c_str(), &status);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  EXPECT_EQ(contents_of(folder / "a"), "new");
}

TEST(NewFile, FollowsTheUmaskWhereThereWasNoFile) {
  const TemporaryFolder folder;
  const mode_t before = umask(027);
  save(folder / "a", "new");
  umask(before);
  struct stat status {};
  stat((folder / "a").c_str(), &status);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
}

TEST(NewFile, ReplacesTheFileThatALinkPointsTo) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  std::filesystem::create_symlink("a", folder / "link");
  save(folder / "link", "new");
  EXPECT_TRUE(is_symlink(folder / "link"));
  EXPECT_EQ(contents_of(folder / "a"), "new");
}

TEST(NewFile, OfABareNameStandsInTheWorkingFolder) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  {
    NewFile file("bare");
    std::filesystem::current_path(before);
    file.commit();
  }
  EXPECT_TRUE(exists(folder / "bare"));
}

TEST(NewFile, RefusesAFolderThatIsNotThere) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of<FileError>([&] { NewFile(folder / "none/a"); }).find("No such file"),
            std::string::npos);
  EXPECT_NE(error_of<FileError>([&] { NewFile(std::filesystem::path()); }).find("No such file"),
            std::string::npos);
}

TEST(NewFile, RefusesAFolderOrADeviceInPlaceOfAFile) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of<FileError>([&] { NewFile(folder.path()); }).find("Is a directory"),
            std::string::npos);
  EXPECT_NE(error_of<FileError>([&] { NewFile(folder / "none/"); }).find("Is a directory"),
            std::string::npos);
  EXPECT_NE(error_of<FileError>([&] { NewFile("/dev/null"); }).find("expected a regular file"),
            std::string::npos);
}

TEST(NewFile, RefusesAFolderOrAFileWithoutPermission) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  chmod((folder / "a").c_str(), 0400);
  EXPECT_NE(error_of<FileError>([&] { NewFile(folder / "a"); }).find("Permission"),
            std::string::npos);
  chmod(folder.path().c_str(), 0500);
  EXPECT_NE(error_of<FileError>([&] { NewFile(folder / "b"); }).find("Permission"),
            std::string::npos);
}

TEST(NewFile, OnAFullDiskLeavesTheOldFileWholeAndNothingBehind) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  const std::string large(5000, 'x');
  {
    NewFile file(folder / "a");
    const FullDisk full(1000);
    EXPECT_NE(error_of<FileError>([&] { file.append(bytes_of(large)); }).find("File too large"),
              std::string::npos);
    EXPECT_FALSE(file.is_open());
    EXPECT_EQ(folder.file_count(), 1u);
  }
  EXPECT_EQ(contents_of(folder / "a"), "old");
}

}  // namespace
