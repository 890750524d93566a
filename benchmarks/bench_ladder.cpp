// One matrix at batch 1, rung by rung: from compressed rows as libraries have them to the tiles, in
// every instruction set that this machine has, x's preparation inside the call. Arguments besides
// Google Benchmark's, four for each matrix: name, rows, columns, density (bench_ladder.py gives
// them). "clock" takes four cycles an iteration; "read" reads the counter's bytes and adds them up.
#include "pomona/packed.h"
#include "pomona/weight.h"

#include "base/isa.h"
#include "infer/csc16_kernel.h"
#include "infer/csr16_kernel.h"
#include "infer/lut_kernel.h"
#include "infer/pg_kernel.h"
#include "shapes.h"

#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using pomona::Isa;
using pomona::PackedForm;
using pomona::PgEffort;
using pomona::Precision;

std::vector<float> input(int64_t cols) {
  std::mt19937 random(2);
  std::vector<float> x(static_cast<size_t>(cols));
  for (float& value : x) value = static_cast<float>(random() % 1000) / 1000;
  return x;
}

// Memory on a boundary of 64 bytes.
struct Free {
  void operator()(std::byte* memory) const { operator delete[](memory, std::align_val_t{64}); }
};
class Aligned {
 public:
  explicit Aligned(int64_t bytes)
      : size_(static_cast<size_t>(bytes)),
        memory_(new (std::align_val_t{64}) std::byte[static_cast<size_t>(bytes)]) {}
  std::span<std::byte> span() { return {memory_.get(), size_}; }

 private:
  size_t size_;
  std::unique_ptr<std::byte[], Free> memory_;
};

// A way to multiply: the bytes that a call reads, and the call.
struct Rung {
  int64_t bytes = 0;
  std::function<void(std::span<const float> x, float* y)> multiply;
};

// Rows compressed as libraries have them: float values, 32-bit columns, one sum.
Rung naive(const pomona::Weight& weight) {
  struct Rows {
    std::vector<int32_t> starts, columns;
    std::vector<float> values;
  };
  auto rows = std::make_shared<Rows>();
  const int64_t cols = weight.shape[1];
  rows->starts.assign(static_cast<size_t>(weight.shape[0]) + 1, 0);
  size_t kept = 0;
  pomona::for_each_kept(weight.mask, [&](size_t i) {
    ++rows->starts[i / static_cast<size_t>(cols) + 1];
    rows->columns.push_back(static_cast<int32_t>(i % static_cast<size_t>(cols)));
    rows->values.push_back(weight.codebook[weight.codes[kept++]]);
  });
  std::partial_sum(rows->starts.begin(), rows->starts.end(), rows->starts.begin());
  const auto bytes = static_cast<int64_t>(8 * kept + 4 * rows->starts.size());
  return {bytes, [rows](std::span<const float> x, float* y) {
            for (size_t r = 0; r + 1 < rows->starts.size(); ++r) {
              float sum = 0;
              for (int32_t e = rows->starts[r]; e < rows->starts[r + 1]; ++e) {
                const auto i = static_cast<size_t>(e);
                sum += rows->values[i] * x[static_cast<size_t>(rows->columns[i])];
              }
              y[r] = sum;
            }
          }};
}

Rung csr16(const pomona::Weight& weight) {
  auto bytes = std::make_shared<std::vector<std::byte>>(pomona::pack_csr16(weight));
  return {std::ssize(*bytes), [bytes](std::span<const float> x, float* y) {
            const auto matrix = pomona::view_csr16(*bytes);
            pomona::multiply_csr16(matrix, x.data(), 1, nullptr, y, {0, matrix.rows});
          }};
}

Rung csc16(const pomona::Weight& weight) {
  auto bytes = std::make_shared<std::vector<std::byte>>(pomona::pack_csc16(weight));
  auto scratch = std::make_shared<Aligned>(pomona::csc16_input_bytes(pomona::view_csc16(*bytes)));
  return {std::ssize(*bytes), [bytes, scratch](std::span<const float> x, float* y) {
            const auto matrix = pomona::view_csc16(*bytes);
            const auto in = pomona::make_csc16_input(x, scratch->span());
            pomona::multiply_csc16(matrix, in, nullptr, false, y, 0, matrix.blocks());
          }};
}

Rung tiles(const pomona::Weight& weight, PackedForm form, Precision precision, PgEffort effort,
           Isa isa) {
  auto bytes =
      std::make_shared<std::vector<std::byte>>(pomona::pack_pg(weight, form, precision, effort));
  auto planes = std::make_shared<Aligned>(pomona::pg_input_bytes(pomona::view_pg(*bytes)));
  return {std::ssize(*bytes), [bytes, planes, isa](std::span<const float> x, float* y) {
            const auto matrix = pomona::view_pg(*bytes);
            const auto in = pomona::make_pg_input(matrix, x, planes->span(), isa);
            const auto blocks = std::ssize(matrix.blocks) - 1;
            pomona::multiply_pg(matrix, in, nullptr, false, y, 0, blocks, isa);
          }};
}

Rung lut(const pomona::Weight& weight, PackedForm form, Precision precision, Isa isa) {
  auto bytes = std::make_shared<std::vector<std::byte>>(pomona::pack_lut(weight, form, precision));
  auto plane = std::make_shared<Aligned>(pomona::lut_input_bytes(pomona::check_lut(*bytes)));
  return {std::ssize(*bytes), [bytes, plane, isa](std::span<const float> x, float* y) {
            const auto matrix = pomona::check_lut(*bytes);
            const auto in = pomona::make_lut_input(matrix, x, plane->span(), isa);
            pomona::multiply_lut(matrix, in, nullptr, false, y, {0, matrix.header.rows}, isa);
          }};
}

using Ladder = std::vector<std::pair<std::string, std::function<Rung()>>>;

Ladder ladder(const pomona::Weight& weight, const pomona::Weight& rounded) {
  constexpr auto kFloat = PackedForm::kFloat32, kHalf = PackedForm::kBFloat16;
  constexpr auto kExact = Precision::kFloat32;
  constexpr auto kBest = PgEffort::kThorough;
  Ladder rungs;
  const auto add = [&](std::string name, auto make) { rungs.emplace_back(std::move(name), make); };
  add("rows, float32 and int32", [&] { return naive(weight); });
  add("csr16", [&] { return csr16(weight); });
  add("csc16", [&] { return csc16(weight); });
  for (const auto& [isa, name] : {std::pair{Isa::kPortable, "plain"}, std::pair{Isa::kAvx2, "AVX2"},
                                  std::pair{Isa::kAvx512BFloat16, "AVX-512"}}) {
    if (!pomona::has_isa(isa)) continue;
    const auto with = [n = std::string(name)](const char* what) { return what + (", " + n); };
    const Isa with_isa = isa;
    add(with("pg32, one view"),
        [&, with_isa] { return tiles(weight, kFloat, kExact, PgEffort::kQuick, with_isa); });
    add(with("pg32"), [&, with_isa] { return tiles(weight, kFloat, kExact, kBest, with_isa); });
    if (isa == Isa::kPortable) continue;
    const auto half = isa == Isa::kAvx2 ? kFloat : kHalf;
    add(with("pg32, bf16 codebook"),
        [&, with_isa, half] { return tiles(rounded, half, kExact, kBest, with_isa); });
    for (const auto& [precision, told] :
         {std::pair{Precision::kFixed16, "pgv fixed16"}, std::pair{Precision::kInt8, "pgv int8"}}) {
      const Precision in = precision;
      add(with(told),
          [&, with_isa, in] { return tiles(weight, PackedForm::kBytes, in, kBest, with_isa); });
    }
    add(with("lut"), [&, with_isa] { return lut(weight, kFloat, kExact, with_isa); });
    add(with("lut int8"),
        [&, with_isa] { return lut(weight, PackedForm::kBytes, Precision::kInt8, with_isa); });
  }
  return rungs;
}

void multiplies(benchmark::State& state, const Rung& rung, const pomona::Weight& weight) {
  const auto x = input(weight.shape[1]);
  std::vector<float> y(static_cast<size_t>(weight.shape[0]));
  for (auto each : state) {
    static_cast<void>(each);
    rung.multiply(x, y.data());
    benchmark::ClobberMemory();
  }
  state.counters["bytes"] = static_cast<double>(rung.bytes);
  state.counters["nonzeros"] = static_cast<double>(weight.codes.size());
}

// As many bytes, read and added up: what the caches and the memory give.
void reads(benchmark::State& state, int64_t bytes) {
  constexpr size_t kSums = 16;  // so many that none waits for another
  const std::vector<uint64_t> memory((static_cast<size_t>(bytes) / 8 / kSums + 1) * kSums, 1);
  for (auto each : state) {
    static_cast<void>(each);
    std::array<uint64_t, kSums> sums{};
    for (size_t i = 0; i < memory.size(); i += kSums) {
      for (size_t s = 0; s < kSums; ++s) sums[s] += memory[i + s];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.counters["bytes"] = static_cast<double>(bytes);
}

// A product (three cycles) and a sum (one) that wait for one another.
void clock_of(benchmark::State& state) {
  constexpr int64_t kSteps = 100'000;
  constexpr uint64_t kFactor = 6'364'136'223'846'793'005;  // of no cheaper instruction
  uint64_t value = 1;
  for (auto each : state) {
    static_cast<void>(each);
    for (int64_t i = 0; i < kSteps; ++i) value = value * kFactor + 1;
    benchmark::DoNotOptimize(value);
  }
  state.counters["cycles"] = 4.0 * kSteps;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  struct Case {
    pomona::Weight weight, rounded;
    std::vector<std::unique_ptr<Rung>> rungs;
  };
  std::vector<std::unique_ptr<Case>> cases;
  benchmark::RegisterBenchmark("clock", clock_of);
  for (const auto& shape : pomona::benchmarks::shapes_of(argc, argv)) {
    auto& of_shape = *cases.emplace_back(std::make_unique<Case>(Case{
        pomona::benchmarks::bernoulli(shape), pomona::benchmarks::bernoulli(shape, true), {}}));
    for (const auto& [name, make] : ladder(of_shape.weight, of_shape.rounded)) {
      const Rung& rung = *of_shape.rungs.emplace_back(std::make_unique<Rung>(make()));
      const auto full = shape.name + '/' + name;
      benchmark::RegisterBenchmark((full + "/multiply").c_str(), multiplies, rung, of_shape.weight);
      benchmark::RegisterBenchmark((full + "/read").c_str(), reads, rung.bytes);
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
