#include "pomona/error.h"

#include "base/text.h"
#include "nn/shared_layer.h"

#include <ATen/PadNd.h>
#include <ATen/ops/_pad_enum.h>
#include <ATen/ops/conv2d.h>
#include <c10/util/overloaded.h>

#include <array>
#include <utility>
#include <variant>

namespace pomona::nn {

template class SharedLayer<SharedConv2dImpl>;

namespace {

using torch::nn::Conv2dOptions;
namespace enumtype = torch::enumtype;

Conv2dOptions options_of(const torch::nn::Conv2d& conv) {
  const auto& options = conv->options;
  return Conv2dOptions(options.in_channels(), options.out_channels(), options.kernel_size())
      .stride(options.stride())
      .padding(options.padding())
      .dilation(options.dilation())
      .groups(options.groups())
      .padding_mode(options.padding_mode());
}

void check_options(const Conv2dOptions& options, at::IntArrayRef weight) {
  const int64_t in = options.in_channels(), out = options.out_channels(), groups = options.groups();
  if (groups < 1 || in % groups != 0 || out % groups != 0) {
    throw InvalidArgument(
        text("SharedConv2d: expected `groups` to divide `in_channels` and `out_channels` (", in,
             ", ", out, "), got ", groups, "."));
  }
  const auto& kernel = *options.kernel_size();
  const std::array<int64_t, 4> shape = {out, in / groups, kernel[0], kernel[1]};
  if (weight != at::IntArrayRef(shape)) {
    throw InvalidArgument(text("SharedConv2d: expected `weight` to be ", at::IntArrayRef(shape),
                               " as in `options`, got ", weight, "."));
  }
  if (std::holds_alternative<enumtype::kSame>(options.padding()) &&
      *options.stride() != std::array<int64_t, 2>{1, 1}) {
    throw InvalidArgument(text("SharedConv2d: expected `stride` to be 1 with padding kSame, got ",
                               options.stride(), "."));
  }
}

// What _pad_enum takes: left, right, top, bottom.
std::array<int64_t, 4> edges_of(const Conv2dOptions& options) {
  const auto sides = [&](size_t dim) -> std::pair<int64_t, int64_t> {
    if (std::holds_alternative<enumtype::kValid>(options.padding())) return {0, 0};
    if (const auto* sizes = std::get_if<torch::ExpandingArray<2>>(&options.padding())) {
      return {(**sizes)[dim], (**sizes)[dim]};
    }
    const int64_t total = (*options.dilation())[dim] * ((*options.kernel_size())[dim] - 1);
    return {total / 2, total - total / 2};
  };
  const auto [top, bottom] = sides(0);
  const auto [left, right] = sides(1);
  return {left, right, top, bottom};
}

at::padding_mode mode_of(const Conv2dOptions& options) {
  return std::visit(
      c10::overloaded([](enumtype::kZeros) { return at::padding_mode::constant; },
                      [](enumtype::kReflect) { return at::padding_mode::reflect; },
                      [](enumtype::kReplicate) { return at::padding_mode::replicate; },
                      [](enumtype::kCircular) { return at::padding_mode::circular; }),
      options.padding_mode());
}

}  // namespace

SharedConv2dImpl::SharedConv2dImpl(const at::Tensor& weight, const at::Tensor& bias_values,
                                   Conv2dOptions conv_options)
    : SharedLayer("SharedConv2d", weight, 4, "[out, in / groups, height, width]"),
      bias(bias_values),
      options(std::move(conv_options)) {
  check_options(options, weight.sizes());
  options.bias(bias.defined());
  reset();
}

SharedConv2dImpl::SharedConv2dImpl(const torch::nn::Conv2d& conv)
    : SharedConv2dImpl(conv->weight, conv->bias, options_of(conv)) {}

void SharedConv2dImpl::reset() {
  SharedLayer::reset();
  register_bias(bias);
}

void SharedConv2dImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::SharedConv2d(in_channels=" << options.in_channels()
         << ", out_channels=" << options.out_channels() << ", kernel_size=" << options.kernel_size()
         << ", stride=" << options.stride() << ", padding=";
  std::visit(c10::overloaded([&](enumtype::kValid) { stream << "'valid'"; },
                             [&](enumtype::kSame) { stream << "'same'"; },
                             [&](const torch::ExpandingArray<2>& sizes) { stream << sizes; }),
             options.padding());
  stream << ", dilation=" << options.dilation() << ", groups=" << options.groups()
         << ", padding_mode=" << torch::enumtype::get_enum_name(options.padding_mode()) << ", ";
  print_codes(stream);
  stream << ", bias=" << (bias.defined() ? "true" : "false") << ")";
}

at::Tensor SharedConv2dImpl::forward(const at::Tensor& input) {
  const std::optional<at::Tensor> added = bias.defined() ? std::optional(bias) : std::nullopt;
  const auto convolve = [&](const at::Tensor& image, const auto& padding) {
    return at::conv2d(image, weight(), added, options.stride(), padding, options.dilation(),
                      options.groups());
  };
  if (!std::holds_alternative<enumtype::kZeros>(options.padding_mode())) {
    const at::Tensor padded =
        at::_pad_enum(input, edges_of(options), static_cast<int64_t>(mode_of(options)));
    return convolve(padded, at::IntArrayRef{0, 0});
  }
  return std::visit(c10::overloaded([&](enumtype::kValid) { return convolve(input, "valid"); },
                                    [&](enumtype::kSame) { return convolve(input, "same"); },
                                    [&](const torch::ExpandingArray<2>& sizes) {
                                      return convolve(input, at::IntArrayRef(*sizes));
                                    }),
                    options.padding());
}

}  // namespace pomona::nn
