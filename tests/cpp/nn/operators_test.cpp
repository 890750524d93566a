#include <ATen/core/dispatch/Dispatcher.h>

#include <gtest/gtest.h>

namespace {

TEST(Operators, AreRegisteredInAProgramThatNamesNoSymbolOfOurs) {
  for (const char* name : {"apply_masks_", "lookup", "centroid_grad", "packed_linear"}) {
    const auto schema =
        c10::Dispatcher::singleton().findSchema({std::string("pomona::") + name, ""});
    EXPECT_TRUE(schema.has_value()) << name;
  }
}

}  // namespace
