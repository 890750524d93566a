// The life of one weight: an 8x8 matrix on its way from trained to multiplied, every bit on screen
// (docs/architecture.md has the map). No torch. Its output is tests/golden/00_one_weight.txt, so
// this tour never goes stale.
#include "pomona/codebook.h"
#include "pomona/eie.h"
#include "pomona/encode.h"
#include "pomona/file.h"
#include "pomona/packed.h"
#include "pomona/selection.h"
#include "pomona/weight.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

constexpr int64_t kRows = 8, kCols = 8;
constexpr double kSparsity = 0.75;
constexpr int kCentroids = 4;  // 2-bit codes
constexpr int kGapBits = 2;    // few, so that fillers show

std::string printable(float value) {
  char text[16];
  std::snprintf(text, sizeof text, "%6.2f", static_cast<double>(value));
  return text;
}

std::string binary(uint32_t bits, int width) {
  std::string text;
  for (int i = width; i-- > 0;) text += (bits >> i) & 1 ? '1' : '0';
  return text;
}

void print_matrix(const std::vector<float>& matrix) {
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    const float value = matrix[static_cast<size_t>(i)];
    std::printf("%s%s", value == 0 ? "     ." : printable(value).c_str(),
                i % kCols == kCols - 1 ? "\n" : "");
  }
}

// What training would leave: values from -1 to 1, most of them small. A hash and not a random
// engine's distribution, so that it is the same everywhere.
std::vector<float> trained_matrix() {
  std::vector<float> matrix;
  for (uint32_t i = 1; i <= kRows * kCols; ++i) {
    uint32_t hash = i * 0x9e3779b1u;
    hash = (hash ^ (hash >> 15)) * 0x85ebca77u;
    const auto percent = static_cast<int>((hash >> 16) % 201) - 100;
    const float unit = static_cast<float>(percent) / 100.0f;
    matrix.push_back(unit * unit * unit);
  }
  return matrix;
}

std::vector<float> kept_values(const std::vector<float>& matrix, const pomona::Mask& mask) {
  std::vector<float> values;
  for (int64_t i = 0; i < mask.size(); ++i) {
    if (mask[i]) values.push_back(matrix[static_cast<size_t>(i)]);
  }
  return values;
}

std::vector<float> to_floats(const pomona::Weight& weight) {
  const auto bytes = weight.to_dense();
  std::vector<float> matrix(bytes.size() / sizeof(float));
  std::memcpy(matrix.data(), bytes.data(), bytes.size());
  return matrix;
}

pomona::Mask prune(std::vector<float>& matrix) {
  const auto mask = pomona::select_smallest(matrix, kSparsity);
  for (int64_t i = 0; i < mask.size(); ++i) {
    if (!mask[i]) matrix[static_cast<size_t>(i)] = 0;
  }
  std::printf("\n2. Pruned: %lld of %lld kept; the mask, a bit a weight\n",
              static_cast<long long>(mask.kept()), static_cast<long long>(mask.size()));
  for (int64_t row = 0; row < kRows; ++row) {
    std::printf("   ");
    for (int64_t col = 0; col < kCols; ++col) std::printf(" %d", int{mask[row * kCols + col]});
    std::printf("\n");
  }
  return mask;
}

pomona::Weight share(const std::vector<float>& matrix, const pomona::Mask& mask) {
  const auto values = kept_values(matrix, mask);
  pomona::Weight weight{.name = "fc", .shape = {kRows, kCols}, .mask = mask};
  const pomona::Codebook codebook = pomona::fit_codebook(values, kCentroids);
  weight.codebook = codebook.entries;
  weight.codes = pomona::assign_codes(values, codebook);
  std::printf("\n3. Shared: a codebook by k-means, a code for each kept weight\n   codebook");
  for (const float centroid : weight.codebook) std::printf("%s", printable(centroid).c_str());
  std::printf("\n   codes   ");
  for (const uint8_t code : weight.codes) std::printf(" %d", code);
  std::printf("\n");
  print_matrix(to_floats(weight));
  return weight;
}

pomona::RelativeIndex index(const pomona::Weight& weight) {
  const auto relative = pomona::relative_index(weight.mask, kGapBits);
  std::printf(
      "\n4. Relative index of %d bits: zeros before each weight; F skips %d zeros\n   gaps   ",
      kGapBits, static_cast<int>(relative.filler()));
  for (const uint32_t gap : relative.gaps) {
    gap == relative.filler() ? std::printf(" F") : std::printf(" %d", static_cast<int>(gap));
  }
  std::printf("\n   as the thesis stores it (gap,code; code 0 is a filler's zero)\n   ");
  for (const auto& entry : pomona::stored_entries(relative, weight.codes)) {
    std::printf(" %d,%d", entry.gap, entry.code);
  }
  std::printf("\n");
  return relative;
}

// Histogram, lengths, codes and stream of one kind of symbol.
void huffman(const char* what, const std::vector<uint8_t>& symbols, int64_t alphabet) {
  const auto counts = pomona::histogram(symbols, alphabet);
  const auto lengths = pomona::huffman_lengths(counts);
  const auto codes = pomona::canonical_codes(lengths);
  const auto stream = pomona::encode_symbols(symbols, alphabet);
  std::printf("   %s: symbol, how often, code\n", what);
  for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
    std::printf("     %zu  %2d  %s\n", symbol, static_cast<int>(counts[symbol]),
                binary(codes[symbol], lengths[symbol]).c_str());
  }
  std::printf(
      "     %d bits: the table of lengths and the codes, each filled to bytes, the first bit "
      "first:",
      static_cast<int>(pomona::coded_size_bits(counts)));
  for (size_t i = 0; i < stream.size(); ++i) {
    std::string bits = binary(static_cast<uint32_t>(stream[i]), 8);
    std::printf("%s%s", i % 8 == 0 ? "\n       " : " ",
                std::string(bits.rbegin(), bits.rend()).c_str());
  }
  std::printf("\n");
}

void print_file(const std::filesystem::path& path, const pomona::FileEntry& entry) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  const uint64_t sections = entry.offset + entry.bytes();
  std::printf(
      "\n6. The file: %zu bytes = header 16, codebook %d, positions %d, codes %d, directory %d, "
      "footer 24; dense fp32 %d\n",
      bytes.size(), static_cast<int>(entry.codebook_bytes), static_cast<int>(entry.position_bytes),
      static_cast<int>(entry.code_bytes), static_cast<int>(bytes.size() - 24 - sections),
      static_cast<int>(4 * entry.numel));
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i % 16 == 0) std::printf("%s   %04x ", i == 0 ? "" : "\n", static_cast<unsigned>(i));
    std::printf(" %02x", static_cast<unsigned char>(bytes[i]));
  }
  std::printf("\n");
}

pomona::Weight through_a_file(const pomona::Weight& weight) {
  const auto path = std::filesystem::temp_directory_path() / "00_one_weight.pomona";
  pomona::FileWriter writer(path,
                            {.goal = pomona::Goal::kHuffman, .gap_bits = kGapBits, .parallel = {}});
  const auto entry = writer.add(weight);
  writer.commit();
  print_file(path, entry);
  auto back = pomona::FileReader(path).read(weight.name);
  std::filesystem::remove(path);
  std::printf("   the smallest that there is: %d bytes in place of %d\n",
              static_cast<int>(pomona::coded_entry(weight).bytes()),
              static_cast<int>(entry.bytes()));
  std::printf("\n7. Read back: %s\n",
              back == weight ? "the same weight, bit for bit" : "DIFFERENT");
  return back;
}

// y = W x from the packed layout, beside the dense product.
void multiply(const pomona::Weight& weight) {
  const auto packed = pomona::pack(weight);
  const auto matrix = to_floats(weight);
  const std::vector<float> x{1, -1, 2, 0.5f, -2, 1, 0, 3};
  std::vector<float> y(kRows);
  pomona::multiply(packed.bytes, x, 1, y);
  std::printf("\n8. Packed as %s, multiplied: y = W x\n   packed",
              std::string(pomona::layout_name(packed.layout)).c_str());
  for (const float value : y) std::printf(" %s", printable(value).c_str());
  std::printf("\n   dense ");
  for (int64_t row = 0; row < kRows; ++row) {
    float sum = 0;
    for (int64_t col = 0; col < kCols; ++col) {
      sum += matrix[static_cast<size_t>(row * kCols + col)] * x[static_cast<size_t>(col)];
    }
    std::printf(" %s", printable(sum).c_str());
  }
  std::printf("\n");
}

// The same weight on four PEs of EIE, which skip the zeros of x.
void simulate(const pomona::Weight& weight) {
  const pomona::eie::Config config{.pes = 4};
  const pomona::eie::Layer layer(weight, {}, config);
  const std::vector<float> x{1, 0, 2, 0.5f, 0, 1, 0, 3};
  const auto run =
      pomona::eie::Machine(config).run(layer, x, layer.choose_format(x), {.trace_last = 99});
  std::printf(
      "\n9. On EIE, x = 1 0 2 0.5 0 1 0 3: g a group of x is read, B one of it goes to all PEs,\n"
      "   # a weight, f a filler, o a column without weights, . nothing\n");
  std::printf("%s   in 16 bits", run.trace.c_str());
  for (const float value : run.outputs) std::printf(" %s", printable(value).c_str());
  std::printf("\n");
}

}  // namespace

int main() {
  auto matrix = trained_matrix();
  std::printf("1. Trained: W [8, 8], fp32\n");
  print_matrix(matrix);
  const auto mask = prune(matrix);
  const auto weight = share(matrix, mask);
  const auto relative = index(weight);
  std::printf("\n5. Huffman: frequent symbols get short codes\n");
  // With so few bits a gap is its own symbol, and the filler the last.
  huffman("gaps", {relative.gaps.begin(), relative.gaps.end()}, pomona::gap_alphabet(kGapBits));
  huffman("codes", weight.codes, static_cast<int64_t>(weight.codebook.size()));
  const auto back = through_a_file(weight);
  multiply(back);
  simulate(back);
}
