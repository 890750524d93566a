#include "infer/lut_layout.h"

#include "base/float16.h"
#include "base/text.h"
#include "infer/fixed_point.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pomona {
namespace {

// Where the words begin.
int64_t words_at(const LutHeader& header) {
  const bool has_sums = header.form == static_cast<uint8_t>(PackedForm::kBytes);
  const int64_t sums = has_sums ? header.rows * static_cast<int64_t>(sizeof(int32_t)) : 0;
  return static_cast<int64_t>(sizeof(LutHeader) + sizeof(LutCodebook)) + (sums + 63) / 64 * 64;
}

int64_t bytes_of(const LutHeader& header) {
  const LutView view{.header = header};
  return words_at(header) + header.rows * view.blocks() * 64;
}

uint8_t bits_of(int64_t values) {
  return values <= 4 ? 2 : values <= 16 ? 4 : 8;
}

// The code of zero, if a weight is zero, comes first.
std::vector<float> values_of(const Weight& matrix) {
  std::vector<float> values;
  if (matrix.mask.kept() < matrix.mask.size()) values.push_back(0);
  values.insert(values.end(), matrix.codebook.begin(), matrix.codebook.end());
  return values;
}

LutCodebook make_codebook(const std::vector<float>& values, int bits) {
  LutCodebook book{};
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  book.scale = signed_scale(Precision::kInt8, largest);
  const size_t period = size_t{1} << bits;
  for (size_t i = 0; i < std::size(book.values); ++i) {
    const size_t code = i % period;
    book.values[i] = code < values.size() ? values[code] : 0;
    book.bytes[i] = static_cast<int8_t>(std::lrint(book.values[i] / book.scale));
  }
  return book;
}

uint32_t code_at(const LutView& matrix, int64_t row, int64_t column) {
  const int64_t within = column % matrix.block_cols();
  const int64_t block = row * matrix.blocks() + column / matrix.block_cols();
  const uint32_t word = matrix.words[block * kLutWords + within % kLutWords];
  return word >> (matrix.header.bits * (within / kLutWords)) & ((1u << matrix.header.bits) - 1);
}

}  // namespace

int64_t lut_bytes(int64_t rows, int64_t cols, int64_t values, PackedForm form) {
  return bytes_of(
      {.bits = bits_of(values), .form = static_cast<uint8_t>(form), .rows = rows, .cols = cols});
}

std::string why_not_lut(const Weight& matrix, PackedForm form, Precision precision) {
  if (precision == Precision::kFixed16) return "lut does not compute in fixed16";
  if (!matrix.is_shared() && matrix.mask.kept() > 0) return "it has more than 256 different values";
  const auto values = values_of(matrix);
  const size_t most = form == PackedForm::kBFloat16 ? 16 : 256;
  if (values.size() > most) {
    return text("it has ", values.size(), " different values, more than ", most);
  }
  const auto is_bfloat16 = [](float value) {  // and none that the instruction would flush
    return float_from_bfloat16(bfloat16_from_float(value)) == value &&
           (value == 0 || std::isnormal(value));
  };
  if (form == PackedForm::kBFloat16 && precision == Precision::kFloat32 &&
      !std::ranges::all_of(values, is_bfloat16)) {
    return "its values are not normal numbers of bfloat16";
  }
  if (form == PackedForm::kBytes && matrix.shape[1] > kLutMostColumns) {
    return text("it has ", matrix.shape[1], " columns, more than ", kLutMostColumns);
  }
  return "";
}

std::vector<std::byte> pack_lut(const Weight& matrix, PackedForm form, Precision precision) {
  const auto values = values_of(matrix);
  const int bits = bits_of(std::ssize(values));
  LutHeader header{.bits = static_cast<uint8_t>(bits),
                   .form = static_cast<uint8_t>(form),
                   .rows = matrix.shape[0],
                   .cols = matrix.shape[1],
                   .nnz = matrix.mask.kept(),
                   .precision = static_cast<uint8_t>(precision)};
  header.size = bytes_of(header);
  std::vector<std::byte> bytes(static_cast<size_t>(header.size));
  std::memcpy(bytes.data(), &header, sizeof header);
  const auto book = make_codebook(values, bits);
  std::memcpy(bytes.data() + sizeof header, &book, sizeof book);
  auto* words = reinterpret_cast<uint32_t*>(bytes.data() + words_at(header));
  const LutView view{.header = header};
  const int64_t cols = header.cols, block_cols = view.block_cols(), blocks = view.blocks();
  const uint32_t shift = values.size() > matrix.codebook.size() ? 1 : 0;  // past the zero
  size_t e = 0;
  for_each_kept(matrix.mask, [&](size_t i) {
    const int64_t row = static_cast<int64_t>(i) / cols, column = static_cast<int64_t>(i) % cols;
    const int64_t within = column % block_cols;
    uint32_t& word = words[(row * blocks + column / block_cols) * kLutWords + within % kLutWords];
    word |= (matrix.codes[e++] + shift) << (bits * (within / kLutWords));
  });
  if (form != PackedForm::kBytes) return bytes;
  auto* sums = reinterpret_cast<int32_t*>(bytes.data() + sizeof header + sizeof book);
  const auto packed = check_lut(bytes);
  for (int64_t row = 0; row < header.rows; ++row) {
    for (int64_t c = 0; c < cols; ++c) sums[row] += book.bytes[code_at(packed, row, c)];
  }
  return bytes;
}

LutView check_lut(std::span<const std::byte> bytes) {
  check_packed_start(bytes, sizeof(LutHeader), Layout::kLut, kLutVersion);
  LutView view;
  std::memcpy(&view.header, bytes.data(), sizeof view.header);
  const auto& h = view.header;
  const auto most = static_cast<int64_t>(bytes.size()) * 4;  // four codes a byte
  if (h.bits != 2 && h.bits != 4 && h.bits != 8) {
    refuse_packed("with 2, 4 or 8 bits of a code", static_cast<int>(h.bits));
  }
  if (h.form > static_cast<uint8_t>(PackedForm::kBytes)) {
    refuse_packed("with a form from 0 to 2", static_cast<int>(h.form));
  }
  if (h.form == static_cast<uint8_t>(PackedForm::kBFloat16) && h.bits == 8) {
    refuse_packed("with 2 or 4 bits of a code in pairs of bfloat16", static_cast<int>(h.bits));
  }
  const bool is_bytes = view.form() == PackedForm::kBytes;
  if (h.precision > static_cast<uint8_t>(Precision::kInt8) ||
      (view.precision() == Precision::kInt8) != is_bytes ||
      view.precision() == Precision::kFixed16 ||
      (view.precision() == Precision::kBFloat16 && view.form() != PackedForm::kBFloat16)) {
    refuse_packed("with a precision of its form", static_cast<int>(h.precision));
  }
  if (h.rows < 0 || h.rows > most) refuse_packed("with rows that fit it", h.rows);
  if (h.cols < 0 || h.cols > (is_bytes ? std::min(most, kLutMostColumns) : most)) {
    refuse_packed("with cols that fit it", h.cols);
  }
  if (h.rows > 0 && h.cols > most / h.rows) refuse_packed("with rows and cols that fit it", h.cols);
  if (h.size != std::ssize(bytes) || h.size != bytes_of(h)) {
    refuse_packed(text("of ", bytes_of(h), " bytes"), bytes.size());
  }
  if (h.nnz < 0 || h.nnz > h.rows * h.cols) refuse_packed("with nnz of its shape", h.nnz);
  view.codebook = reinterpret_cast<const LutCodebook*>(bytes.data() + sizeof h);
  if (is_bytes) {
    view.sums = reinterpret_cast<const int32_t*>(bytes.data() + sizeof h + sizeof(LutCodebook));
  }
  view.words = reinterpret_cast<const uint32_t*>(bytes.data() + words_at(h));
  return view;
}

void unpack_lut_row(const LutView& matrix, int64_t row, float* dense) {
  for (int64_t c = 0; c < matrix.header.cols; ++c) {
    dense[c] = matrix.codebook->values[code_at(matrix, row, c)];
  }
}

void unpack_lut(const LutView& matrix, float* dense) {
  for (int64_t row = 0; row < matrix.header.rows; ++row) {
    unpack_lut_row(matrix, row, dense + row * matrix.header.cols);
  }
}

}  // namespace pomona
