"""PackedLSTM and PackedGRU beside the torch modules."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from pomona import InvalidArgument
from pomona.nn import PackedGRU, PackedLSTM

PAIRS = [(nn.LSTM, PackedLSTM), (nn.GRU, PackedGRU)]
OPTIONS = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
]


def sparse(rnn: nn.RNNBase) -> nn.RNNBase:
    """Pruned to a third, few values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in rnn.named_parameters():
            if name.startswith("weight"):
                weight.copy_((weight * 20).round() / 20)
                weight.mul_(torch.rand(weight.shape, generator=generator) < 0.3)
    return rnn.eval()


def assert_same(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, tuple):
            assert_same(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dense", "packed"), PAIRS)
@torch.no_grad()
def test_it_computes_what_the_torch_module_does(dense, packed, options):
    torch.manual_seed(0)
    rnn = sparse(dense(12, 9, **options))
    ours = packed(rnn)
    x = torch.randn(3, 5, 12)
    assert_same(ours(x), rnn(x))
    assert_same(ours(x[0]), rnn(x[0]))  # unbatched
    _, state = rnn(x)
    ours.flatten_parameters()
    assert_same(ours(x, state), rnn(x, state))


@torch.no_grad()
def test_an_lstm_may_have_a_projection():
    rnn = sparse(nn.LSTM(12, 9, num_layers=2, proj_size=4))
    x = torch.randn(5, 2, 12)
    assert_same(PackedLSTM(rnn)(x), rnn(x))


@pytest.mark.parametrize(("dense", "packed"), PAIRS)
@torch.no_grad()
def test_copies_and_states_compute_the_same(dense, packed):
    rnn = sparse(dense(12, 9))
    ours, x = packed.from_rnn(rnn, layout="pg32"), torch.randn(4, 1, 12)
    expected = ours(x)
    assert ours.cells[0]["hidden"].layout == "pg32"
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_same(copied(x), expected)
    other = packed(dense(12, 9))
    other.load_state_dict(ours.state_dict())
    assert_same(other(x), expected)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dense", "packed"), PAIRS)
@torch.no_grad()
def test_sequences_of_different_lengths(dense, packed, options):
    torch.manual_seed(0)
    rnn = sparse(dense(12, 9, **options))
    ours = packed(rnn)
    sequences = [torch.randn(steps, 12) for steps in (3, 7, 1, 7, 4)]
    for is_sorted in (False, True):
        if is_sorted:
            sequences.sort(key=len, reverse=True)
        x = pack_sequence(sequences, enforce_sorted=is_sorted)
        expected, state = rnn(x)
        output, ours_state = ours(x)
        assert type(output) is type(expected)
        assert_same(output[:2], expected[:2])
        assert_same([ours_state], [state])
        assert_same([ours(x, state)[1]], [rnn(x, state)[1]])
        if not is_sorted:
            assert torch.equal(output.sorted_indices, expected.sorted_indices)
            assert torch.equal(output.unsorted_indices, expected.unsorted_indices)


@torch.no_grad()
def test_it_compiles_and_exports():
    ours, x = PackedLSTM(sparse(nn.LSTM(12, 9))), torch.randn(3, 1, 12)
    assert_same(torch.compile(ours, fullgraph=True)(x), ours(x))
    assert_same(torch.export.export(ours, (x,)).module()(x), ours(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PackedLSTM(nn.GRU(3, 3)), "expected `rnn` to be a torch.nn.LSTM, got GRU"),
        (lambda: PackedGRU(nn.RNN(3, 3)), "expected `rnn` to be a torch.nn.GRU, got RNN"),
        (lambda: PackedGRU(nn.GRU(3, 4))(torch.ones(2, 4)), r"\[steps, 3\].* got \[2, 4\]"),
        (lambda: PackedGRU(nn.GRU(3, 4))(torch.ones(0, 3)), r"with a step, got \[0, 3\]"),
        (lambda: PackedGRU(nn.GRU(3, 4))([1]), "to be a tensor or a PackedSequence, got"),
        (
            lambda: PackedGRU(nn.GRU(3, 4))(pack_sequence([torch.ones(2, 4)])),
            r"\[steps, 3\].* got \[2, 1, 4\]",
        ),
        (
            lambda: PackedLSTM(nn.LSTM(3, 4))(
                torch.ones(2, 3), (torch.ones(1, 4), torch.ones(1, 3))
            ),
            r"expected `hx` of shapes \[\[1, 1, 4\], \[1, 1, 4\]\]",
        ),
    ],
)
def test_refuses_what_does_not_fit(call, message):
    with pytest.raises(InvalidArgument, match=message):
        call()


def test_refuses_weights_that_are_not_finite():
    rnn = nn.LSTM(3, 4)
    rnn.weight_hh_l0.data[0, 0] = float("nan")
    with pytest.raises(InvalidArgument, match="finite"):
        PackedLSTM(rnn)
