"""packed_linear, packed_weight and packed_embedding on a GPU, against the literal reference."""

from __future__ import annotations

import pytest
import torch
from reference.packed_linear import packed_linear as reference

from pomona import _C

packed_linear = torch.ops.pomona.packed_linear
packed_weight = torch.ops.pomona.packed_weight
packed_embedding = torch.ops.pomona.packed_embedding

pytestmark = pytest.mark.cuda


def sparse(rows: int, cols: int, distinct: int = 0, density: float = 0.3):
    """A random matrix; of `distinct` values when that is not 0."""
    weight = torch.randn(rows, cols)
    if distinct:
        weight = torch.randn(distinct)[torch.randint(distinct, (rows, cols))]
    return torch.where(torch.rand(rows, cols) < density, weight, 0)


@pytest.mark.parametrize("distinct", [0, 15])
@pytest.mark.parametrize("batch", [0, 1, 2, 8, 11])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (7, 9), (33, 65), (10, 84), (0, 4), (4, 0)])
def test_packed_linear_equals_the_literal_reference(cuda, rows, cols, batch, distinct):
    weight, x = sparse(rows, cols, distinct), torch.randn(batch, cols)
    packed = _C.pack(weight, "w").to(cuda)
    for bias in (None, torch.randn(rows)):
        y = packed_linear(x.to(cuda), packed, None if bias is None else bias.to(cuda), rows)
        expected, scale = reference(x, weight, bias)
        assert y.shape == expected.shape
        assert ((y.cpu().double() - expected).abs() <= 1e-6 * scale + 1e-30).all()


def test_packed_linear_of_70000_columns(cuda):
    weight, x = sparse(3, 70_000, density=0.01), torch.randn(2, 70_000)
    y = packed_linear(x.to(cuda), _C.pack(weight, "w").to(cuda), None, 3)
    torch.testing.assert_close(
        y.cpu().double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-4
    )


def test_packed_linear_takes_packed_bytes_at_any_address(cuda):
    weight, x = sparse(5, 8), torch.randn(2, 8, device=cuda)
    packed = _C.pack(weight, "w").to(cuda)
    for shift in range(8):
        moved = torch.empty(packed.numel() + 8, dtype=torch.uint8, device=cuda)[shift:]
        moved = moved[: packed.numel()].copy_(packed)
        assert torch.equal(packed_linear(x, moved, None, 5), packed_linear(x, packed, None, 5))


def test_packed_linear_does_not_depend_on_the_batch(cuda):
    packed = _C.pack(sparse(40, 90), "w").to(cuda)
    x = torch.randn(37, 90, device=cuda)
    alone = torch.stack([packed_linear(row, packed, None, 40) for row in x])
    assert torch.equal(packed_linear(x, packed, None, 40), alone)


@pytest.mark.parametrize("distinct", [0, 4])
def test_packed_weight_is_the_matrix_exactly(cuda, distinct):
    weight = sparse(7, 9, distinct)
    assert torch.equal(packed_weight(_C.pack(weight, "w").to(cuda), 7, 9).cpu(), weight)


def test_packed_embedding_gives_rows_and_nan_for_others(cuda):
    weight = sparse(7, 9)
    packed = _C.pack(weight, "w").to(cuda)
    rows = packed_embedding(torch.tensor([[6, 0], [7, -1]], device=cuda), packed, 7, 9).cpu()
    assert torch.equal(rows[0], weight[[6, 0]])
    assert rows[1].isnan().all()


def test_bytes_of_another_matrix_give_nan(cuda):
    packed = _C.pack(sparse(7, 9), "w").to(cuda)
    assert packed_linear(torch.ones(3, 8, device=cuda), packed, None, 7).isnan().all()
    assert packed_linear(torch.ones(3, 9, device=cuda), packed, None, 6).isnan().all()
    assert packed_weight(packed, 7, 8).isnan().all()
    assert packed_weight(torch.zeros_like(packed), 7, 9).isnan().all()


def test_operators_pass_opcheck(cuda):
    packed = _C.pack(sparse(7, 9), "w").to(cuda)
    x = torch.randn(3, 9, device=cuda, requires_grad=True)
    bias = torch.randn(7, device=cuda, requires_grad=True)
    torch.library.opcheck(packed_linear, (x, packed, bias, 7))
    torch.library.opcheck(packed_linear, (x, packed, None, 7))
    torch.library.opcheck(packed_weight, (packed, 7, 9))
    torch.library.opcheck(packed_embedding, (torch.tensor([6, 0], device=cuda), packed, 7, 9))
