// Symbols per second and bits per symbol of the entropy coders, beside the entropy and what others
// reach in the same process: zstd's Huff0 (its internal coder, four streams, blocks of 128 KB with
// a table each), and gzip, xz and zstd on two million of the same bytes. One core. Our decoders'
// tables are made once for all 16 million symbols, as for a tensor.
//
// Sources: "codes" of a pruned two-sided Gaussian in 16 levels; "runs" of zeros at 9 % density in 4
// bits with fillers (both 16 symbols, thesis §4.5); gaps at 9 % as the file has them; codes of 32
// and 256 levels.
#include "pomona/encode.h"

#include "encode/huffman_kernel.h"
#include "encode/rans.h"
#include "encode/rans_kernel.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef POMONA_HAS_HUFF0
#include <zstd.h>
#if ZSTD_VERSION_NUMBER < 10504
#undef POMONA_HAS_HUFF0  // the calls below had other arguments
#else
extern "C" {  // of libzstd.a, not in its headers
size_t HUF_compress4X_repeat(void*, size_t, const void*, size_t, unsigned, unsigned, void*, size_t,
                             void*, void*, int flags);
size_t HUF_decompress4X_hufOnly_wksp(void*, void*, size_t, const void*, size_t, void*, size_t,
                                     int flags);
unsigned HUF_isError(size_t);
}
#endif
#endif
#ifdef POMONA_HAS_ZLIB
#include <zlib.h>
#endif
#ifdef POMONA_HAS_LZMA
#include <lzma.h>
#endif

namespace {

using Symbols = std::vector<uint8_t>;

constexpr size_t kSymbols = size_t{16} << 20;

Symbols gaussian_codes(int levels) {
  std::mt19937_64 rng(1);
  std::normal_distribution<double> normal;
  Symbols symbols(kSymbols);
  constexpr double kThreshold = 0.8;
  const double step = 0.35 * 16 / levels;
  for (auto& symbol : symbols) {
    double weight = normal(rng);
    while (std::abs(weight) < kThreshold) weight = normal(rng);
    const int level =
        std::min(levels / 2 - 1, static_cast<int>((std::abs(weight) - kThreshold) / step));
    symbol = static_cast<uint8_t>(weight < 0 ? levels / 2 - 1 - level : levels / 2 + level);
  }
  return symbols;
}

Symbols runs(double density) {
  std::mt19937_64 rng(1);
  std::geometric_distribution<int> gaps(density);
  Symbols symbols;
  while (symbols.size() < kSymbols) {
    int gap = gaps(rng);
    for (; gap > 15; gap -= 16) symbols.push_back(15);
    symbols.push_back(static_cast<uint8_t>(gap));
  }
  symbols.resize(kSymbols);
  return symbols;
}

Symbols gaps(double density) {
  std::mt19937_64 rng(1);
  std::geometric_distribution<int> geometric(density);
  Symbols symbols;
  while (symbols.size() < kSymbols)
    symbols.push_back(static_cast<uint8_t>(std::min(geometric(rng), 127)));
  return symbols;
}

struct Source {
  const char* name;
  std::function<Symbols()> make;
};
const Source kSources[] = {{"codes/symbols:16", [] { return gaussian_codes(16); }},
                           {"runs/symbols:16", [] { return runs(0.09); }},
                           {"gaps/symbols:128", [] { return gaps(0.09); }},
                           {"codes/symbols:32", [] { return gaussian_codes(32); }},
                           {"codes/symbols:256", [] { return gaussian_codes(256); }}};

const Symbols& symbols_of(const Source& source) {
  static std::map<std::string, Symbols> made;
  auto& symbols = made[source.name];
  if (symbols.empty()) symbols = source.make();
  return symbols;
}

std::vector<uint64_t> counts_of(const Symbols& symbols) {
  return pomona::histogram(symbols, 256);
}

double entropy_of(const Symbols& symbols) {
  double bits = 0;
  for (const uint64_t count : counts_of(symbols)) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / static_cast<double>(symbols.size());
    bits -= share * std::log2(share);
  }
  return bits;
}

void report(benchmark::State& state, const Symbols& symbols, size_t bytes) {
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(symbols.size()));
  state.counters["bits_per_symbol"] =
      8.0 * static_cast<double>(bytes) / static_cast<double>(symbols.size());
  state.counters["entropy"] = entropy_of(symbols);
}

// The pieces of a file: a million symbols each.
std::vector<std::span<const uint8_t>> pieces_of(const Symbols& symbols) {
  constexpr size_t kPiece = size_t{1} << 20;
  std::vector<std::span<const uint8_t>> pieces;
  for (size_t at = 0; at < symbols.size(); at += kPiece) {
    pieces.push_back(std::span(symbols).subspan(at, std::min(kPiece, symbols.size() - at)));
  }
  return pieces;
}

// Counting and the making of the code are part of it, as they are of Huff0's.
template <class MakeEncoder>
void encode(benchmark::State& state, const Symbols& symbols, const MakeEncoder& make_encoder) {
  size_t bytes = 0;
  for (auto _ : state) {
    bytes = 0;
    const auto encoder = make_encoder(counts_of(symbols));
    for (const auto piece : pieces_of(symbols)) bytes += encoder.encode(piece).size();
  }
  report(state, symbols, bytes);
}

template <class Encoder, class Decoder>
void decode(benchmark::State& state, const Symbols& symbols, const Encoder& encoder,
            const Decoder& decoder) {
  std::vector<std::vector<std::byte>> coded;
  size_t bytes = 0;
  for (const auto piece : pieces_of(symbols)) {
    coded.push_back(encoder.encode(piece));
    bytes += coded.back().size();
  }
  Symbols decoded(symbols.size());
  const auto pieces = pieces_of(decoded);
  for (auto _ : state) {
    for (size_t p = 0; p < pieces.size(); ++p) {
      decoder.decode(coded[p], {const_cast<uint8_t*>(pieces[p].data()), pieces[p].size()});
    }
    benchmark::ClobberMemory();
  }
  if (decoded != symbols) throw std::runtime_error("decoded other symbols");
  report(state, symbols, bytes);
}

void register_huffman(const Source& source) {
  const std::string name = source.name;
  benchmark::RegisterBenchmark(("encode/huffman/" + name).c_str(),
                               [&source](benchmark::State& state) {
                                 const auto& symbols = symbols_of(source);
                                 encode(state, symbols, [](const auto& counts) {
                                   return pomona::HuffmanEncoder(pomona::huffman_lengths(counts));
                                 });
                               });
  benchmark::RegisterBenchmark(
      ("decode/huffman/" + name).c_str(), [&source](benchmark::State& state) {
        const auto& symbols = symbols_of(source);
        const auto lengths = pomona::huffman_lengths(counts_of(symbols));
        decode(state, symbols, pomona::HuffmanEncoder(lengths), pomona::HuffmanDecoder(lengths));
      });
}

void register_rans(const Source& source) {
  const std::string name = source.name;
  benchmark::RegisterBenchmark(("encode/rans/" + name).c_str(), [&source](benchmark::State& state) {
    const auto& symbols = symbols_of(source);
    encode(state, symbols, [](const auto& counts) {
      return pomona::RansEncoder(pomona::rans_frequencies(counts));
    });
  });
  constexpr std::pair<const char*, pomona::Isa> kIsas[] = {{"avx512", pomona::Isa::kAvx512},
                                                           {"avx2", pomona::Isa::kAvx2},
                                                           {"portable", pomona::Isa::kPortable}};
  for (const auto& [isa_name, isa] : kIsas) {
    if (!pomona::has_isa(isa)) continue;
    const auto run = [&source, isa = isa](benchmark::State& state) {
      const auto& symbols = symbols_of(source);
      const auto frequencies = pomona::rans_frequencies(counts_of(symbols));
      decode(state, symbols, pomona::RansEncoder(frequencies),
             pomona::RansDecoder(frequencies, isa));
    };
    benchmark::RegisterBenchmark(("decode/rans-" + std::string(isa_name) + "/" + name).c_str(),
                                 run);
  }
}

#ifdef POMONA_HAS_HUFF0
struct Huff0 {
  static constexpr size_t kBlock = size_t{128} << 10;
  // As zstd itself calls them: with BMI2, and so with its loops in assembly, where the machine has
  // it.
  int flags = __builtin_cpu_supports("bmi2") != 0 ? 1 : 0;
  std::vector<Symbols> blocks;
  size_t bytes = 0;
  std::vector<uint64_t> workspace = std::vector<uint64_t>(1 << 14);

  void encode(const Symbols& symbols) {
    blocks.clear();
    bytes = 0;
    std::vector<uint8_t> block(2 * kBlock);
    std::vector<uint64_t> table(512);
    for (size_t at = 0; at < symbols.size(); at += kBlock) {
      int repeat = 0;
      const size_t size = HUF_compress4X_repeat(
          block.data(), block.size(), symbols.data() + at, std::min(kBlock, symbols.size() - at),
          255, 11, workspace.data(), workspace.size() * 8, table.data(), &repeat, flags);
      if (HUF_isError(size) != 0 || size == 0) throw std::runtime_error("Huff0 cannot encode");
      blocks.emplace_back(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(size));
      bytes += size;
    }
  }
  void decode(Symbols& symbols) {
    std::vector<uint32_t> table(1 << 13);
    size_t at = 0;
    for (const auto& block : blocks) {
      table[0] = 12 * 0x01000001u;
      const size_t size = std::min(kBlock, symbols.size() - at);
      const size_t got = HUF_decompress4X_hufOnly_wksp(table.data(), symbols.data() + at, size,
                                                       block.data(), block.size(), workspace.data(),
                                                       workspace.size() * 8, flags);
      if (HUF_isError(got) != 0) throw std::runtime_error("Huff0 cannot decode");
      at += size;
    }
  }
};

void register_huff0(const Source& source) {
  const std::string name = source.name;
  benchmark::RegisterBenchmark(("encode/zstd-huff0/" + name).c_str(),
                               [&source](benchmark::State& state) {
                                 Huff0 coder;
                                 for (auto _ : state) coder.encode(symbols_of(source));
                                 report(state, symbols_of(source), coder.bytes);
                               });
  benchmark::RegisterBenchmark(("decode/zstd-huff0/" + name).c_str(),
                               [&source](benchmark::State& state) {
                                 Huff0 coder;
                                 coder.encode(symbols_of(source));
                                 Symbols decoded(kSymbols);
                                 for (auto _ : state) coder.decode(decoded);
                                 if (decoded != symbols_of(source))
                                   throw std::runtime_error("Huff0 decoded other symbols");
                                 report(state, symbols_of(source), coder.bytes);
                               });
  benchmark::RegisterBenchmark(("encode/zstd-19/" + name).c_str(), [&source](
                                                                       benchmark::State& state) {
    const Symbols some(symbols_of(source).begin(), symbols_of(source).begin() + (1 << 21));
    std::vector<char> out(ZSTD_compressBound(some.size()));
    size_t bytes = 0;
    for (auto _ : state)
      bytes = ZSTD_compress(out.data(), out.size(), some.data(), some.size(), 19);
    report(state, some, bytes);
  })->Iterations(1);
}
#else
void register_huff0(const Source&) {}
#endif

void register_general([[maybe_unused]] const Source& source) {
  [[maybe_unused]] const std::string name = source.name;
#ifdef POMONA_HAS_ZLIB
  benchmark::RegisterBenchmark(("encode/gzip-9/" + name).c_str(), [&source](
                                                                      benchmark::State& state) {
    const Symbols some(symbols_of(source).begin(), symbols_of(source).begin() + (1 << 21));
    std::vector<uint8_t> out(compressBound(some.size()));
    uLongf bytes = 0;
    for (auto _ : state) {
      bytes = out.size();
      compress2(out.data(), &bytes, some.data(), some.size(), 9);
    }
    report(state, some, bytes);
  })->Iterations(1);
#endif
#ifdef POMONA_HAS_LZMA
  benchmark::RegisterBenchmark(("encode/xz-6/" + name).c_str(), [&source](benchmark::State& state) {
    const Symbols some(symbols_of(source).begin(), symbols_of(source).begin() + (1 << 21));
    std::vector<uint8_t> out(lzma_stream_buffer_bound(some.size()));
    size_t bytes = 0;
    for (auto _ : state) {
      bytes = 0;
      lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr, some.data(), some.size(), out.data(),
                              &bytes, out.size());
    }
    report(state, some, bytes);
  })->Iterations(1);
#endif
}

}  // namespace

int main(int count, char** arguments) {
  for (const Source& source : kSources) {
    register_huffman(source);
    register_rans(source);
    register_huff0(source);
    register_general(source);
  }
#ifdef __clang__
  benchmark::AddCustomContext("compiler", __VERSION__);
#else
  benchmark::AddCustomContext("compiler", "GCC " __VERSION__);
#endif
  benchmark::Initialize(&count, arguments);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
