#include "nn/packed_cache.h"

#include "pomona/error.h"
#include "pomona/file.h"
#include "pomona/packed.h"

#include "temporary_folder.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

using pomona::CachedTensor;
using pomona::DType;
using pomona::testing::contents_of;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

pomona::Weight small_weight() {
  std::vector<float> dense(24);
  for (size_t i = 0; i < dense.size(); i += 3) dense[i] = static_cast<float>(i);
  return pomona::make_weight("w", DType::kFloat32, {4, 6}, std::as_bytes(std::span(dense)));
}

// A packed matrix, a vector, and one of no elements.
struct Content {
  std::vector<std::byte> packed = pomona::pack(small_weight()).bytes;
  std::vector<float> bias{1, 2, 3};
  std::vector<CachedTensor> tensors() {
    return {{.name = "0.weight",
             .is_packed = true,
             .dtype = DType::kUInt8,
             .shape = {std::ssize(packed)},
             .bytes = packed},
            {.name = "0.bias",
             .dtype = DType::kFloat32,
             .shape = {3},
             .bytes = std::as_writable_bytes(std::span(bias))},
            {.name = "none", .dtype = DType::kInt64, .shape = {2, 0, 5}}};
  }
};

TEST(PackedCache, HoldsWhatWasWritten) {
  const TemporaryFolder folder;
  Content content;
  const auto written = content.tensors();
  pomona::write_packed_cache(folder / "cache", "a key", written);
  const auto cache = pomona::read_packed_cache(folder / "cache", "a key");
  ASSERT_TRUE(cache);
  ASSERT_EQ(cache->tensors.size(), written.size());
  for (size_t i = 0; i < written.size(); ++i) {
    const auto& tensor = cache->tensors[i];
    EXPECT_EQ(tensor.name, written[i].name);
    EXPECT_EQ(tensor.is_packed, written[i].is_packed);
    EXPECT_EQ(tensor.dtype, written[i].dtype);
    EXPECT_EQ(tensor.shape, written[i].shape);
    EXPECT_TRUE(std::ranges::equal(tensor.bytes, written[i].bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % 64, 0u);
  }
}

TEST(PackedCache, WritingToWhatWasMappedChangesNoFile) {
  const TemporaryFolder folder;
  Content content;
  pomona::write_packed_cache(folder / "cache", "key", content.tensors());
  const std::string before = contents_of(folder / "cache");
  const auto cache = pomona::read_packed_cache(folder / "cache", "key");
  std::memset(cache->tensors[1].bytes.data(), 7, cache->tensors[1].bytes.size());
  EXPECT_EQ(contents_of(folder / "cache"), before);
}

TEST(PackedCache, IsNothingWhereThereIsNoneOrOfAnotherKey) {
  const TemporaryFolder folder;
  Content content;
  EXPECT_FALSE(pomona::read_packed_cache(folder / "cache", "key"));
  pomona::write_packed_cache(folder / "cache", "key", content.tensors());
  EXPECT_FALSE(pomona::read_packed_cache(folder / "cache", "kez"));
  EXPECT_FALSE(pomona::read_packed_cache(folder / "cache", "key and more"));
  EXPECT_FALSE(pomona::read_packed_cache(folder / "cache", ""));
  EXPECT_FALSE(pomona::read_packed_cache(folder.path(), "key"));
  EXPECT_THROW(pomona::write_packed_cache(folder / "none" / "cache", "key", content.tensors()),
               pomona::FileError);
}

// Every byte of header, key and directory; every length. What comes after may change values only,
// or the indices of packed bytes, which are checked.
TEST(PackedCache, IsNothingWhenItIsDamaged) {
  const TemporaryFolder folder;
  Content content;
  pomona::write_packed_cache(folder / "cache", "key", content.tensors());
  const std::string good = contents_of(folder / "cache");
  for (size_t size = 0; size < good.size(); size += 7) {
    write_contents(folder / "cut", good.substr(0, size));
    EXPECT_FALSE(pomona::read_packed_cache(folder / "cut", "key")) << size;
  }
  write_contents(folder / "longer", good + "x");
  EXPECT_FALSE(pomona::read_packed_cache(folder / "longer", "key"));
  const size_t named = 64 + 3 + 40;  // of the directory most
  for (size_t at = 0; at < named; ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x11);
    write_contents(folder / "bad", bad);
    EXPECT_FALSE(pomona::read_packed_cache(folder / "bad", "key")) << at;
  }
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {  // refused, or harmless
    std::string bad = good;
    bad[128 + random() % (bad.size() - 128)] = static_cast<char>(random());
    write_contents(folder / "bad", bad);
    const auto cache = pomona::read_packed_cache(folder / "bad", "key");
    if (cache) pomona::unpack(cache->tensors[0].bytes);
  }
}

TEST(PackedCache, TheKeyIsOfTheFileAndOfHowItIsPacked) {
  const TemporaryFolder folder;
  const auto key = [&](const pomona::Packing& packing) {
    return pomona::packed_cache_key(folder / "net", packing);
  };
  write_contents(folder / "net", std::string(100, 'a'));
  const std::string first = key({});
  EXPECT_EQ(key({}), first);
  EXPECT_NE(key({.layout = pomona::Layout::kLut}), first);
  EXPECT_NE(key({.precision = pomona::Precision::kInt8}), first);
  write_contents(folder / "net", std::string(99, 'a') + "b");
  EXPECT_NE(key({}), first);
  write_contents(folder / "net", std::string(101, 'a'));
  EXPECT_NE(key({}), first);
  EXPECT_THROW(pomona::packed_cache_key(folder / "none", {}), pomona::FileError);
}

}  // namespace
