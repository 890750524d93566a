#include "infer/pg_schedule.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace pomona {
namespace {

// Neighbours in time see second blocks that are far apart: a stride near the golden section that
// visits every block.
int64_t golden_stride(int64_t blocks) {
  auto stride = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(blocks) * 0.618034));
  while (std::gcd(stride, blocks) != 1) ++stride;
  return stride;
}

}  // namespace

int64_t PgSchedule::fewest_steps(int64_t cols, PackedForm form) {
  const int64_t multiple = pg_shape(form).steps;
  const int64_t half = (pg_blocks(cols, form) + 1) / 2;  // both registers see natural blocks
  return (half + multiple - 1) / multiple * multiple;
}

template <class ForEach>
PgSchedule::Lists PgSchedule::make_lists(const ForEach& for_each) const {
  Lists lists;
  lists.begins.assign(size_t{blocks_} + 1, 0);
  for_each([&](uint32_t block, uint32_t) { ++lists.begins[block + 1]; });
  std::partial_sum(lists.begins.begin(), lists.begins.end(), lists.begins.begin());
  lists.steps.resize(lists.begins.back());
  std::vector<uint32_t> next(lists.begins.begin(), lists.begins.end() - 1);
  for_each([&](uint32_t block, uint32_t step) { lists.steps[next[block]++] = step; });
  return lists;
}

PgSchedule::PgSchedule(int64_t cols, int64_t steps, PackedForm form, int views)
    : form_(form),
      views_(views),
      cols_(cols),
      blocks_(static_cast<uint32_t>(pg_blocks(cols, form))),
      reciprocal_(~uint64_t{0} / blocks_ + 1),
      shift_(std::countr_zero(static_cast<unsigned>(pg_shape(form).elements))),
      block_shift_(shift_ + std::countr_zero(unsigned{kPgWords})),
      steps_(static_cast<size_t>(steps)) {
  // With fewer steps than blocks the second register sees the natural blocks that are left over,
  // spread evenly over the steps, so that no column stays unseen.
  const bool is_covered = steps >= blocks_;
  const int64_t blocks = blocks_;
  const int64_t seconds = is_covered ? steps : std::max<int64_t>(0, 2 * steps - blocks);
  const int64_t stride = golden_stride(blocks);
  for (int64_t s = 0; s < steps; ++s) {
    auto& step = steps_[static_cast<size_t>(s)];
    if (views == 1) {
      step.first = static_cast<uint32_t>(s * blocks / steps);
      step.second = std::min(step.first + 1, blocks_ - 1);
      step.is_second_natural = true;
      continue;
    }
    step.first = static_cast<uint32_t>(is_covered ? s * blocks / steps : s);
    const int64_t before = s * seconds / steps, after = (s + 1) * seconds / steps;
    step.is_second_natural = after == before;
    const int64_t block =
        step.is_second_natural ? (steps + s - before) % blocks : before * stride % blocks;
    step.second = static_cast<uint32_t>(block);
  }
  naturals_ = make_lists([&](const auto& visit) {
    for (uint32_t s = 0; s < steps_.size(); ++s) {
      const auto& step = steps_[s];
      visit(step.first, s);
      if (step.is_second_natural && step.second != step.first) visit(step.second, s);
    }
  });
  seconds_ = make_lists([&](const auto& visit) {
    for (uint32_t s = 0; s < steps_.size(); ++s) {
      if (!steps_[s].is_second_natural) visit(steps_[s].second, s);
    }
  });
}

int64_t PgSchedule::column_at(uint32_t index, int64_t s) const {
  const auto& step = steps_[static_cast<size_t>(s)];
  const int64_t elements = pg_shape(form_).elements, half = kPgWords * elements;
  const int64_t within = index % half;
  int64_t column = 0;
  if (index < half) {
    column = step.first * half + within;
  } else if (step.is_second_natural) {
    column = step.second * half + within;
  } else {
    column = (within / elements * blocks_ + step.second) * elements + within % elements;
  }
  return column < cols_ ? column : -1;
}

}  // namespace pomona
