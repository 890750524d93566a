"""The operators packed_linear and packed_weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference.packed_linear import packed_linear as reference
from torch import nn
from torch.nn.functional import linear

from pomona import _C, InvalidArgument

packed_linear = torch.ops.pomona.packed_linear
packed_weight = torch.ops.pomona.packed_weight
LAYOUTS = [
    ("csr16", "fp32"),
    ("pg32", "fp32"),
    ("pg32", "bf16"),
    ("pgv", "fixed16"),
    ("pgv", "int8"),
    ("lut", "fp32"),
    ("lut", "bf16"),
    ("lut", "int8"),
    ("csc16", "fp32"),
]


def sparse(rows: int, cols: int, density: float = 0.3, distinct: int = 0, seed: int = 0):
    """A random matrix; of `distinct` values when that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=generator)
    if distinct:
        palette = torch.randn(distinct, generator=generator)
        weight = palette[torch.randint(distinct, (rows, cols), generator=generator)]
    return torch.where(torch.rand(rows, cols, generator=generator) < density, weight, 0)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_equals_reference(weight, batch, bias):
    x = random(batch, weight.shape[1])
    y = packed_linear(x, _C.pack(weight, "w"), bias, weight.shape[0])
    expected, scale = reference(x, weight, bias)
    assert y.shape == expected.shape
    assert ((y.double() - expected).abs() <= 1e-6 * scale + 1e-30).all()


@pytest.mark.parametrize("distinct", [0, 15])
@pytest.mark.parametrize("batch", [0, 1, 2, 3, 8, 11])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (7, 9), (33, 65), (10, 84)])
def test_packed_linear_equals_the_literal_reference(rows, cols, batch, distinct):
    weight = sparse(rows, cols, distinct=distinct)
    assert_equals_reference(weight, batch, None)
    assert_equals_reference(weight, batch, random(rows))


@pytest.mark.parametrize("weight", [torch.zeros(4, 6), torch.ones(4, 6), torch.zeros(4, 0)])
def test_packed_linear_of_empty_and_full_matrices(weight):
    assert_equals_reference(weight, 3, random(4))
    assert_equals_reference(weight, 3, None)


def test_packed_linear_without_outputs_is_empty():
    y = packed_linear(random(3, 5), _C.pack(torch.zeros(0, 5), "w"), None, 0)
    assert y.shape == (3, 0)


def test_packed_linear_of_70000_columns():
    weight = sparse(3, 70_000, 0.01)
    x = random(2, 70_000)
    y = packed_linear(x, _C.pack(weight, "w"), None, 3)
    torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 0, 3), (1, 2, 1, 2)])
def test_packed_linear_keeps_leading_dimensions(leading):
    weight, bias, x = sparse(5, 8), random(5), random(*leading, 8)
    y = packed_linear(x, _C.pack(weight, "w"), bias, 5)
    assert y.shape == (*leading, 5)
    torch.testing.assert_close(y, linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_packed_linear_takes_any_strides():
    weight, packed = sparse(5, 8), None
    packed = _C.pack(weight, "w")
    wide = random(4, 16)
    for x in (random(8, 4).T, wide[:, ::2], wide[:, 3:11], random(1, 8).expand(4, 8)):
        assert torch.equal(
            packed_linear(x, packed, None, 5), packed_linear(x.contiguous(), packed, None, 5)
        )


def test_packed_linear_takes_packed_bytes_at_any_address():
    weight, x = sparse(5, 8), random(2, 8)
    packed = _C.pack(weight, "w")
    for shift in range(8):
        moved = torch.empty(packed.numel() + 8, dtype=torch.uint8)[shift:][: packed.numel()]
        moved.copy_(packed)
        assert torch.equal(packed_linear(x, moved, None, 5), packed_linear(x, packed, None, 5))


def test_packed_linear_does_not_depend_on_batch_or_threads():
    weight, x = sparse(400, 900, 0.5), random(37, 900)
    packed = _C.pack(weight, "w")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.stack([packed_linear(row, packed, None, 400) for row in x])
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert torch.equal(packed_linear(x, packed, None, 400), alone)
            assert torch.equal(packed_linear(x[:3], packed, None, 400), alone[:3])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("layout", ["csr16", "pg32", "lut", "csc16"])
def test_infinity_and_nan_in_the_input_are_as_in_a_dense_product(layout, bad):
    weight = sparse(40, 30, distinct=5)
    x = random(3, 30)
    x[1, 7] = bad
    y = packed_linear(x, _C.pack(weight, "w", layout), None, 40)
    torch.testing.assert_close(y, x @ weight.T, equal_nan=True)


@pytest.mark.parametrize(("layout", "precision"), LAYOUTS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (65, 33), (130, 300), (600, 90)])
def test_every_layout_multiplies_and_unpacks(layout, precision, rows, cols):
    weight = sparse(rows, cols, distinct=14)
    weight[0, 0] = 0.5
    packed = _C.pack(weight, "w", layout, precision)
    assert _C.packed_facts(packed) == (layout, precision, rows, cols, weight.count_nonzero())
    assert torch.equal(packed_weight(packed, rows, cols), weight)
    x, bias = random(3, cols), random(rows)
    expected, _ = reference(x, weight, bias)
    y = packed_linear(x, packed, bias, rows)
    worst = {"fp32": 1e-5, "bf16": 1e-2, "fixed16": 1e-4, "int8": 5e-2}[precision]
    assert (y - expected).abs().max() <= worst * expected.abs().max()
    clipped = packed_linear(x, packed, bias, rows, relu=True)
    assert torch.equal(clipped, y.relu())


@pytest.mark.parametrize(("layout", "precision"), LAYOUTS)
def test_every_layout_has_the_same_bits_on_any_number_of_threads(layout, precision):
    weight, x = sparse(3000, 700, distinct=15), random(2, 700)
    packed = _C.pack(weight, "w", layout, precision)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = packed_linear(x, packed, None, 3000)
        for count in (2, 3, 5):
            torch.set_num_threads(count)
            assert torch.equal(packed_linear(x, packed, None, 3000), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("layout", "precision"), LAYOUTS)
def test_every_layout_takes_a_quick_packing(layout, precision):
    weight, x = sparse(200, 300, distinct=15), random(1, 300)
    packed = _C.pack(weight, "w", layout, precision, is_quick=True)
    assert torch.equal(packed_weight(packed, 200, 300), weight)
    expected = x @ weight.T
    error = (packed_linear(x, packed, None, 200) - expected).abs().max()
    assert error <= 5e-2 * expected.abs().max()


def test_packing_refuses_a_layout_that_cannot_hold_the_weight():
    many, plain = sparse(30, 40, distinct=200), sparse(30, 40)
    with pytest.raises(InvalidArgument, match=r"`w` to fit pg32 in fp32.*31 values that matter"):
        _C.pack(many, "w", "pg32")
    with pytest.raises(InvalidArgument, match="more than 256 different values"):
        _C.pack(plain, "w", "pg32")
    with pytest.raises(InvalidArgument, match="csr16 computes in fp32, not in int8"):
        _C.pack(many, "w", "csr16", "int8")
    with pytest.raises(InvalidArgument, match="pgv does not compute in fp32"):
        _C.pack(many, "w", "pgv")
    with pytest.raises(
        InvalidArgument, match="`layout` to be csr16, pg32, pgv, lut or csc16, got csr"
    ):
        _C.pack(many, "w", "csr")
    with pytest.raises(InvalidArgument, match="`precision` to be fp32, bf16, fixed16 or int8"):
        _C.pack(many, "w", "csr16", "fp8")
    assert _C.layouts_for(plain, "w", "fp32") == ["csr16"]
    assert _C.layouts_for(plain, "w", "int8") == []
    assert sorted(_C.layouts_for(sparse(30, 40, distinct=9), "w", "fp32")) == [
        "csc16",
        "csr16",
        "lut",
        "pg32",
    ]
    full = sparse(30, 40, density=1.0, distinct=9)
    assert _C.layouts_for(full, "w", "fp32")[0] == "lut"


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_through_a_relu(relu):
    weight = sparse(7, 9)
    packed = _C.pack(weight, "w")
    x, bias = random(3, 9).requires_grad_(), random(7).requires_grad_()
    packed_linear(x, packed, bias, 7, relu=relu).square().sum().backward()
    got = x.grad, bias.grad
    x.grad = bias.grad = None
    dense = nn.functional.linear(x, weight, bias)
    (dense.relu() if relu else dense).square().sum().backward()
    torch.testing.assert_close(got, (x.grad, bias.grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_packed_weight_is_the_matrix_exactly(dtype):
    for weight in (sparse(7, 9), sparse(7, 9, distinct=4), sparse(2, 70_000), torch.zeros(0, 3)):
        rounded = weight.to(dtype)
        assert torch.equal(packed_weight(_C.pack(rounded, "w"), *rounded.shape), rounded.float())


@pytest.mark.parametrize("has_bias", [False, True])
def test_opcheck_of_packed_linear(has_bias):
    packed = _C.pack(sparse(7, 9), "w")
    for requires_grad in (False, True):
        x = random(3, 9).requires_grad_(requires_grad)
        bias = random(7).requires_grad_(requires_grad) if has_bias else None
        torch.library.opcheck(packed_linear, (x, packed, bias, 7))
        torch.library.opcheck(packed_linear, (x, packed, bias, 7), {"relu": True})


def test_opcheck_of_packed_weight():
    for layout in ("csr16", "pg32"):
        packed = _C.pack(sparse(7, 9, distinct=3), "w", layout)
        torch.library.opcheck(packed_weight, (packed, 7, 9))


@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 3)])
def test_gradients_of_input_and_bias_are_those_of_a_dense_layer(leading):
    weight = sparse(7, 9)
    packed = _C.pack(weight, "w")
    grads = []
    for run in (
        lambda x, b: packed_linear(x, packed, b, 7),
        lambda x, b: linear(x, weight, b),
    ):
        x, bias = random(*leading, 9).requires_grad_(), random(7).requires_grad_()
        grads.append(torch.autograd.grad((run(x, bias) ** 2).sum(), (x, bias)))
    for ours, dense in zip(*grads, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-5, atol=1e-5)


def test_gradient_without_bias_and_of_bias_alone():
    packed, x, bias = _C.pack(sparse(7, 9), "w"), random(2, 9), random(7)
    packed_linear(x.requires_grad_(), packed, None, 7).sum().backward()
    assert x.grad is not None
    packed_linear(x.detach(), packed, bias.requires_grad_(), 7).sum().backward()
    assert bias.grad.tolist() == [2.0] * 7


def test_second_derivative_is_that_of_a_dense_layer():
    weight = sparse(7, 9)
    packed = _C.pack(weight, "w")
    second = []
    for run in (lambda x: packed_linear(x, packed, None, 7), lambda x: linear(x, weight)):
        x = random(9).requires_grad_()
        (grad,) = torch.autograd.grad((run(x) ** 3).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(grad.sum(), x)[0])
    torch.testing.assert_close(second[0], second[1], rtol=1e-4, atol=1e-4)


def test_autocast_widens_the_input():
    packed, x = _C.pack(sparse(7, 9), "w"), random(2, 9).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = packed_linear(x, packed, random(7).bfloat16(), 7)
    assert y.dtype == torch.float32


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    weight = sparse(7, 9)
    packed = _C.pack(weight, "w")
    run = torch.compile(
        lambda x: packed_linear(x, packed, None, 7).relu(), fullgraph=True, dynamic=dynamic
    )
    for batch in (1, 2, 5):
        x = random(batch, 9).requires_grad_()
        assert torch.equal(run(x), packed_linear(x, packed, None, 7).relu())


GOOD = (torch.zeros(3, 9), _C.pack(sparse(7, 9), "w"), torch.zeros(7), 7)


@pytest.mark.parametrize(
    ("position", "value", "kind", "message"),
    [
        (0, torch.zeros(3, 9).half(), TypeError, "expected `input` to be float32, got Half"),
        (0, torch.zeros(3, 9).double(), TypeError, "expected `input` to be float32, got Double"),
        (
            0,
            torch.tensor(1.0),
            ValueError,
            r"expected `input` of shape \[..., cols\], got a scalar",
        ),
        (0, torch.zeros(3, 8), ValueError, r"of `packed`, \[7, 9\], got \[7, 8\]"),
        (1, torch.zeros(200), TypeError, "expected `packed` to be uint8, got Float"),
        (1, GOOD[1].reshape(1, -1), ValueError, "expected `packed` to have 1 dimension, got 2"),
        (1, GOOD[1][:79], ValueError, "expected `packed` of at least 80 bytes, got 79"),
        (1, GOOD[1][:-1], ValueError, "bytes, as its header says"),
        (1, torch.zeros(200, dtype=torch.uint8), ValueError, 'to begin with the bytes "pmpk"'),
        (1, GOOD[1].to("meta"), TypeError, "expected `packed` on the device of `input`"),
        (2, torch.zeros(7).double(), TypeError, "expected `bias` to be float32, got Double"),
        (2, torch.zeros(6), ValueError, r"expected `bias` of shape \[7\], got \[6\]"),
        (2, torch.zeros(7, 1), ValueError, r"expected `bias` of shape \[7\], got \[7, 1\]"),
        (2, torch.zeros(7, device="meta"), TypeError, "expected `bias` on the device of `input`"),
        (3, -1, ValueError, "expected `out_features` of at least 0, got -1"),
    ],
)
def test_packed_linear_refuses(position, value, kind, message):
    arguments = list(GOOD)
    arguments[position] = value
    if position == 3:
        arguments[2] = None
    with pytest.raises(kind, match=message):
        packed_linear(*arguments)


def test_packed_linear_refuses_other_out_features():
    with pytest.raises(ValueError, match=r"of `packed`, \[7, 9\], got \[6, 9\]"):
        packed_linear(GOOD[0], GOOD[1], None, 6)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((torch.zeros(200), 7, 9), TypeError, "packed_weight: expected `packed` to be uint8"),
        ((GOOD[1], 7, 8), ValueError, r"packed_weight: .* \[7, 9\], got \[7, 8\]"),
        ((GOOD[1], -1, 9), ValueError, "packed_weight: expected `out_features` of at least 0"),
        ((GOOD[1], 7, -1), ValueError, "packed_weight: expected `in_features` of at least 0"),
    ],
)
def test_packed_weight_refuses(arguments, kind, message):
    with pytest.raises(kind, match=message):
        packed_weight(*arguments)


def test_meta_checks_what_the_cpu_checks():
    x, packed = GOOD[0].to("meta"), GOOD[1].to("meta")
    assert packed_linear(x, packed, None, 7).shape == (3, 7)
    with pytest.raises(TypeError, match="expected `input` to be float32"):
        packed_linear(x.half(), packed, None, 7)


THREADS = """
import os, torch, pomona
torch.set_num_threads(1)
weight = torch.rand(2048, 2048) * (torch.rand(2048, 2048) < 0.1)
packed, x = pomona.nn.PackedLinear(weight, layout="csr16"), torch.rand(1, 2048)
alone = packed(x)
before = len(os.listdir("/proc/self/task"))
torch.set_num_threads(2)
assert torch.equal(packed(x), alone)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc")
def test_a_large_product_runs_on_the_threads_of_torch():
    run = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "1"
