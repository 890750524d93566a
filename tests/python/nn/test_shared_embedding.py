"""SharedEmbedding: the outputs and gradients of nn.Embedding, padding included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona
from pomona.nn import SharedEmbedding

# What the C++ test of the same name holds as well: the two languages agree byte for byte.
GOLDEN_WEIGHT = [[0.0, 0.5, -1.0, 0.5], [0.0, 2.0, 2.0, -1.0], [0.5, 0.5, 0.0, 0.0]]
GOLDEN_CODEBOOK = [-1.0, 0.5, 2.0]
GOLDEN_CODES = [0b10_01_10_00, 0b01_11_11_00, 0b00_00_10_10]
GOLDEN_OUTPUT = [[0.5, 0.5, 0.0, 0.0], [0.0, 0.5, -1.0, 0.5]]
GOLDEN_GRADIENT = [0.0, 2.0, 0.0]  # row 0 is the padding: two 0.5 of row 2 remain


def golden() -> nn.Embedding:
    embedding = nn.Embedding(3, 4, padding_idx=-3)
    embedding.weight.data.copy_(torch.tensor(GOLDEN_WEIGHT))
    return embedding


def shared(values: int, dim: int, **options) -> tuple[nn.Embedding, SharedEmbedding]:
    embedding = nn.Embedding(11, dim, **options, dtype=torch.float64)
    codes = torch.randint(0, values, (11, dim))
    codes.view(-1)[:values] = torch.arange(values)
    embedding.weight.data.copy_(torch.linspace(-1, 1.1, values)[codes])
    return embedding, SharedEmbedding.from_embedding(embedding)


def test_shared_embedding_agrees_with_cpp_byte_for_byte():
    layer = SharedEmbedding.from_embedding(golden())
    assert layer.has_zero
    assert layer.padding_idx == 0
    assert list(layer.state_dict()) == ["codebook", "codes"]
    assert layer.codebook.tolist() == GOLDEN_CODEBOOK
    assert layer.codes.tolist() == GOLDEN_CODES
    output = layer(torch.tensor([2, 0]))
    assert output.tolist() == GOLDEN_OUTPUT
    output.sum().backward()
    assert layer.codebook.grad.tolist() == GOLDEN_GRADIENT


# Rows of 8 weights are whole bytes at any width of a code, rows of 7 at 8 bits only.
@pytest.mark.parametrize("padding_idx", [None, 3, -1])
@pytest.mark.parametrize("dim", [1, 7, 8])
@pytest.mark.parametrize("values", [2, 3, 11])
def test_outputs_and_gradients_equal_those_of_embedding(values, dim, padding_idx):
    embedding, layer = shared(values, dim, padding_idx=padding_idx)
    for shape in [(), (5,), (2, 3), (0, 3)]:
        for index_dtype in [torch.int32, torch.int64]:
            x = torch.randint(0, 11, shape, dtype=index_dtype)
            for one in [embedding, layer]:
                one.zero_grad()
            y, expected = layer(x), embedding(x)
            assert torch.equal(y, expected)
            grad = torch.randn_like(y)
            y.backward(grad)
            expected.backward(grad)
            sums = pomona.quantize.centroid_grad(
                embedding.weight.grad, layer.codes, values, bits=layer.bits
            )
            torch.testing.assert_close(layer.codebook.grad, sums)


def test_no_gradient_flows_through_the_padding():
    for dim in [7, 8]:
        _, layer = shared(4, dim, padding_idx=3)
        layer(torch.tensor([3, 3])).sum().backward()
        assert layer.codebook.grad.tolist() == [0, 0, 0, 0]


def test_the_whole_weight_is_not_made_for_a_few_rows():
    _, layer = shared(4, 8)
    shapes = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if "lookup" in str(function):
                shapes.append(tuple(result.shape))
            return result

    with Recorder():
        layer(torch.tensor([[1, 2]]))
    assert shapes == [(1, 2, 8)]


@pytest.mark.parametrize("dim", [7, 8])
@pytest.mark.parametrize("row", [11, -1])
def test_an_index_outside_the_rows_is_the_error_of_embedding(dim, row):
    _, layer = shared(4, dim)
    with pytest.raises(IndexError, match="index out of range"):
        layer(torch.tensor([row]))


def test_repr_names_what_matters():
    assert repr(SharedEmbedding(10, 4, 5, padding_idx=-1, has_zero=True)) == (
        "SharedEmbedding(num_embeddings=10, embedding_dim=4, padding_idx=9, centroids=5, "
        "has_zero=True, bits=4)"
    )


# ---------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_norm": 1.5}, r"`embedding` without `max_norm`, got 1\.5\. It would change rows"),
        ({"scale_grad_by_freq": True}, r"`embedding` without `scale_grad_by_freq`, got True\."),
        ({"sparse": True}, r"`embedding` without `sparse`, got True\. .* is dense"),
    ],
)
def test_an_embedding_that_changes_its_rows_or_its_gradient_is_refused(option, message):
    with pytest.raises(pomona.InvalidArgument, match=message):
        SharedEmbedding.from_embedding(nn.Embedding(4, 4, **option))


@pytest.mark.parametrize("row", [-11, 10])
def test_padding_that_is_no_row_is_refused(row):
    with pytest.raises(pomona.InvalidArgument, match=rf"`padding_idx` in -10\.\.9, got {row}\."):
        SharedEmbedding(10, 4, 5, padding_idx=row)
