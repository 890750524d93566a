"""first_not_finite, select_histogram and select_mask on the CPU, beside literal definitions."""

from __future__ import annotations

import pytest
import torch

import pomona  # noqa: F401  (registers the operators)

first_not_finite = torch.ops.pomona.first_not_finite
select_histogram = torch.ops.pomona.select_histogram
select_mask = torch.ops.pomona.select_mask

BITS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
DTYPES = list(BITS)
SHAPES = [(0,), (1,), (63,), (8, 8), (5, 13), (3, 2, 5, 7)]
DIGIT_BITS = 11


def integers(scores: torch.Tensor) -> list[int]:
    """The bit pattern of each score, row-major, as an integer of its size."""
    bits = BITS[scores.dtype]
    dtype = {16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    return [x % 2**bits for x in scores.contiguous().view(dtype).flatten().tolist()]


def key(pattern: int, bits: int, *, by_value: bool) -> int:
    """The signed integer that orders scores by magnitude, or by value."""
    sign, magnitude = pattern >> (bits - 1), pattern % 2 ** (bits - 1)
    if not by_value or sign == 0:
        return magnitude
    return -magnitude - 1


def keys(scores: torch.Tensor, *, by_value: bool) -> list[int]:
    return [key(x, BITS[scores.dtype], by_value=by_value) for x in integers(scores)]


def words_of(mask: list[bool]) -> torch.Tensor:
    words = [0] * ((len(mask) + 63) // 64)
    for i, keep in enumerate(mask):
        words[i // 64] |= int(keep) << (i % 64)
    signed = [word - 2**64 if word >= 2**63 else word for word in words]
    return torch.tensor(signed, dtype=torch.int64)


def example(shape, dtype, seed=0):
    """Scores with ties and zeros of both signs, and a mask that keeps most."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, shape, generator=generator) * 0.5
    signs = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    mask = (torch.rand(scores.numel(), generator=generator) < 0.8).tolist()
    return (scores * signs).to(dtype), mask


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_select_histogram_counts_the_digits_of_live_scores(shape, dtype, by_value):
    scores, mask = example(shape, dtype)
    bits = BITS[dtype]
    biased = [k + 2 ** (bits - 1) for k in keys(scores, by_value=by_value)]
    for shift in range(0, bits, DIGIT_BITS):
        prefix = (biased[0] if biased else 0) >> (shift + DIGIT_BITS)
        expected = [0] * 2**DIGIT_BITS
        for k, keep in zip(biased, mask, strict=True):
            if keep and k >> (shift + DIGIT_BITS) == prefix:
                expected[(k >> shift) % 2**DIGIT_BITS] += 1
        found = select_histogram(
            scores, words_of(mask), shift=shift, prefix=prefix, by_value=by_value
        )
        assert found.dtype == torch.int64
        assert found.tolist() == expected


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_select_mask_prunes_below_the_cut_and_the_first_ties(shape, dtype, by_value):
    scores, mask = example(shape, dtype)
    found_keys = keys(scores, by_value=by_value)
    cut = sorted(found_keys)[len(found_keys) // 2] if found_keys else 0
    for ties in (0, 1, 3, 1000):
        expected, left = [], ties
        for k, keep in zip(found_keys, mask, strict=True):
            goes = keep and (k < cut or (k == cut and left > 0))
            left -= goes and k == cut
            expected.append(keep and not goes)
        words = words_of(mask)
        found = select_mask(scores, words, cut=cut, ties=ties, by_value=by_value)
        assert found.tolist() == words_of(expected).tolist()
        assert words.tolist() == words_of(mask).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_first_not_finite_is_the_row_major_index(dtype, wrong):
    scores = torch.ones(6, 5, dtype=dtype)
    scores[1, 3] = scores[4, 0] = wrong
    assert first_not_finite(scores).item() == 8
    assert first_not_finite(scores.t()).item() == 4
    assert first_not_finite(torch.finfo(dtype).max * torch.ones(3, dtype=dtype)).item() == -1
    assert first_not_finite(scores[:0]).item() == -1


def test_bits_past_the_end_are_not_read_and_stay():
    scores, words = torch.ones(3), torch.tensor([-1])
    assert select_histogram(scores, words, shift=22).sum() == 3
    assert select_mask(scores, words, cut=2**31 - 1).tolist() == [-8]


def test_operators_follow_strides():
    scores, mask = example((6, 9), torch.float32)
    words, flipped = words_of(mask), scores.t().contiguous().t()
    plain = select_mask(scores, words, cut=0x3F000000, ties=5)
    assert torch.equal(select_mask(flipped, words, cut=0x3F000000, ties=5), plain)
    counts = select_histogram(scores, words, shift=22)
    spread = torch.stack([words, words], 1)[:, 0]
    assert torch.equal(select_histogram(flipped, spread, shift=22), counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_pass_opcheck(dtype):
    scores, mask = example((3, 50), dtype)
    words = words_of(mask)
    torch.library.opcheck(first_not_finite.default, (scores,))
    torch.library.opcheck(select_histogram.default, (scores, words), {"shift": 0, "prefix": 7})
    torch.library.opcheck(select_mask.default, (scores, words), {"cut": 77, "ties": 2})


def test_operators_compile_into_a_full_graph():
    scores, mask = example((4, 40), torch.float32)
    words = words_of(mask)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def both(x):
        kept = select_mask(x * 2, words, cut=0x3F800000, ties=1)
        return kept, select_histogram(x * 2, kept, shift=22), first_not_finite(x)

    kept, counts, first = both(scores)
    assert torch.equal(kept, select_mask(scores * 2, words, cut=0x3F800000, ties=1))
    assert torch.equal(counts, select_histogram(scores * 2, kept, shift=22))
    assert first.item() == -1


ONES = torch.ones(2, 40)
WORDS = torch.full((2,), -1)


@pytest.mark.parametrize(
    ("scores", "words", "error", "message"),
    [
        (ONES.int(), WORDS, TypeError, r"`scores` to be dense, of float16.*dtype Int"),
        (ONES.to(torch.float8_e5m2), WORDS, TypeError, r"`scores` to be dense.*Float8_e5m2"),
        (ONES, WORDS.int(), TypeError, r"`words` to be dense int64, got layout.*dtype Int"),
        (ONES, WORDS.to("meta"), TypeError, r"`words` on the device of `scores` \(cpu\), got meta"),
        (
            ONES,
            WORDS[:1],
            ValueError,
            r"`words` of shape \[2\] \(a bit for each of 80 scores\), got \[1\]",
        ),
        (ONES, WORDS[None], ValueError, r"`words` of shape \[2\].*got \[1, 2\]"),
    ],
)
def test_operators_refuse_tensors_that_do_not_fit(scores, words, error, message):
    with pytest.raises(error, match="select_histogram: expected " + message):
        select_histogram(scores, words, shift=0)
    with pytest.raises(error, match="select_mask: expected " + message):
        select_mask(scores, words, cut=0)


def test_first_not_finite_refuses_integers():
    with pytest.raises(TypeError, match="first_not_finite: expected `scores` to be dense, of flo"):
        first_not_finite(ONES.long())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("dtype", "shift", "prefix", "message"),
    [
        (torch.float32, 33, 0, r"`shift` to be a multiple of 11 in \[0, 32\), got 33"),
        (torch.float32, 10, 0, r"`shift` to be a multiple of 11 in \[0, 32\), got 10"),
        (torch.float32, -11, 0, r"`shift` to be a multiple of 11 in \[0, 32\), got -11"),
        (torch.float16, 22, 0, r"`shift` to be a multiple of 11 in \[0, 16\), got 22"),
        (torch.float32, 11, 1024, r"`prefix` of at most 10 bits above the digit, got 1024"),
        (torch.float32, 22, 1, r"`prefix` of at most 0 bits above the digit, got 1"),
        (torch.float64, 55, 1, r"`prefix` of at most 0 bits above the digit, got 1"),
        (torch.float64, 0, -1, r"`prefix` of at most 53 bits above the digit, got -1"),
    ],
)
def test_select_histogram_refuses_digits_that_a_key_does_not_have(
    device, dtype, shift, prefix, message
):
    with pytest.raises(ValueError, match="select_histogram: expected " + message):
        select_histogram(ONES.to(device, dtype), WORDS.to(device), shift=shift, prefix=prefix)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("dtype", "cut", "ties", "message"),
    [
        (torch.float32, 2**31, 0, "`cut` to be an integer of 32 bits, as the scores are, got 2147"),
        (torch.float32, -(2**31) - 1, 0, "`cut` to be an integer of 32 bits"),
        (torch.bfloat16, 2**15, 0, "`cut` to be an integer of 16 bits"),
        (torch.float32, 0, -1, "`ties` of at least 0, got -1"),
    ],
)
def test_select_mask_refuses_cuts_that_no_key_is(device, dtype, cut, ties, message):
    with pytest.raises(ValueError, match="select_mask: expected " + message):
        select_mask(ONES.to(device, dtype), WORDS.to(device), cut=cut, ties=ties)
