#include "pomona/cached_tensors.h"

#include "nn/dtypes.h"
#include "nn/packed_cache.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

namespace pomona {

std::string cache_key(const std::filesystem::path& file, const Packing& packing) {
  return packed_cache_key(file, packing);
}

std::optional<CachedTensors> read_cached_tensors(const std::filesystem::path& path,
                                                 std::string_view key) {
  const auto cache = read_packed_cache(path, key);
  if (!cache) return std::nullopt;
  CachedTensors tensors;
  for (const CachedTensor& cached : cache->tensors) {
    const auto options = at::TensorOptions(at::kCPU).dtype(scalar_type(cached.dtype));
    const auto keep = [file = cache->file](void*) {};
    at::Tensor tensor = cached.bytes.empty()
                            ? at::empty(cached.shape, options)
                            : at::from_blob(cached.bytes.data(), cached.shape, keep, options);
    (cached.is_packed ? tensors.packed : tensors.dense).emplace_back(cached.name, tensor);
  }
  return tensors;
}

void write_cached_tensors(const std::filesystem::path& path, std::string_view key,
                          const CachedTensors& tensors) {
  std::vector<CachedTensor> cached;
  std::vector<at::Tensor> kept;  // contiguous
  for (const auto* named : {&tensors.packed, &tensors.dense}) {
    for (const auto& [name, tensor] : *named) {
      const at::Tensor& whole = kept.emplace_back(tensor.detach().contiguous());
      cached.push_back({.name = name,
                        .is_packed = named == &tensors.packed,
                        .dtype = dtype_of(whole.scalar_type()).value(),
                        .shape = whole.sizes().vec(),
                        .bytes = {static_cast<std::byte*>(whole.data_ptr()), whole.nbytes()}});
    }
  }
  write_packed_cache(path, key, cached);
}

}  // namespace pomona
