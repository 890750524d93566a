"""pool_gradients_ and snap_weights_ against their definitions, element by element."""

from __future__ import annotations

import pytest
import torch

import pomona  # noqa: F401  (registers the operators)

pool = torch.ops.pomona.pool_gradients_
snap = torch.ops.pomona.snap_weights_
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CASES = [((7,), 0, 3), ((5, 6), 0, 4), ((4, 3, 3), 9, 5), ((10, 7), 4, 2), ((300, 250), 0, 250)]


def clusters(shape, group, k, frozen=True):
    """(codes, counts, first) of random codes; code 0 is frozen."""
    codes = torch.randint(0, k, shape, dtype=torch.uint8)
    size = codes.numel()
    each = group or size
    rows = -(-size // each)
    counts = torch.zeros(rows, k, dtype=torch.float64)
    first = torch.full((rows, k), -1)
    for i, code in enumerate(codes.flatten().tolist()):
        if frozen and code == 0:
            continue
        if counts[i // each, code] == 0:
            first[i // each, code] = i
        counts[i // each, code] += 1
    return codes, counts, first


def literal_means(values, codes, counts, group):
    """The mean of each cluster in double, as [groups, k]."""
    each = group or codes.numel()
    sums = torch.zeros_like(counts)
    flat = values.double().flatten().tolist()
    for i, code in enumerate(codes.flatten().tolist()):
        sums[i // each, code] += flat[i]
    return torch.where(counts > 0, sums / counts.clamp_min(1), 0.0), sums


def spread(entries, codes, group):
    """entries [groups, k] to elements."""
    each = group or codes.numel()
    rows = torch.arange(codes.numel()) // each
    return entries[rows, codes.flatten().long()].reshape(codes.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "group", "k"), CASES)
def test_gradients_become_their_clusters_mean_or_sum(shape, group, k, dtype):
    codes, counts, _ = clusters(shape, group, k)
    gradient = torch.randn(shape).to(dtype)
    means, sums = literal_means(gradient, codes, counts, group)
    sums = torch.where(counts > 0, sums, 0.0)
    for is_mean, entries in ((True, means), (False, sums)):
        found = gradient.clone()
        pool([found], [codes], [counts], [group], is_mean)
        expected = spread(entries, codes, group)
        tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype.itemsize == 2 else {}
        torch.testing.assert_close(found, expected.to(dtype), **tolerance)
        assert not found[codes == 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "group", "k"), CASES)
def test_weights_become_their_clusters_mean(shape, group, k, dtype):
    codes, counts, first = clusters(shape, group, k)
    weight = torch.randn(shape).to(dtype)
    expected = spread(literal_means(weight, codes, counts, group)[0], codes, group)
    snap([weight], [codes], [counts], [first], [group])
    torch.testing.assert_close(weight, expected.to(dtype))
    again = weight.clone()
    snap([again], [codes], [counts], [first], [group])
    assert torch.equal(again, weight)  # equal members keep their bits


def test_a_frozen_zero_has_no_sign():
    codes = torch.zeros(5, dtype=torch.uint8)
    weight = torch.full((5,), -0.0)
    snap([weight], [codes], [torch.zeros(1, 1).double()], [torch.full((1, 1), -1)], [0])
    assert not weight.signbit().any()


def test_any_strides_and_many_tensors_at_once():
    inputs = [clusters((4, 3, 5, 5), 0, 6), clusters((6, 8), 8, 3)]
    weights = [
        torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(8, 6).t(),
    ]
    groups = [0, 8]
    expected = [
        spread(literal_means(weight, codes, counts, group)[0], codes, group).float()
        for weight, (codes, counts, _), group in zip(weights, inputs, groups, strict=True)
    ]
    columns = [list(column) for column in zip(*inputs, strict=True)]
    pool(gradients := [weight.clone() for weight in weights], *columns[:2], groups, True)
    snap(weights, *columns, groups)
    for found, wanted in zip([*gradients, *weights], [*expected, *expected], strict=True):
        torch.testing.assert_close(found, wanted)


def test_results_do_not_depend_on_threads():
    codes, counts, _ = clusters((400, 500), 0, 16)
    gradient, found = torch.randn(400, 500), []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(gradient.clone())
        pool([found[-1]], [codes], [counts], [0], True)
    torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_operators_pass_opcheck():
    codes, counts, first = clusters((4, 5), 5, 3)
    torch.library.opcheck(pool, ([torch.randn(4, 5)], [codes], [counts], [5], True))
    torch.library.opcheck(snap, ([torch.randn(4, 5)], [codes], [counts], [first], [5]))


def test_versions_are_bumped_and_leaves_refused():
    codes, counts, first = clusters((4, 5), 0, 3)
    weight = torch.randn(4, 5)
    version = weight._version
    snap([weight], [codes], [counts], [first], [0])
    assert weight._version > version
    with pytest.raises(RuntimeError, match=r"weights\[0\] not to require gradients"):
        snap([weight.requires_grad_()], [codes], [counts], [first], [0])
    with pytest.raises(RuntimeError, match=r"gradients\[0\] not to require gradients"):
        pool([weight], [codes], [counts], [0], True)


def test_bad_arguments_are_refused_by_name():
    codes, counts, first = clusters((4, 5), 0, 3)
    weight = torch.randn(4, 5)
    with pytest.raises(ValueError, match=r"as many `codes` as `gradients` \(1\), got 0"):
        pool([weight], [], [counts], [0], True)
    with pytest.raises(TypeError, match=r"gradients\[0\] to be dense and floating-point"):
        pool([weight.long()], [codes], [counts], [0], True)
    with pytest.raises(TypeError, match=r"codes\[0\] to be uint8, got Long"):
        pool([weight], [codes.long()], [counts], [0], True)
    with pytest.raises(ValueError, match=r"codes\[0\] to be contiguous, of shape \[4, 5\]"):
        pool([weight], [codes.t()], [counts], [0], True)
    with pytest.raises(TypeError, match=r"counts\[0\] to be Double"):
        pool([weight], [codes], [counts.float()], [0], True)
    with pytest.raises(ValueError, match=r"groups\[0\] to be 0 \(all\) or more, got -1"):
        pool([weight], [codes], [counts], [-1], True)
    with pytest.raises(ValueError, match=r"counts\[0\] to be contiguous, of shape \[2, 1 to 256\]"):
        pool([weight], [codes], [counts], [10], True)
    with pytest.raises(TypeError, match=r"first\[0\] to be Long"):
        snap([weight], [codes], [counts], [first.int()], [0])
