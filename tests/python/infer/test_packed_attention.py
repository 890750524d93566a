"""PackedMultiheadAttention beside torch.nn.MultiheadAttention."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from pomona import InvalidArgument
from pomona.nn import PackedMultiheadAttention


def attention(**options) -> nn.MultiheadAttention:
    """8 numbers in 2 heads, pruned to a third, few values."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, **options)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_((torch.randn(weight.shape) * 4).round() / 8)
            if name.endswith("weight"):
                weight.mul_(torch.rand(weight.shape) < 0.3)
    return module.eval()


def assert_same(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if b is None:
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 5, "vdim": 3}, {"dropout": 0.5}])
@pytest.mark.parametrize("need_weights", [False, True])
def test_it_gives_what_torch_gives(batch_first, options, need_weights):
    module = attention(batch_first=batch_first, **options)
    packed = PackedMultiheadAttention.from_attention(module)
    shapes = [(3, 4, module.embed_dim), (3, 6, module.kdim), (3, 6, module.vdim)]
    inputs = [torch.randn(*shape) for shape in shapes]
    if not batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    assert_same(
        packed(*inputs, need_weights=need_weights), module(*inputs, need_weights=need_weights)
    )


def test_unbatched_input_and_weights_of_each_head():
    module = attention()
    packed = PackedMultiheadAttention(module)
    x = torch.randn(5, 8)
    assert_same(packed(x, x, x), module(x, x, x))
    each = {"average_attn_weights": False}
    assert_same(packed(x, x, x, **each), module(x, x, x, **each))
    keep = torch.tensor([False, True, False, False, True])
    assert_same(packed(x, x, x, key_padding_mask=keep), module(x, x, x, key_padding_mask=keep))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float", "heads", "padding", "both", "causal"])
def test_masks(kind, need_weights):
    module = attention(batch_first=True)
    packed = PackedMultiheadAttention(module)
    x = torch.randn(3, 4, 8)
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 4, [False, False, True, True], [False, True, False, True]])
    masks = {
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(4, 4)},
        "heads": {"attn_mask": torch.randn(6, 4, 4)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "causal": {"attn_mask": causal, "is_causal": True},
    }[kind]
    masks["need_weights"] = need_weights
    assert_same(packed(x, x, x, **masks), module(x, x, x, **masks))


def test_it_compiles_exports_copies_pickles_and_saves():
    module = attention(batch_first=True)
    packed, x = PackedMultiheadAttention(module), torch.randn(2, 4, 8)
    expected = packed(x, x, x)
    assert_same(torch.compile(packed, fullgraph=True)(x, x, x), expected)
    assert_same(torch.export.export(packed, (x, x, x)).module()(x, x, x), expected)
    assert_same(copy.deepcopy(packed)(x, x, x), expected)
    assert_same(pickle.loads(pickle.dumps(packed))(x, x, x), expected)
    other = PackedMultiheadAttention(attention(batch_first=True))
    buffer = io.BytesIO()
    torch.save(packed.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same(other(x, x, x), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PackedMultiheadAttention(nn.Linear(3, 3)),
            "expected `attention` to be a torch.nn.MultiheadAttention, got Linear.",
        ),
        (
            lambda: PackedMultiheadAttention(nn.MultiheadAttention(8, 2, add_bias_kv=True)),
            "expected `attention` without add_bias_kv and add_zero_attn, got one with.",
        ),
        (
            lambda: PackedMultiheadAttention(attention())(*[torch.zeros(4, 7)] * 3),
            "expected `query` of shape [steps, 8], or of three dimensions with a batch, "
            "got [4, 7].",
        ),
        (
            lambda: PackedMultiheadAttention(attention())(*[torch.zeros(4, 8)] * 3, is_causal=True),
            "expected `attn_mask` with is_causal, got none.",
        ),
    ],
)
def test_refuses_what_it_cannot_do(call, message):
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert str(caught.value) == f"PackedMultiheadAttention: {message}"
