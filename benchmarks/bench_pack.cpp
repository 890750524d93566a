// Nonzeros packed a second on one core: every layout, the best packing and the quick one. From a
// `Weight` to packed bytes, as when a file is loaded. Arguments besides Google Benchmark's, four
// for each matrix: name, rows, columns, density (bench_pack.py gives them).
#include "pomona/packed.h"
#include "pomona/weight.h"

#include "shapes.h"

#include <benchmark/benchmark.h>

#include <cstdint>
#include <map>
#include <string>

namespace {

using pomona::benchmarks::bernoulli;
using pomona::benchmarks::Shape;

struct Way {
  const char* name;
  pomona::PackOptions options;
};
using pomona::Layout;
using pomona::Precision;
// The form of pgv is one for fixed16 and int8.
constexpr Way kWays[] = {
    {"csr16", {.layout = Layout::kCsr16}},
    {"pg32", {.layout = Layout::kPg32}},
    {"pg32, quick", {.layout = Layout::kPg32, .is_quick = true}},
    {"pg32 bf16", {.layout = Layout::kPg32, .precision = Precision::kBFloat16}},
    {"pg32 bf16, quick",
     {.layout = Layout::kPg32, .precision = Precision::kBFloat16, .is_quick = true}},
    {"pgv", {.layout = Layout::kPgv, .precision = Precision::kInt8}},
    {"pgv, quick", {.layout = Layout::kPgv, .precision = Precision::kInt8, .is_quick = true}},
    {"lut", {.layout = Layout::kLut}},
};

void packs(benchmark::State& state, const Shape& shape, const pomona::PackOptions& options) {
  static std::map<std::string, pomona::Weight> made;  // repetitions are interleaved
  if (!made.contains(shape.name)) made.emplace(shape.name, bernoulli(shape));
  const pomona::Weight& weight = made.at(shape.name);
  size_t bytes = 0;
  for (auto each : state) {
    static_cast<void>(each);
    bytes = pomona::pack(weight, options).bytes.size();
    benchmark::DoNotOptimize(bytes);
  }
  const auto nnz = static_cast<int64_t>(weight.codes.size());
  state.SetItemsProcessed(state.iterations() * nnz);
  state.counters["bits_per_nonzero"] = 8.0 * static_cast<double>(bytes) / static_cast<double>(nnz);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const Shape& shape : pomona::benchmarks::shapes_of(argc, argv)) {
    for (const Way& way : kWays) {
      benchmark::RegisterBenchmark((shape.name + '/' + way.name).c_str(), packs, shape, way.options)
          ->Unit(benchmark::kMillisecond);
    }
  }
#ifdef __clang__
  benchmark::AddCustomContext("compiler", __VERSION__);
#else
  benchmark::AddCustomContext("compiler", "GCC " __VERSION__);
#endif
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
