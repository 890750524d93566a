#include "pomona/mask.h"

#include "pomona/error.h"

#include "base/count_bits.h"
#include "base/text.h"

namespace pomona {
namespace {

constexpr int64_t kWordBits = 64;

size_t word_count(int64_t size) {
  return static_cast<size_t>((size + kWordBits - 1) / kWordBits);
}

void check_size(int64_t size) {
  if (size < 0) throw InvalidArgument(text("Mask: expected `size` of at least 0, got ", size, "."));
}

// Bytes in one row of `rows`. Throws unless rows divides size.
int64_t row_bytes(int64_t size, int64_t rows) {
  const bool fits = rows > 0 ? size % rows == 0 : rows == 0 && size == 0;
  if (!fits) {
    throw InvalidArgument(
        text("Mask: expected `rows` to divide the size ", size, ", got ", rows, "."));
  }
  return rows == 0 ? 0 : (size / rows + 7) / 8;
}

}  // namespace

Mask::Mask(int64_t size, bool keep) : size_(size) {
  check_size(size);
  words_.assign(word_count(size), keep ? ~uint64_t{0} : 0);
  if (keep && size % kWordBits != 0) words_.back() = (uint64_t{1} << (size % kWordBits)) - 1;
}

Mask::Mask(int64_t size, std::vector<uint64_t> words) : size_(size), words_(std::move(words)) {
  check_size(size);
  if (words_.size() != word_count(size)) {
    throw InvalidArgument(text("Mask: expected ", word_count(size), " words for size ", size,
                               ", got ", words_.size(), "."));
  }
  if (size % kWordBits != 0) words_.back() &= (uint64_t{1} << (size % kWordBits)) - 1;
}

int64_t Mask::kept() const {
  return count_bits(words_);
}

double Mask::sparsity() const {
  return size_ == 0 ? 0.0 : 1.0 - static_cast<double>(kept()) / static_cast<double>(size_);
}

void Mask::set(int64_t i, bool keep) {
  uint64_t& word = words_[static_cast<size_t>(i / kWordBits)];
  const uint64_t bit = uint64_t{1} << (i % kWordBits);
  word = keep ? word | bit : word & ~bit;
}

uint64_t Mask::hash() const {
  constexpr uint64_t kOffsetBasis = 0xcbf29ce484222325, kPrime = 0x100000001b3;  // FNV-1a, 64 bits
  uint64_t hash = kOffsetBasis;
  const auto mix = [&hash](uint64_t word) {
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ ((word >> (8 * byte)) & 0xff)) * kPrime;
  };
  mix(static_cast<uint64_t>(size_));
  for (const uint64_t word : words_) mix(word);
  return hash;
}

namespace {

void check_same_size(const Mask& a, const Mask& b) {
  if (a.size() != b.size()) {
    throw InvalidArgument(
        text("Mask: expected masks of one size, got ", a.size(), " and ", b.size(), "."));
  }
}

}  // namespace

Mask Mask::operator&(const Mask& other) const {
  check_same_size(*this, other);
  Mask result = *this;
  for (size_t w = 0; w < words_.size(); ++w) result.words_[w] &= other.words_[w];
  return result;
}

Mask Mask::operator|(const Mask& other) const {
  check_same_size(*this, other);
  Mask result = *this;
  for (size_t w = 0; w < words_.size(); ++w) result.words_[w] |= other.words_[w];
  return result;
}

Mask Mask::operator~() const {
  std::vector<uint64_t> words(words_);
  for (uint64_t& word : words) word = ~word;
  return Mask(size_, std::move(words));
}

std::vector<uint8_t> Mask::to_row_bytes(int64_t rows) const {
  const int64_t stride = row_bytes(size_, rows);
  std::vector<uint8_t> bytes(static_cast<size_t>(stride * rows));
  const int64_t cols = rows == 0 ? 0 : size_ / rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const auto bit = static_cast<uint8_t>((*this)[row * cols + col]);
      auto& byte = bytes[static_cast<size_t>(row * stride + col / 8)];
      byte = static_cast<uint8_t>(byte | (bit << (col % 8)));
    }
  }
  return bytes;
}

Mask Mask::from_row_bytes(std::span<const uint8_t> bytes, int64_t size, int64_t rows) {
  check_size(size);
  const int64_t stride = row_bytes(size, rows);
  if (static_cast<int64_t>(bytes.size()) != stride * rows) {
    throw InvalidArgument(text("Mask: expected ", stride * rows, " bytes for ", rows,
                               " rows of size ", size, " in all, got ", bytes.size(), "."));
  }
  Mask mask(size, false);
  const int64_t cols = rows == 0 ? 0 : size / rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      if ((bytes[static_cast<size_t>(row * stride + col / 8)] >> (col % 8)) & 1) {
        mask.set(row * cols + col, true);
      }
    }
  }
  return mask;
}

}  // namespace pomona
