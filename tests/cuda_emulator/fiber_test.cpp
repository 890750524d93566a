#include "cuda_emulator/fiber.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace pomona::emulator {
namespace {

TEST(Fiber, GoesOnWhereItSuspended) {
  std::string trace;
  Fiber fiber;
  fiber.start([&] {
    for (const char step : {'a', 'b', 'c'}) {
      trace += step;
      Fiber::suspend();
    }
  });
  while (!fiber.is_idle()) {
    fiber.resume();
    trace += '.';
  }
  EXPECT_EQ(trace, "a.b.c..");
}

TEST(Fiber, KeepsItsLocalsWhileAThousandOthersRun) {
  std::vector<Fiber> fibers(1000);
  int wrong = 0;
  for (int f = 0; f < 1000; ++f) {
    fibers[static_cast<size_t>(f)].start([f, &wrong] {
      volatile int local[16];
      for (int i = 0; i < 16; ++i) local[i] = f + i;
      for (int turn = 0; turn < 5; ++turn) Fiber::suspend();
      for (int i = 0; i < 16; ++i) wrong += local[i] != f + i;
    });
  }
  for (int turn = 0; turn < 6; ++turn) {
    for (auto& fiber : fibers) fiber.resume();
  }
  EXPECT_EQ(wrong, 0);
  for (auto& fiber : fibers) EXPECT_TRUE(fiber.is_idle());
}

TEST(Fiber, IsStartedAgainAfterItsBodyEnds) {
  Fiber fiber;
  int runs = 0;
  for (int i = 0; i < 3; ++i) {
    fiber.start([&] { ++runs; });
    fiber.resume();
  }
  EXPECT_EQ(runs, 3);
}

TEST(Fiber, GivesWhatItsBodyThrowsToTheCallerOfResume) {
  Fiber fiber;
  fiber.start([] {
    Fiber::suspend();
    throw std::runtime_error("from the body");
  });
  fiber.resume();
  try {
    fiber.resume();
    FAIL() << "resume() did not throw";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "from the body");
  }
  EXPECT_TRUE(fiber.is_idle());
}

TEST(Fiber, RunsTheDestructorsOfABodyThatIsCancelled) {
  struct Counter {
    int& count;
    ~Counter() { ++count; }
  };
  int destroyed = 0;
  {
    Fiber fiber;
    fiber.start([&] {
      const Counter counter{destroyed};
      Fiber::suspend();
    });
    fiber.resume();
    fiber.cancel();
    EXPECT_EQ(destroyed, 1);
    EXPECT_TRUE(fiber.is_idle());
    fiber.start([&] {
      const Counter counter{destroyed};
      Fiber::suspend();
    });
    fiber.resume();
  }
  EXPECT_EQ(destroyed, 2) << "the fiber's own destructor cancels too";
}

TEST(Fiber, DoesNotEnterABodyThatIsCancelledBeforeItsFirstStep) {
  bool ran = false;
  {
    Fiber fiber;
    fiber.start([&] { ran = true; });
    fiber.cancel();
  }
  EXPECT_FALSE(ran);
}

TEST(Fiber, MayResumeAnother) {
  std::string trace;
  Fiber inner, outer;
  inner.start([&] {
    trace += "i";
    Fiber::suspend();
    trace += "i";
  });
  outer.start([&] {
    inner.resume();
    trace += "o";
    Fiber::suspend();
    inner.resume();
    trace += "o";
  });
  outer.resume();
  outer.resume();
  EXPECT_EQ(trace, "ioio");
}

}  // namespace
}  // namespace pomona::emulator
