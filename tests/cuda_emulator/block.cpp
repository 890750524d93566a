#include "cuda_emulator/block.h"

#include "cuda_emulator/emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

namespace pomona::emulator {
namespace {

// Stacks are mapped once and used by every block of every launch.
std::deque<Fiber>& fiber_pool(size_t size) {
  static thread_local std::deque<Fiber> pool;
  while (pool.size() < size) pool.emplace_back();
  return pool;
}

std::string hex(uint32_t mask) {
  char text[11];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

}  // namespace

std::string CallSite::to_string() const {
  return std::string(function) + " at " + where.file_name() + ":" + std::to_string(where.line());
}

bool CallSite::operator==(const CallSite& other) const {
  return where.line() == other.where.line() && where.column() == other.where.column() &&
         std::strcmp(function, other.function) == 0 &&
         std::strcmp(where.file_name(), other.where.file_name()) == 0;
}

Block::Block(dim3 shape, uint3 index, const Schedule& schedule)
    : shape_(shape),
      index_(index),
      order_(schedule.order),
      rng_(schedule.seed),
      threads_(size_t{shape.x} * shape.y * shape.z),
      living_(static_cast<unsigned>(threads_.size())) {}

void Block::run(const std::function<void()>& thread) {
  auto& fibers = fiber_pool(threads_.size());
  for (unsigned t = 0; t < threads_.size(); ++t) {
    fibers[t].start(thread);
    set_ready(t);
  }
  try {
    run_threads(fibers);
  } catch (...) {
    for (unsigned t = 0; t < threads_.size(); ++t) fibers[t].cancel();
    throw;
  }
}

void Block::run_threads(std::deque<Fiber>& fibers) {
  while (living_ > 0) {
    if (ready_.empty()) report_deadlock();
    running_ = next_ready();
    threadIdx = thread_index(running_);
    fibers[running_].resume();
    if (fibers[running_].is_idle()) end(running_);
  }
}

unsigned Block::next_ready() {
  if (order_ == Order::kForward) return *ready_.begin();
  if (order_ == Order::kReverse) return *ready_.rbegin();
  const auto at_or_after = ready_.lower_bound(static_cast<unsigned>(rng_() % threads_.size()));
  return at_or_after == ready_.end() ? *ready_.begin() : *at_or_after;
}

uint3 Block::thread_index(unsigned thread) const {
  return {thread % shape_.x, thread / shape_.x % shape_.y, thread / shape_.x / shape_.y};
}

void Block::set_ready(unsigned thread) {
  threads_[thread].state = State::kReady;
  ready_.insert(thread);
}

void Block::end(unsigned thread) {
  threads_[thread].state = State::kEnded;
  ready_.erase(thread);
  --living_;
  // Those that waited for this thread alone can go on: barriers and warp-wide calls are for the
  // threads that still live.
  open_barrier_if_all_wait();
  const unsigned warp = thread / kWarpSize;
  const auto first = threads_.begin() + warp * kWarpSize;
  const auto last = threads_.begin() + std::min<ptrdiff_t>((warp + 1) * kWarpSize,
                                                           static_cast<ptrdiff_t>(threads_.size()));
  for (auto lane = first; lane != last; ++lane) {
    if (lane->state == State::kAtWarpCall) answer_if_all_called(warp, WarpCall(lane->call));
  }
}

void Block::wait_for_block(const CallSite& site) {
  Thread& thread = threads_[running_];
  thread.state = State::kAtBarrier;
  thread.call.site = site;
  ++at_barrier_;
  ready_.erase(running_);
  open_barrier_if_all_wait();
  Fiber::suspend();
}

void Block::open_barrier_if_all_wait() {
  if (at_barrier_ < living_) return;
  const CallSite* site = nullptr;
  for (const Thread& thread : threads_) {
    if (thread.state == State::kEnded) continue;
    // Two barriers in the source are two barriers here, though a GPU might take them for one.
    if (site != nullptr && !(*site == thread.call.site)) return;
    site = &thread.call.site;
  }
  at_barrier_ = 0;
  for (unsigned t = 0; t < threads_.size(); ++t) {
    if (threads_[t].state == State::kAtBarrier) set_ready(t);
  }
}

WarpAnswer Block::wait_for_warp(const WarpCall& call) {
  if ((call.mask >> lane() & 1) == 0) {
    throw KernelError(call.site.to_string() + ": expected `mask` to hold the calling lane " +
                      std::to_string(lane()) + ", got " + hex(call.mask) + ".");
  }
  Thread& thread = threads_[running_];
  thread.state = State::kAtWarpCall;
  thread.call = call;
  ready_.erase(running_);
  answer_if_all_called(running_ / kWarpSize, call);
  Fiber::suspend();
  if (thread.is_source_absent) {
    throw KernelError(call.site.to_string() + ": expected lane " +
                      std::to_string(call.source_lane) + ", which lane " + std::to_string(lane()) +
                      " reads, to take part, got mask " + hex(call.mask) +
                      " without it, or a lane that has ended.");
  }
  return thread.answer;
}

uint32_t Block::living_lanes(unsigned warp, uint32_t mask) const {
  uint32_t living = 0;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const size_t thread = size_t{warp} * kWarpSize + lane;
    if (thread < threads_.size() && threads_[thread].state != State::kEnded) living |= 1u << lane;
  }
  return living & mask;
}

void Block::answer_if_all_called(unsigned warp, const WarpCall& call) {
  const uint32_t lanes = living_lanes(warp, call.mask);
  Thread* const threads = &threads_[size_t{warp} * kWarpSize];
  uint32_t non_zero = 0;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    const Thread& thread = threads[lane];
    if (thread.state != State::kAtWarpCall || !(thread.call.site == call.site) ||
        thread.call.mask != call.mask) {
      return;
    }
    if (thread.call.value != 0) non_zero |= 1u << lane;
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    Thread& thread = threads[lane];
    const unsigned source = thread.call.source_lane;
    thread.is_source_absent = (lanes >> source & 1) == 0;
    if (!thread.is_source_absent) thread.answer = {threads[source].call.value, non_zero};
    set_ready(warp * kWarpSize + lane);
  }
}

void Block::report_deadlock() const {
  std::map<std::string, std::vector<unsigned>> waiting;
  for (unsigned t = 0; t < threads_.size(); ++t) {
    const Thread& thread = threads_[t];
    if (thread.state == State::kEnded) continue;
    std::string place = thread.call.site.to_string();
    if (thread.state == State::kAtWarpCall) place += " with mask " + hex(thread.call.mask);
    waiting[place].push_back(t);
  }
  std::string message = "block (" + std::to_string(index_.x) + ", " + std::to_string(index_.y) +
                        ", " + std::to_string(index_.z) +
                        "): expected its living threads to meet, got ";
  const char* separator = "";
  for (const auto& [place, threads] : waiting) {
    message += separator + std::to_string(threads.size()) + " waiting in " + place +
               " (the first is thread " + std::to_string(threads.front()) + ")";
    separator = ", ";
  }
  throw KernelError(message + ".");
}

}  // namespace pomona::emulator
