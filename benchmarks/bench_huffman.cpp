// Symbols per second of the symbol streams of a file, on codes as a 5-bit shared layer has them and
// on gaps of random positions at 9% density (thesis: AlexNet fc6 and fc7).
#include "pomona/encode.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace {

constexpr size_t kSymbols = size_t{1} << 22;
constexpr int64_t kCodes = 31;
constexpr double kDensity = 0.09;

// Two peaks, as k-means of pruned normal weights gives them.
std::vector<uint8_t> codes() {
  std::mt19937_64 rng(1);
  std::normal_distribution<double> normal;
  std::vector<uint8_t> symbols;
  while (symbols.size() < kSymbols) {
    const double weight = normal(rng);
    if (std::abs(weight) < 1.7) continue;
    const double code = (weight + 4) / 8 * static_cast<double>(kCodes);
    symbols.push_back(static_cast<uint8_t>(std::clamp(code, 0.0, double{kCodes - 1})));
  }
  return symbols;
}

pomona::Mask positions() {
  std::mt19937_64 rng(1);
  std::bernoulli_distribution is_kept(kDensity);
  pomona::Mask mask(static_cast<int64_t>(static_cast<double>(kSymbols) / kDensity), false);
  for (int64_t i = 0; i < mask.size(); ++i) mask.set(i, is_kept(rng));
  return mask;
}

void report(benchmark::State& state, size_t symbols, size_t bytes) {
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(symbols));
  state.counters["bits_per_symbol"] =
      8.0 * static_cast<double>(bytes) / static_cast<double>(symbols);
}

void encode_codes(benchmark::State& state) {
  const auto symbols = codes();
  size_t bytes = 0;
  for (auto _ : state) bytes = pomona::encode_symbols(symbols, kCodes).size();
  report(state, symbols.size(), bytes);
}

void decode_codes(benchmark::State& state) {
  const auto bytes = pomona::encode_symbols(codes(), kCodes);
  for (auto _ : state) benchmark::DoNotOptimize(pomona::decode_codes(bytes, kSymbols, kCodes));
  report(state, kSymbols, bytes.size());
}

void encode_positions(benchmark::State& state) {
  const auto mask = positions();
  size_t bytes = 0, symbols = 0;
  for (auto _ : state) {
    const int bits = pomona::best_gap_bits(mask);
    const auto index = pomona::relative_index(mask, bits);
    symbols = index.gaps.size();
    bytes = pomona::encode_symbols(index.gaps, index.filler() + 1).size();
  }
  report(state, symbols, bytes);
}

void decode_positions(benchmark::State& state) {
  const auto mask = positions();
  auto index = pomona::relative_index(mask, pomona::best_gap_bits(mask));
  const auto count = static_cast<int64_t>(index.gaps.size());
  const auto bytes = pomona::encode_symbols(index.gaps, index.filler() + 1);
  for (auto _ : state) {
    index.gaps = pomona::decode_gaps(bytes, count, index.filler() + 1);
    benchmark::DoNotOptimize(pomona::to_mask(index, mask.size()));
  }
  report(state, index.gaps.size(), bytes.size());
}

BENCHMARK(encode_codes)->Name("huffman/encode/codes:5bit")->Unit(benchmark::kMillisecond);
BENCHMARK(decode_codes)->Name("huffman/decode/codes:5bit")->Unit(benchmark::kMillisecond);
BENCHMARK(encode_positions)
    ->Name("huffman/encode/gaps/density:0.09")
    ->Unit(benchmark::kMillisecond);
BENCHMARK(decode_positions)
    ->Name("huffman/decode/gaps/density:0.09")
    ->Unit(benchmark::kMillisecond);

}  // namespace
