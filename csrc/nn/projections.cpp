#include "pomona/projections.h"

#include "pomona/infer.h"
#include "pomona/io.h"

#include <map>

namespace pomona::nn {

Projections projections_of(const torch::nn::Module& dense, Packing packing) {
  std::map<std::string, at::Tensor> parameters;
  for (const auto& item : dense.named_parameters()) {
    if (!item.value().defined()) continue;
    parameters.emplace(item.key(), item.value().detach());
    if (!item.value().is_cpu() && !packing.layout) packing.layout = Layout::kCsr16;
  }
  const auto packed = [parameters, packing](const std::string& name, int64_t parts) {
    std::vector<at::Tensor> matrices;
    for (const at::Tensor& matrix : parameters.at(name).chunk(parts)) {
      const Weight weight = to_weight("weight", matrix);
      matrices.push_back(to_tensor(pack_fastest(weight, packing, torch_threads())));
    }
    return matrices;
  };
  const auto bias = [parameters](const std::string& name) {
    const auto found = parameters.find(name);
    return found == parameters.end() ? at::Tensor() : found->second.clone();
  };
  return {packed, bias};
}

}  // namespace pomona::nn
