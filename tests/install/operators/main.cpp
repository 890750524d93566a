// What a user's program does with the installed library: an operator by its name, and a Pruner.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <pomona/error.h>
#include <pomona/prune.h>

#include <cstdio>
#include <vector>

int64_t nonzeros(const at::Tensor& tensor) {
  return tensor.count_nonzero().item<int64_t>();
}

int main() {
  // Mask bytes 0b01010101: every other of the 8 x 8 weights goes.
  const at::Tensor masked = at::ones({8, 8});
  const at::Tensor mask = at::full({8, 1}, 0x55, at::kByte);
  c10::Dispatcher::singleton()
      .findSchemaOrThrow("pomona::apply_masks_", "")
      .typed<void(at::TensorList, at::TensorList)>()
      .call(std::vector<at::Tensor>{masked}, std::vector<at::Tensor>{mask});

  const at::Tensor pruned = at::randn({20, 30});
  pomona::Pruner pruner({{{"fc.weight", {20, 30}}, pomona::Prune{.sparsity = 0.9}}});
  pruner.step(std::vector<pomona::Live>{{pruned, {}}});

  std::printf("pomona %s: the operator kept %lld of 64, the Pruner %lld of 600\n",
              pomona::version(), static_cast<long long>(nonzeros(masked)),
              static_cast<long long>(nonzeros(pruned)));
}
