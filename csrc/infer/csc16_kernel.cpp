#include "infer/csc16_kernel.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace pomona {
namespace {

constexpr int kCodeBits = 7;
static_assert(kCsc16Codes == 1 << kCodeBits && kCsc16Rows == 1 << (16 - kCodeBits));

struct Sections {
  int64_t starts_at, blocks_at, entries_at, size;
};

Sections sections_of(const Csc16Header& header) {
  const int64_t blocks = Csc16View{.header = header}.blocks();
  Sections sections{};
  sections.starts_at = static_cast<int64_t>(sizeof header) + kCsc16Codes * 4;
  sections.blocks_at = (sections.starts_at + blocks * (header.cols + 1) * 4 + 7) / 8 * 8;
  sections.entries_at = sections.blocks_at + (blocks + 1) * 8;
  sections.size = sections.entries_at + header.nnz * 2;
  return sections;
}

Csc16View view_sections(const Csc16Header& header, const std::byte* bytes) {
  const auto sections = sections_of(header);
  return {.header = header,
          .codebook = reinterpret_cast<const float*>(bytes + sizeof header),
          .starts = reinterpret_cast<const uint32_t*>(bytes + sections.starts_at),
          .blocks_at = reinterpret_cast<const int64_t*>(bytes + sections.blocks_at),
          .entries = reinterpret_cast<const uint16_t*>(bytes + sections.entries_at)};
}

void check_entries(const Csc16View& matrix) {
  const auto& h = matrix.header;
  if (matrix.blocks_at[0] != 0) refuse_packed("with blocks from 0", matrix.blocks_at[0]);
  for (int64_t b = 0; b < matrix.blocks(); ++b) {
    const int64_t begin = matrix.blocks_at[b], end = matrix.blocks_at[b + 1];
    if (end < begin || end > h.nnz) {
      refuse_packed(text("with blocks_at[", b + 1, "] from ", begin, " to nnz ", h.nnz), end);
    }
    const uint32_t* starts = matrix.starts + b * (h.cols + 1);
    const int64_t rows = std::min(kCsc16Rows, h.rows - b * kCsc16Rows);
    if (starts[0] != 0) refuse_packed(text("with starts of block ", b, " from 0"), starts[0]);
    if (starts[h.cols] != end - begin) {
      refuse_packed(text("with starts of block ", b, " up to ", end - begin), starts[h.cols]);
    }
    for (int64_t c = 0; c < h.cols; ++c) {
      if (starts[c + 1] < starts[c]) {
        refuse_packed(text("with starts[", c + 1, "] of at least ", starts[c]), starts[c + 1]);
      }
      int64_t previous = -1;
      // `starts` may still run past the block; a later one is then smaller, and refused.
      for (int64_t e = starts[c]; e < std::min<int64_t>(starts[c + 1], end - begin); ++e) {
        const int64_t row = matrix.entries[begin + e] >> kCodeBits;
        if (row <= previous || row >= rows) {
          refuse_packed(text("with a row of column ", c, " above ", previous, " and below ", rows),
                        row);
        }
        previous = row;
      }
    }
  }
  const int64_t last = matrix.blocks_at[matrix.blocks()];
  if (last != h.nnz) refuse_packed(text("with blocks up to nnz ", h.nnz), last);
}

}  // namespace

std::string why_not_csc16(const Weight& matrix) {
  if (!matrix.is_shared() && matrix.mask.kept() > 0) return "it has more than 256 different values";
  if (std::ssize(matrix.codebook) > kCsc16Codes) {
    return text("it has ", matrix.codebook.size(), " different values, more than ", kCsc16Codes);
  }
  if (matrix.shape[1] >= std::numeric_limits<uint32_t>::max() / kCsc16Rows) {
    return text("it has ", matrix.shape[1], " columns, more than 2^23");
  }
  return "";
}

std::vector<std::byte> pack_csc16(const Weight& matrix) {
  Csc16Header header{.rows = matrix.shape[0],
                     .cols = matrix.shape[1],
                     .nnz = matrix.mask.kept(),
                     .codes = std::ssize(matrix.codebook)};
  const auto sections = sections_of(header);
  header.size = sections.size;
  std::vector<std::byte> bytes(static_cast<size_t>(header.size));
  std::memcpy(bytes.data(), &header, sizeof header);
  std::ranges::copy(matrix.codebook, reinterpret_cast<float*>(bytes.data() + sizeof header));
  auto* starts = reinterpret_cast<uint32_t*>(bytes.data() + sections.starts_at);
  auto* blocks_at = reinterpret_cast<int64_t*>(bytes.data() + sections.blocks_at);
  auto* entries = reinterpret_cast<uint16_t*>(bytes.data() + sections.entries_at);
  const int64_t cols = header.cols;
  const auto for_each_entry = [&](const auto& visit) {  // by ascending row
    size_t e = 0;
    for_each_kept(matrix.mask, [&](size_t i) {
      const int64_t row = static_cast<int64_t>(i) / cols, column = static_cast<int64_t>(i) % cols;
      visit(row / kCsc16Rows, row % kCsc16Rows, column, matrix.codes[e++]);
    });
  };
  // Counted two places on, summed, and filled: then `starts` is where each column begins.
  for_each_entry([&](int64_t block, int64_t, int64_t column, uint8_t) {
    ++blocks_at[block + 1];
    if (column + 2 <= cols) ++starts[block * (cols + 1) + column + 2];
  });
  for (int64_t b = 0; b < Csc16View{.header = header}.blocks(); ++b) {
    blocks_at[b + 1] += blocks_at[b];
    uint32_t* of_block = starts + b * (cols + 1);
    for (int64_t c = 2; c <= cols; ++c) of_block[c] += of_block[c - 1];
  }
  for_each_entry([&](int64_t block, int64_t row, int64_t column, uint8_t code) {
    const uint32_t at = starts[block * (cols + 1) + column + 1]++;
    entries[blocks_at[block] + at] = static_cast<uint16_t>(row << kCodeBits | code);
  });
  return bytes;
}

Csc16View view_csc16(std::span<const std::byte> bytes) {
  check_packed_start(bytes, sizeof(Csc16Header), Layout::kCsc16, kCsc16Version);
  Csc16Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto most = std::ssize(bytes);
  if (header.rows < 0 || header.rows > most * kCsc16Rows) {
    refuse_packed("with rows that fit it", header.rows);
  }
  const int64_t blocks = Csc16View{.header = header}.blocks();
  if (header.cols < 0 || header.cols > std::numeric_limits<uint32_t>::max() ||
      (blocks > 0 && header.cols > most / blocks)) {
    refuse_packed("with cols that fit it", header.cols);
  }
  if (header.codes < 0 || header.codes > kCsc16Codes) {
    refuse_packed(text("with codes from 0 to ", kCsc16Codes), header.codes);
  }
  if (header.nnz < 0 || header.nnz > most) refuse_packed("with nnz that fit it", header.nnz);
  if (header.size != most || header.size != sections_of(header).size) {
    refuse_packed(text("of ", sections_of(header).size, " bytes"), bytes.size());
  }
  return view_sections(header, bytes.data());
}

Csc16View check_csc16(std::span<const std::byte> bytes) {
  const auto view = view_csc16(bytes);
  check_entries(view);
  return view;
}

void unpack_csc16(const Csc16View& matrix, float* dense) {
  const int64_t cols = matrix.header.cols;
  for (int64_t b = 0; b < matrix.blocks(); ++b) {
    const uint32_t* starts = matrix.starts + b * (cols + 1);
    const uint16_t* entries = matrix.entries + matrix.blocks_at[b];
    for (int64_t c = 0; c < cols; ++c) {
      for (uint32_t e = starts[c]; e < starts[c + 1]; ++e) {
        const int64_t row = b * kCsc16Rows + (entries[e] >> kCodeBits);
        dense[row * cols + c] = matrix.codebook[entries[e] % kCsc16Codes];
      }
    }
  }
}

int64_t csc16_input_bytes(const Csc16View& matrix) {
  return (matrix.header.cols + 1) * static_cast<int64_t>(sizeof(uint32_t) + sizeof(float));
}

Csc16Input make_csc16_input(std::span<const float> x, std::span<std::byte> scratch) {
  auto* columns = reinterpret_cast<uint32_t*>(scratch.data());
  auto* values = reinterpret_cast<float*>(columns + x.size() + 1);
  Csc16Input input{.columns = columns, .values = values};
  for (size_t c = 0; c < x.size(); ++c) {  // no branch: zeros come in no order
    columns[input.count] = static_cast<uint32_t>(c);
    values[input.count] = x[c];
    input.count += x[c] != 0;
    input.not_finite += !std::isfinite(x[c]);
  }
  return input;
}

void multiply_csc16(const Csc16View& matrix, const Csc16Input& input, const float* bias,
                    bool has_relu, float* y, int64_t first_block, int64_t last_block) {
  const int64_t cols = matrix.header.cols;
  const auto codes = static_cast<size_t>(matrix.header.codes);
  std::array<float, kCsc16Rows> sums;
  std::array<float, kCsc16Codes> products{};
  std::array<int64_t, kCsc16Rows> met;  // of what is not finite
  for (int64_t b = first_block; b < last_block; ++b) {
    const uint32_t* starts = matrix.starts + b * (cols + 1);
    const uint16_t* entries = matrix.entries + matrix.blocks_at[b];
    sums.fill(0);
    met.fill(0);
    for (int64_t i = 0; i < input.count; ++i) {
      const float value = input.values[i];
      for (size_t k = 0; k < codes; ++k) products[k] = matrix.codebook[k] * value;
      const uint32_t begin = starts[input.columns[i]], end = starts[input.columns[i] + 1];
      for (uint32_t e = begin; e < end; ++e) {
        sums[entries[e] >> kCodeBits] += products[entries[e] % kCsc16Codes];
      }
      if (std::isfinite(value)) continue;
      for (uint32_t e = begin; e < end; ++e) ++met[entries[e] >> kCodeBits];
    }
    const int64_t first = b * kCsc16Rows;
    const int64_t rows = std::min(kCsc16Rows, matrix.header.rows - first);
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = static_cast<size_t>(r);
      float sum = sums[at] + (bias != nullptr ? bias[first + r] : 0.0f);
      if (met[at] != input.not_finite) sum = std::numeric_limits<float>::quiet_NaN();
      y[first + r] = has_relu && sum < 0 ? 0.0f : sum;
    }
  }
}

}  // namespace pomona
