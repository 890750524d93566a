#include "cuda_emulator/emulator.h"

#include <algorithm>
#include <numeric>

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

extern "C" {
[[gnu::weak]] extern std::byte pomona_shared_begin[];
[[gnu::weak]] extern std::byte pomona_shared_end[];
}

namespace pomona::emulator {
namespace {

Block* running_block = nullptr;

// Not sanitized: between the arrays lie their redzones, which are filled along with them.
[[gnu::no_sanitize("address")]] void forget_shared_memory() {
  const auto [begin, end] = shared_memory();
  auto* const last = reinterpret_cast<volatile uint64_t*>(end);  // volatile: never a memset
  for (auto* word = reinterpret_cast<volatile uint64_t*>(begin); word != last; ++word) {
    *word = ~uint64_t{0};
  }
}

void check_shape(const char* name, dim3 shape, dim3 limit, uint64_t max_count) {
  const auto fits = [](unsigned extent, unsigned most) { return extent >= 1 && extent <= most; };
  if (fits(shape.x, limit.x) && fits(shape.y, limit.y) && fits(shape.z, limit.z) &&
      uint64_t{shape.x} * shape.y * shape.z <= max_count) {
    return;
  }
  throw KernelError("launch: expected `" + std::string(name) + "` that a GPU accepts, got (" +
                    std::to_string(shape.x) + ", " + std::to_string(shape.y) + ", " +
                    std::to_string(shape.z) + ").");
}

std::vector<uint64_t> block_order(const Schedule& schedule, uint64_t count) {
  std::vector<uint64_t> blocks(count);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  if (schedule.order == Order::kReverse) std::reverse(blocks.begin(), blocks.end());
  if (schedule.order == Order::kRandom) {
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937_64(schedule.seed));
  }
  return blocks;
}

// Ends with the launch, whichever way it ends.
class RunningBlock {
 public:
  explicit RunningBlock(Block& block) { running_block = &block; }
  ~RunningBlock() { running_block = nullptr; }
  RunningBlock(const RunningBlock&) = delete;
  RunningBlock& operator=(const RunningBlock&) = delete;
};

}  // namespace

Block& current_block() {
  if (running_block == nullptr) throw KernelError("emulator: expected a kernel to run, got none.");
  return *running_block;
}

std::pair<std::byte*, std::byte*> shared_memory() {
  return {pomona_shared_begin, pomona_shared_end};
}

void run_grid(const Schedule& schedule, dim3 grid, dim3 block,
              const std::function<void()>& thread) {
  if (running_block != nullptr) {
    throw KernelError("launch: expected no running kernel, got a launch inside one.");
  }
  check_shape("grid", grid, {0x7fffffff, 65535, 65535}, ~uint64_t{0});
  check_shape("block", block, {1024, 1024, 64}, 1024);
  gridDim = grid;
  blockDim = block;
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  for (const uint64_t b : block_order(schedule, count)) {
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    forget_shared_memory();
    Block emulated(block, blockIdx, {schedule.order, schedule.seed + b});
    const RunningBlock running(emulated);
    emulated.run(thread);
  }
}

}  // namespace pomona::emulator
