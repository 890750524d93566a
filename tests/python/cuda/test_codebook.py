"""lookup and centroid_grad on a GPU, against the literal reference."""

from __future__ import annotations

import math
import random

import pytest
import torch
from reference import codebook as reference

import pomona  # noqa: F401  (registers the operators)

lookup = torch.ops.pomona.lookup
centroid_grad = torch.ops.pomona.centroid_grad

pytestmark = pytest.mark.cuda

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WIDTHS = [1, 2, 4, 8]
SHAPES = [(), (0,), (1,), (3, 0, 2), (8,), (3, 5), (2, 3, 5, 3), (257,), (5000,)]


def random_codes(count: int, below: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(below) for _ in range(count)]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_lookup_equals_the_literal_reference_bit_for_bit(cuda, shape, bits):
    codes = random_codes(math.prod(shape), 2**bits)
    packed = reference.pack(codes, bits).to(cuda)
    for dtype in DTYPES:
        book = torch.randn(2**bits, generator=torch.Generator().manual_seed(1)).to(dtype)
        weight = lookup(book.to(cuda), packed, shape, bits=bits)
        assert torch.equal(weight.cpu(), reference.lookup(book, codes, shape))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_grad_equals_the_literal_reference(cuda, shape, bits):
    codes = random_codes(math.prod(shape), 2**bits)
    packed = reference.pack(codes, bits).to(cuda)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for dtype in DTYPES:
        sums = centroid_grad(grad.to(cuda, dtype), packed, 2**bits, bits=bits)
        expected = reference.centroid_grad(grad.to(dtype), codes, 2**bits)
        assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(sums.cpu().double(), expected, rtol=1e-5, atol=1e-4)


def test_a_long_sum_is_right_and_the_same_each_time(cuda):
    codes = torch.randint(0, 256, (1_000_003,), dtype=torch.uint8)
    grad = torch.randn(1_000_003)
    first = centroid_grad(grad.to(cuda), codes.to(cuda), 256)
    expected = torch.zeros(256).double().index_add_(0, codes.long(), grad.double())
    torch.testing.assert_close(first.cpu().double(), expected, rtol=1e-5, atol=1e-3)
    for _ in range(10):
        assert torch.equal(centroid_grad(grad.to(cuda), codes.to(cuda), 256), first)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_code_outside_the_codebook_gives_nan_and_its_gradient_is_dropped(cuda, bits):
    last = 2**bits - 1
    packed = reference.pack([0, last, 0], bits).to(cuda)
    for dtype in DTYPES:
        book = torch.full((last,), 3.0, dtype=dtype, device=cuda)
        weight = lookup(book, packed, [3], bits=bits)
        assert weight.nan_to_num(0).tolist() == [3, 0, 3]
        assert weight[1].isnan()
        grad = torch.tensor([1, 5, 2], dtype=dtype, device=cuda)
        assert centroid_grad(grad, packed, last, bits=bits).tolist() == [3.0] + [0.0] * (last - 1)


def test_the_derivatives_are_those_of_the_cpu(cuda):
    packed = reference.pack(random_codes(12, 5), 4)
    book = torch.randn(5, dtype=torch.float64, requires_grad=True)
    there = book.detach().to(cuda).requires_grad_()
    for leaf in (book, there):
        weight = lookup(leaf, packed.to(leaf.device), (3, 4), bits=4)
        (grad,) = torch.autograd.grad((weight**3).sum(), leaf, create_graph=True)
        grad.square().sum().backward()
    torch.testing.assert_close(there.grad.cpu(), book.grad)


def test_lookup_refuses_codes_on_the_cpu(cuda):
    with pytest.raises(TypeError, match=r"`codes` on the device of `codebook` \(cuda:0\), got cpu"):
        lookup(torch.randn(4, device=cuda), torch.zeros(6, dtype=torch.uint8), [6])


@pytest.mark.parametrize("bits", WIDTHS)
def test_operators_pass_opcheck(cuda, bits):
    k = min(2**bits, 5)
    packed = reference.pack(random_codes(13, k), bits).to(cuda)
    book = torch.randn(k, device=cuda, requires_grad=True)
    grad = torch.randn(13, device=cuda, requires_grad=True)
    torch.library.opcheck(lookup, (book, packed, (13,)), {"bits": bits})
    torch.library.opcheck(centroid_grad, (grad, packed, k), {"bits": bits})
