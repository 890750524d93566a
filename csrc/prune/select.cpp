// first_not_finite, select_histogram and select_mask: checks, CPU, Meta.
#include "prune/select.h"

#include "prune/radix_select_kernel.h"
#include "prune/select_kernel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <type_traits>

namespace pomona {
namespace {

int key_bits(const at::Tensor& scores) {
  return static_cast<int>(scores.element_size()) * 8;
}

void check_scores(const char* op, const at::Tensor& scores) {
  TORCH_CHECK_TYPE(scores.layout() == at::kStrided && selection_dtype(scores), op,
                   ": expected `scores` to be dense, of float16, bfloat16, float32 or float64, got "
                   "layout ",
                   scores.layout(), " and dtype ", scores.scalar_type(), ".");
}

void check_words(const char* op, const at::Tensor& scores, const at::Tensor& words) {
  TORCH_CHECK_TYPE(words.layout() == at::kStrided && words.scalar_type() == at::kLong, op,
                   ": expected `words` to be dense int64, got layout ", words.layout(),
                   " and dtype ", words.scalar_type(), ".");
  TORCH_CHECK_TYPE(words.device() == scores.device(), op,
                   ": expected `words` on the device of `scores` (", scores.device(), "), got ",
                   words.device(), ".");
  const c10::SymInt expected = (scores.sym_numel() + 63) / 64;
  const bool fits =
      words.dim() == 1 && words.sym_size(0).sym_eq(expected).expect_true(__FILE__, __LINE__);
  TORCH_CHECK_VALUE(fits, op, ": expected `words` of shape [", expected, "] (a bit for each of ",
                    scores.sym_numel(), " scores), got ", words.sym_sizes(), ".");
}

}  // namespace

std::optional<DType> selection_dtype(const at::Tensor& scores) {
  switch (scores.scalar_type()) {
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    default:
      return std::nullopt;
  }
}

void check_first_not_finite(const at::Tensor& scores) {
  check_scores("first_not_finite", scores);
}

void check_select_histogram(const at::Tensor& scores, const at::Tensor& words, int64_t shift,
                            int64_t prefix) {
  check_scores("select_histogram", scores);
  check_words("select_histogram", scores, words);
  const int bits = key_bits(scores);
  TORCH_CHECK_VALUE(shift >= 0 && shift < bits && shift % kDigitBits == 0,
                    "select_histogram: expected `shift` to be a multiple of ", kDigitBits,
                    " in [0, ", bits, "), got ", shift, ".");
  const int64_t above = bits - shift - kDigitBits;
  TORCH_CHECK_VALUE(prefix >= 0 && (above > 0 ? prefix >> above == 0 : prefix == 0),
                    "select_histogram: expected `prefix` of at most ", above > 0 ? above : 0,
                    " bits above the digit, got ", prefix, ".");
}

void check_select_mask(const at::Tensor& scores, const at::Tensor& words, int64_t cut,
                       int64_t ties) {
  check_scores("select_mask", scores);
  check_words("select_mask", scores, words);
  const int64_t sign = cut >> (key_bits(scores) - 1);  // 0 or -1 for what a key can be
  TORCH_CHECK_VALUE(sign == 0 || sign == -1, "select_mask: expected `cut` to be an integer of ",
                    key_bits(scores), " bits, as the scores are, got ", cut, ".");
  TORCH_CHECK_VALUE(ties >= 0, "select_mask: expected `ties` of at least 0, got ", ties, ".");
}

namespace {

template <class Word>
auto words_of(Word* data, const at::Tensor& words) {
  return std::span(data, static_cast<size_t>(words.numel()));
}

at::Tensor first_not_finite_cpu(const at::Tensor& scores) {
  check_first_not_finite(scores);
  const at::Tensor rows = scores.contiguous();
  const auto first =
      first_not_finite({rows.const_data_ptr(), rows.numel(), *selection_dtype(rows)});
  return at::full({}, first.value_or(-1), rows.options().dtype(at::kLong));
}

at::Tensor select_histogram_cpu(const at::Tensor& scores, const at::Tensor& words, int64_t shift,
                                int64_t prefix, bool by_value) {
  check_select_histogram(scores, words, shift, prefix);
  const at::Tensor rows = scores.contiguous(), live = words.contiguous();
  const at::Tensor counts = at::zeros({kDigitValues}, words.options());
  const KeyDigit digit{static_cast<int>(shift), static_cast<uint64_t>(prefix)};
  with_score_bits(rows, [&]<class Key>(const Key* bits) {
    count_digits(std::span(bits, static_cast<size_t>(rows.numel())),
                 words_of(static_cast<const uint64_t*>(live.const_data_ptr()), live), digit,
                 by_value,
                 std::span<int64_t, kDigitValues>(counts.mutable_data_ptr<int64_t>(),
                                                  static_cast<size_t>(kDigitValues)));
  });
  return counts;
}

at::Tensor select_mask_cpu(const at::Tensor& scores, const at::Tensor& words, int64_t cut,
                           int64_t ties, bool by_value) {
  check_select_mask(scores, words, cut, ties);
  const at::Tensor rows = scores.contiguous();
  const at::Tensor out = words.clone(at::MemoryFormat::Contiguous);
  with_score_bits(rows, [&]<class Key>(const Key* bits) {
    prune_up_to(std::span(bits, static_cast<size_t>(rows.numel())),
                words_of(static_cast<uint64_t*>(out.mutable_data_ptr()), out),
                static_cast<Key>(cut), ties, by_value);
  });
  return out;
}

at::Tensor first_not_finite_meta(const at::Tensor& scores) {
  check_first_not_finite(scores);
  return at::empty({}, scores.options().dtype(at::kLong));
}

at::Tensor select_histogram_meta(const at::Tensor& scores, const at::Tensor& words, int64_t shift,
                                 int64_t prefix, bool /*by_value*/) {
  check_select_histogram(scores, words, shift, prefix);
  return at::empty({kDigitValues}, words.options());
}

at::Tensor select_mask_meta(const at::Tensor& scores, const at::Tensor& words, int64_t cut,
                            int64_t ties, bool /*by_value*/) {
  check_select_mask(scores, words, cut, ties);
  return at::empty_like(words, at::MemoryFormat::Contiguous);
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("first_not_finite", &pomona::first_not_finite_cpu);
  m.impl("select_histogram", &pomona::select_histogram_cpu);
  m.impl("select_mask", &pomona::select_mask_cpu);
}
TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("first_not_finite", &pomona::first_not_finite_meta);
  m.impl("select_histogram", &pomona::select_histogram_meta);
  m.impl("select_mask", &pomona::select_mask_meta);
}
