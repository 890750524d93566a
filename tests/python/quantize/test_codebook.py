"""The operators lookup and centroid_grad against a literal reference, in every dtype and width."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from reference import codebook as reference

import pomona

lookup = torch.ops.pomona.lookup
centroid_grad = torch.ops.pomona.centroid_grad
lookup_into = torch.ops.pomona.lookup_into_

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WIDTHS = [1, 2, 4, 8]
SHAPES = [(), (0,), (1,), (3, 0, 2), (7,), (8,), (3, 5), (2, 3, 5, 3), (257,)]


def random_codes(count: int, below: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(below) for _ in range(count)]


def codebook_of(k: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(k, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_lookup_equals_the_literal_reference_bit_for_bit(shape, bits):
    codes = random_codes(math.prod(shape), 2**bits)
    for dtype in DTYPES:
        book = codebook_of(2**bits, dtype)
        weight = lookup(book, reference.pack(codes, bits), shape, bits=bits)
        assert weight.dtype == dtype
        assert torch.equal(weight, reference.lookup(book, codes, shape))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_grad_equals_the_literal_reference(shape, bits):
    codes = random_codes(math.prod(shape), 2**bits)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for dtype in DTYPES:
        sums = centroid_grad(grad.to(dtype), reference.pack(codes, bits), 2**bits, bits=bits)
        expected = reference.centroid_grad(grad.to(dtype), codes, 2**bits)
        assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(sums.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("group", [1, 3, 8, 27, 100])
@pytest.mark.parametrize("has_zero", [False, True])
def test_groups_have_codebooks_of_their_own(bits, group, has_zero):
    k = 2**bits - has_zero
    codes = random_codes(77, 2**bits)
    packed = reference.pack(codes, bits)
    groups = -(-77 // group)
    book, grad = torch.randn(groups, k), torch.randn(7, 11)
    options = {"bits": bits, "group": group, "has_zero": has_zero}
    weight = lookup(book, packed, (7, 11), **options)
    rows = F.pad(book, (1, 0)) if has_zero else book
    expected = [rows[i // group, code] for i, code in enumerate(codes)]
    assert torch.equal(weight.flatten(), torch.stack(expected))
    out = torch.empty(7, 11)
    lookup_into(out, book, packed, **options)
    assert torch.equal(out, weight)
    sums = torch.zeros(groups, 2**bits, dtype=torch.float64)
    for i, code in enumerate(codes):
        sums[i // group, code] += grad.flatten()[i].double()
    found = centroid_grad(grad, packed, k, **options)
    torch.testing.assert_close(found.double(), sums[:, has_zero:], rtol=1e-5, atol=1e-5)


def test_centroid_grad_gives_means_when_asked():
    codes = torch.tensor([0, 1, 1, 3], dtype=torch.uint8)
    grad = torch.tensor([5.0, 1.0, 3.0, 7.0])
    means = pomona.quantize.centroid_grad(grad, codes, 4, reduction="mean")
    assert means.tolist() == [5.0, 2.0, 0.0, 7.0]
    with pytest.raises(pomona.InvalidArgument, match='"sum" or "mean", got \'max\''):
        pomona.quantize.centroid_grad(grad, codes, 4, reduction="max")


def test_lookup_writes_into_a_given_tensor():
    book, codes = torch.tensor([1.0, 2.0]), torch.tensor([1, 0, 1], dtype=torch.uint8)
    out = torch.empty(3)
    version = out._version
    assert pomona.quantize.lookup(book, codes, (3,), out=out) is out
    assert out.tolist() == [2.0, 1.0, 2.0]
    assert out._version > version
    with pytest.raises(pomona.InvalidArgument, match=r"`out` of torch\.float32 \[3\]"):
        pomona.quantize.lookup(book, codes, (3,), out=torch.empty(4))
    with pytest.raises(ValueError, match="`out` to be contiguous"):
        lookup_into(torch.empty(6)[::2], book, codes)
    with pytest.raises(RuntimeError, match="not to require gradients"):
        pomona.quantize.lookup(book.requires_grad_(), codes, (3,), out=out)


def test_groups_that_do_not_fit_are_refused():
    codes = torch.zeros(10, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"`group` to be 0 \(all\) or more, got -1"):
        lookup(torch.ones(2), codes, (10,), group=-1)
    with pytest.raises(ValueError, match=r"2 dimensions \[groups, k\], got 1"):
        lookup(torch.ones(2), codes, (10,), group=4)
    with pytest.raises(ValueError, match=r"of 3 rows \(10 elements in groups of 4\), got 2"):
        lookup(torch.ones(2, 2), codes, (10,), group=4)
    with pytest.raises(ValueError, match=r"in 0\.\.255 for codes of 8 bits and the zero, got 256"):
        lookup(torch.ones(256), codes, (10,), has_zero=True)


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 200_003])
def test_a_tensor_of_several_chunks_is_looked_up_and_summed_whole(size):
    codes = torch.randint(0, 16, (size,), dtype=torch.uint8)
    nibbles = torch.nn.functional.pad(codes, (0, size % 2)).reshape(-1, 2)
    packed = nibbles[:, 0] | (nibbles[:, 1] << 4)
    book, grad = torch.randn(16), torch.randn(size)
    assert torch.equal(lookup(book, packed, [size], bits=4), book[codes.long()])
    expected = torch.zeros(16).double().index_add_(0, codes.long(), grad.double())
    sums = centroid_grad(grad, packed, 16, bits=4)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-3)


def test_a_half_precision_sum_of_262144_ones_is_exact():
    codes = torch.zeros(262_144, dtype=torch.uint8)
    for dtype in DTYPES:
        assert centroid_grad(torch.ones(262_144, dtype=dtype), codes, 1).item() == 262_144


def test_the_sum_does_not_depend_on_the_number_of_threads():
    codes, grad = torch.randint(0, 256, (300_000,), dtype=torch.uint8), torch.randn(300_000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = centroid_grad(grad, codes, 256)
        torch.set_num_threads(2)
        assert torch.equal(centroid_grad(grad, codes, 256), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_code_outside_the_codebook_gives_nan_and_its_gradient_is_dropped(bits):
    last = 2**bits - 1
    packed = reference.pack([0, last, 0], bits)
    for dtype in DTYPES:
        weight = lookup(torch.full((last,), 3.0, dtype=dtype), packed, [3], bits=bits)
        assert weight[0] == 3
        assert weight[1].isnan()
        assert weight[2] == 3
        sums = centroid_grad(torch.tensor([1, 5, 2], dtype=dtype), packed, last, bits=bits)
        assert sums.tolist() == [3.0] + [0.0] * (last - 1)


def test_dtype_is_the_dtype_of_the_weight():
    codes = torch.tensor([0, 1], dtype=torch.uint8)
    book = torch.tensor([0.1, 1e30], dtype=torch.float64)
    for dtype in DTYPES:
        weight = lookup(book, codes, [2], dtype=dtype)
        assert weight.dtype == dtype
        assert torch.equal(weight, book.to(dtype))


def test_strides_of_gradient_and_codes_do_not_matter():
    codes = torch.randint(0, 4, (6, 4), dtype=torch.uint8)
    grad = torch.randn(4, 6).t()
    expected = centroid_grad(grad.contiguous(), codes, 4)
    assert torch.equal(centroid_grad(grad, codes, 4), expected)
    assert torch.equal(centroid_grad(grad, codes.t().contiguous().t(), 4), expected)
    book = torch.randn(8)[::2]
    assert torch.equal(lookup(book, codes.t().contiguous().t(), [6, 4]), book[codes.long()])
    ones = torch.ones(()).expand(6, 4)
    assert torch.equal(centroid_grad(ones, codes, 4), codes.flatten().bincount(minlength=4).float())


# ---------------------------------------------------------------------------------------------
# Derivatives


@pytest.mark.parametrize("bits", WIDTHS)
def test_first_and_second_derivatives_are_those_of_finite_differences(bits):
    k = min(2**bits, 5)
    packed = reference.pack(random_codes(12, k), bits)
    book = codebook_of(k, torch.float64).requires_grad_()
    grad = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def forward(book):
        return lookup(book, packed, (3, 4), bits=bits)

    def sums(grad):
        return centroid_grad(grad, packed, k, bits=bits)

    for function, argument in [(forward, book), (sums, grad)]:
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


def test_the_second_derivative_of_a_nonlinear_loss_is_not_zero():
    codes = torch.tensor([0, 1, 1], dtype=torch.uint8)
    book = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    loss = (lookup(book, codes, [3]) ** 3).sum()
    (first,) = torch.autograd.grad(loss, book, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), book)
    assert first.tolist() == [12.0, 54.0]  # 3 c^2 times the cluster's size
    assert second.tolist() == [12.0, 36.0]  # 6 c times the cluster's size


def test_the_gradient_has_the_dtype_of_the_codebook():
    codes = torch.zeros(4, dtype=torch.uint8)
    for dtype in DTYPES:
        for out in DTYPES:
            book = torch.ones(1, dtype=dtype, requires_grad=True)
            lookup(book, codes, [4], dtype=out).sum().backward()
            assert book.grad.dtype == dtype
            assert book.grad.item() == 4


def test_autocast_casts_the_codebook_and_not_the_weight():
    codes = torch.zeros(64, dtype=torch.uint8)
    book = torch.full((1,), 0.1, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = lookup(book, codes, [8, 8])
        exact = lookup(book, codes, [8, 8], dtype=torch.float32)
    assert weight.dtype == torch.bfloat16
    assert exact.dtype == torch.float32
    assert torch.equal(exact, torch.full((8, 8), 0.1))
    weight.sum().backward()
    assert book.grad.dtype == torch.float32
    assert book.grad.item() == 64


# ---------------------------------------------------------------------------------------------
# opcheck, compile, export


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_pass_opcheck(bits, dtype):
    k = min(2**bits, 5)
    packed = reference.pack(random_codes(13, k), bits)
    book = codebook_of(k, dtype).requires_grad_()
    grad = torch.randn(13).to(dtype).requires_grad_()
    torch.library.opcheck(lookup, (book, packed, (13,)), {"bits": bits})
    torch.library.opcheck(lookup, (book, packed, (13,)), {"bits": bits, "dtype": torch.float64})
    torch.library.opcheck(centroid_grad, (grad, packed, k), {"bits": bits})
    out = torch.empty(13, dtype=dtype)
    torch.library.opcheck(lookup_into, (out, book.detach(), packed), {"bits": bits})


@pytest.mark.parametrize("group", [0, 4, 5])
@pytest.mark.parametrize("has_zero", [False, True])
def test_operators_with_groups_and_a_zero_pass_opcheck(group, has_zero):
    codes = torch.randint(0, 4, (3, 4), dtype=torch.uint8)
    k = 4 - has_zero
    shape = (-(-12 // group), k) if group else (k,)
    book = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    options = {"group": group, "has_zero": has_zero}
    torch.library.opcheck(lookup, (book, codes, (3, 4)), options)
    torch.library.opcheck(centroid_grad, (grad, codes, k), options)
    assert torch.autograd.gradcheck(lambda b: lookup(b, codes, (3, 4), **options), book)
    assert torch.autograd.gradgradcheck(lambda b: lookup(b, codes, (3, 4), **options), book)
    assert torch.autograd.gradcheck(lambda g: centroid_grad(g, codes, k, **options), grad)


@pytest.mark.parametrize("dynamic", [False, True])
def test_forward_and_backward_compile_without_a_graph_break(dynamic):
    codes = torch.randint(0, 4, (6,), dtype=torch.uint8)

    def step(book, codes, x):
        return (x @ lookup(book, codes, (x.shape[-1], codes.numel() // x.shape[-1]))).square().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in [1, 2, 5]:
        book = codebook_of(4, torch.float32).requires_grad_()
        twin = book.detach().clone().requires_grad_()
        x = torch.randn(rows, 3)
        step(book, codes, x).backward()
        compiled(twin, codes, x).backward()
        torch.testing.assert_close(twin.grad, book.grad)


def test_export_keeps_the_operator():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.book = torch.nn.Parameter(torch.randn(4))
            self.register_buffer("codes", torch.randint(0, 4, (15,), dtype=torch.uint8))

        def forward(self, x):
            return x @ lookup(self.book, self.codes, (3, 5))

    layer, x = Layer(), torch.randn(2, 3)
    rows = torch.export.Dim("rows")
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: rows},))
    assert any("pomona.lookup" in str(node.target) for node in program.graph.nodes)
    y = torch.randn(7, 3)
    torch.testing.assert_close(program.module()(y), layer(y))


# ---------------------------------------------------------------------------------------------
# Bad input: the message of each check, on CPU and on Meta alike

BOOK, CODES, GRAD = torch.randn(4), torch.zeros(6, dtype=torch.uint8), torch.randn(6)

LOOKUP_ERRORS = [
    ((BOOK, CODES, [6]), {"bits": 3}, ValueError, "`bits` to be 1, 2, 4 or 8, got 3"),
    ((BOOK[None], CODES, [6]), {}, ValueError, "`codebook` to have 1 dimension, got 2"),
    ((BOOK[:0], CODES, [6]), {}, ValueError, r"entries of `codebook` in 1\.\.256 .*got 0"),
    ((torch.randn(257), CODES, [6]), {}, ValueError, r"in 1\.\.256 .*got 257"),
    ((BOOK, CODES[:1], [6]), {"bits": 1}, ValueError, r"in 1\.\.2 for codes of 1 bits, got 4"),
    ((BOOK.long(), CODES, [6]), {}, TypeError, "`codebook` of float16, .*got Long"),
    ((BOOK, CODES.int(), [6]), {}, TypeError, "`codes` to be uint8 .*got Int"),
    ((BOOK, CODES, [7]), {}, ValueError, r"`codes` to have 7 bytes \(7 codes of 8 bits\), got 6"),
    (
        (BOOK, CODES, [13]),
        {"bits": 4},
        ValueError,
        r"to have 7 bytes \(13 codes of 4 bits\), got 6",
    ),
    ((BOOK, CODES, [-2, -3]), {}, ValueError, "`shape` without negative sizes"),
    ((BOOK, CODES, [6]), {"dtype": torch.int32}, TypeError, "`dtype` to be float16, .*got Int"),
]

CENTROID_GRAD_ERRORS = [
    ((GRAD, CODES, 4), {"bits": 5}, ValueError, "`bits` to be 1, 2, 4 or 8, got 5"),
    ((GRAD.long(), CODES, 4), {}, TypeError, "`grad` of float16, .*got Long"),
    ((GRAD, CODES, 0), {}, ValueError, r"`k` in 1\.\.256 .*got 0"),
    ((GRAD, CODES, 257), {}, ValueError, r"`k` in 1\.\.256 .*got 257"),
    ((GRAD, CODES[:3], 17), {"bits": 4}, ValueError, r"`k` in 1\.\.16 for codes of 4 bits, got 17"),
    ((GRAD, CODES.to(torch.int8), 4), {}, TypeError, "`codes` to be uint8 .*got Char"),
    ((GRAD, CODES[:5], 4), {}, ValueError, r"`codes` to have 6 bytes .*got 5"),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("args", "options", "error", "message"), LOOKUP_ERRORS)
def test_lookup_refuses(args, options, error, message, device):
    moved = [a.to(device) if isinstance(a, torch.Tensor) else a for a in args]
    with pytest.raises(error, match="lookup: expected .*" + message):
        lookup(*moved, **options)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("args", "options", "error", "message"), CENTROID_GRAD_ERRORS)
def test_centroid_grad_refuses(args, options, error, message, device):
    moved = [a.to(device) if isinstance(a, torch.Tensor) else a for a in args]
    with pytest.raises(error, match="centroid_grad: expected .*" + message):
        centroid_grad(*moved, **options)


def test_operators_refuse_tensors_on_two_devices():
    with pytest.raises(TypeError, match=r"`codes` on the device of `codebook` \(meta\), got cpu"):
        lookup(BOOK.to("meta"), CODES, [6])
    with pytest.raises(TypeError, match=r"`codes` on the device of `grad` \(meta\), got cpu"):
        centroid_grad(GRAD.to("meta"), CODES, 4)


def test_a_shape_of_more_elements_than_an_int64_counts_is_refused():
    with pytest.raises(RuntimeError):
        lookup(BOOK, CODES[:0], [2**32, 2**32])
