"""pomona.nn.PackedEmbedding and its operator: the rows of a packed table."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import pomona
from pomona import _C, InvalidArgument
from pomona.nn import PackedEmbedding, PackedLinear

packed_embedding = torch.ops.pomona.packed_embedding


def table(rows: int = 50, dim: int = 12, density: float = 0.3, distinct: int = 0) -> torch.Tensor:
    """A random table; of `distinct` values and 0 when that is not 0."""
    generator = torch.Generator().manual_seed(rows + dim)
    weight = torch.randn(rows, dim, generator=generator)
    if distinct:
        weight = torch.randint(1, distinct + 1, (rows, dim), generator=generator) / 8
    return torch.where(torch.rand(rows, dim, generator=generator) < density, weight, 0.0)


TABLES = {
    "plain": table(),
    "shared": table(distinct=200, density=0.1),
    "hardly pruned, few values": table(distinct=9, density=0.95),
    "one column": table(dim=1),
    "wider than a block": table(dim=300, distinct=9, density=1.0),
    "wider than 65,536": table(3, 70_000, density=0.001),
    "zeros": torch.zeros(4, 5),
}


@pytest.mark.parametrize("weight", TABLES.values(), ids=list(TABLES))
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3)])
def test_gives_the_rows_of_the_dense_table_exactly(weight, shape):
    packed = PackedEmbedding(weight)
    indices = torch.randint(len(weight), shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(packed(indices), nn.functional.embedding(indices, weight))
    assert torch.equal(packed(indices.int()), weight[indices])
    assert torch.equal(packed.weight, weight)


def test_many_rows_are_shared_out_over_threads():
    weight = table(2000, 64)
    indices = torch.randint(2000, (5000,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(PackedEmbedding(weight)(indices), weight[indices])


def test_takes_the_smaller_layout():
    assert PackedEmbedding(TABLES["plain"]).layout == "csr16"
    assert PackedEmbedding(TABLES["shared"]).layout == "csr16"
    assert PackedEmbedding(TABLES["wider than a block"]).layout == "lut"
    few = table(200, 128, distinct=9, density=0.01)
    assert PackedEmbedding(few).layout == "csr16"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gives_the_dtype_of_the_weight(dtype):
    weight = table().to(dtype)
    packed = PackedEmbedding(weight)
    assert torch.equal(packed(torch.arange(50)), weight)
    assert packed.weight.dtype == dtype


def test_from_embedding_keeps_mode_and_ignores_padding():
    embedding = nn.Embedding(50, 12, padding_idx=3).eval()
    packed = PackedEmbedding.from_embedding(embedding)
    assert not packed.training
    assert torch.equal(packed(torch.arange(50)), embedding.weight)
    assert list(packed.parameters()) == []
    assert repr(packed).startswith("PackedEmbedding(50, 12, dtype=torch.float32, bytes=")


def test_is_copied_pickled_and_loaded():
    packed, tokens = PackedEmbedding(table()), torch.arange(50)
    expected = packed(tokens)
    assert torch.equal(copy.deepcopy(packed)(tokens), expected)
    assert torch.equal(pickle.loads(pickle.dumps(packed))(tokens), expected)
    file = io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    other = PackedEmbedding(torch.zeros(50, 12))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(tokens), expected)
    with pytest.raises(RuntimeError, match=r"PackedEmbedding: expected `packed` of shape \[49, 12"):
        PackedEmbedding(torch.zeros(49, 12)).load_state_dict(packed.state_dict())


@pytest.mark.parametrize(("layout", "precision"), [("pg32", "fp32"), ("pgv", "fixed16")])
def test_refuses_a_layout_whose_rows_cannot_be_looked_up(layout, precision):
    weight = table(distinct=9)
    other = PackedLinear(weight, layout=layout, precision=precision)
    packed = PackedEmbedding(weight)
    model = nn.ModuleDict({"words": packed})
    message = f"PackedEmbedding: expected `packed` of layout csr16 or lut, got {layout}."
    with pytest.raises(RuntimeError, match=rf"words\.packed: {message}"):
        model.load_state_dict({"words.packed": other.packed})
    assert torch.equal(packed(torch.arange(50)), weight)
    with pytest.raises(InvalidArgument) as caught:
        PackedEmbedding.from_packed(other.packed)
    assert str(caught.value) == message


def test_from_packed_takes_the_bytes_of_another():
    weight = table(distinct=9).bfloat16()
    packed = PackedEmbedding(weight)
    other = PackedEmbedding.from_packed(packed.packed, torch.bfloat16)
    assert torch.equal(other(torch.arange(50)), weight)
    assert other.packed is packed.packed
    with pytest.raises(InvalidArgument, match="expected `packed`"):
        PackedEmbedding.from_packed(torch.zeros(500, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_saved_with_its_dense_table(tmp_path, dtype):
    weight = table(distinct=9).to(dtype)
    pomona.save(nn.Sequential(PackedEmbedding(weight)), tmp_path / "net.pomona")
    dense, packed = nn.Embedding(50, 12, dtype=dtype), PackedEmbedding(torch.zeros_like(weight))
    for layer in (dense, packed):
        pomona.load_(nn.Sequential(layer), tmp_path / "net.pomona")
        assert torch.equal(layer(torch.arange(50)), weight)


def test_compiles_and_exports():
    model = nn.Sequential(PackedEmbedding(table()), nn.Linear(12, 4))
    tokens = torch.arange(6)
    with torch.no_grad():
        expected = model(tokens)
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(tokens), expected)
        batch = torch.export.Dim("batch", min=2, max=64)
        program = torch.export.export(model, (tokens,), dynamic_shapes=({0: batch},))
        assert torch.equal(program.module()(tokens), expected)
        assert program.module()(torch.arange(9)).shape == (9, 4)


@pytest.mark.parametrize("weight", [table(), table(distinct=9, density=1.0)])
def test_opcheck(weight):
    packed = _C.pack_rows(weight, "w")
    torch.library.opcheck(packed_embedding, (torch.tensor([[3, 0], [7, 49]]), packed, 50, 12))


def test_refuses_a_weight_that_cannot_be_packed():
    for weight, message in [
        ([1.0], "expected `weight` to be a tensor, got list"),
        (torch.ones(3), "weight"),
        (torch.ones(3, 2, dtype=torch.int64), "weight"),
        (torch.full((3, 2), float("inf")), "expected `weight` to be finite"),
    ]:
        with pytest.raises(InvalidArgument, match=message):
            PackedEmbedding(weight)


def test_refuses_another_layer_and_max_norm():
    with pytest.raises(InvalidArgument, match=r"to be a torch\.nn\.Embedding, got L"):
        PackedEmbedding.from_embedding(nn.Linear(2, 2))
    with pytest.raises(InvalidArgument, match=r"without `max_norm`, got 1\.0"):
        PackedEmbedding.from_embedding(nn.Embedding(3, 2, max_norm=1.0))


PACKED = _C.pack_rows(table(), "w")
INDEX = torch.tensor([1])
TILES = _C.pack(table(distinct=9), "w", "pg32")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((torch.ones(1), PACKED, 50, 12), TypeError, "`indices` to be int64 or int32, got Float"),
        ((INDEX, PACKED.int(), 50, 12), TypeError, "`packed` to be uint8"),
        ((INDEX, PACKED[:9], 50, 12), ValueError, "`packed` of at least 80 bytes, got 9"),
        ((INDEX, PACKED, 50, 11), ValueError, r"embedding_dim\] of `packed`, \[50, 12\], got \[50"),
        ((INDEX, PACKED, -1, 12), ValueError, "`num_embeddings` of at least 0, got -1"),
        ((INDEX, PACKED, 50, -1), ValueError, "`embedding_dim` of at least 0, got -1"),
        ((INDEX, TILES, 50, 12), ValueError, "of layout csr16 or lut, got pg32"),
        ((torch.tensor([50]), PACKED, 50, 12), IndexError, r"`indices` in 0\.\.49, got 50"),
        ((torch.tensor([0, -1]), PACKED, 50, 12), IndexError, r"`indices` in 0\.\.49, got -1"),
    ],
)
def test_the_operator_refuses(arguments, kind, message):
    with pytest.raises(kind, match=message):
        packed_embedding(*arguments)
