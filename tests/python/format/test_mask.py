"""Mask at the API's edge."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from pomona._C import InvalidArgument, Mask


def some(size: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(size)) < 0.4


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 785])
def test_bool_tensors_come_back(size):
    keep = some(size)
    mask = Mask.from_tensor(keep)
    assert torch.equal(mask.to_tensor(), keep)
    assert (mask.size, len(mask), mask.kept) == (size, size, int(keep.sum()))


def test_a_mask_of_a_matrix_is_row_major_whatever_its_strides():
    keep = some(35).reshape(5, 7)
    assert Mask.from_tensor(keep.T) == Mask.from_tensor(keep.T.contiguous())


def test_words_hold_bit_i_in_word_i_over_64():
    mask = Mask(70, keep=False)
    mask[65] = True
    assert mask.words().tolist() == [0, 2]


def test_operators_follow_the_bits():
    a, b = some(100), some(200)[100:]
    x, y = Mask.from_tensor(a), Mask.from_tensor(b)
    assert torch.equal((x & y).to_tensor(), a & b)
    assert torch.equal((x | y).to_tensor(), a | b)
    assert torch.equal((~x).to_tensor(), ~a)
    assert x == Mask.from_tensor(a)
    assert x != y
    assert x.hash() == Mask.from_tensor(a).hash() != y.hash()
    assert x.sparsity == pytest.approx(1 - a.double().mean().item())


def test_copies_and_pickles_are_equal():
    mask = Mask.from_tensor(some(130))
    assert copy.deepcopy(mask) == mask
    assert pickle.loads(pickle.dumps(mask)) == mask
    assert repr(mask) == f"Mask(size=130, kept={mask.kept})"


def test_index_from_the_end_and_past_it():
    mask = Mask(3)
    mask[-1] = False
    assert [mask[0], mask[2]] == [True, False]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"expected an index below 3, got {index}"):
            mask[index]


def test_refuses_wrong_sizes_and_dtypes():
    with pytest.raises(InvalidArgument, match="expected `size` of at least 0, got -1"):
        Mask(-1)
    with pytest.raises(InvalidArgument, match="expected masks of one size, got 3 and 4"):
        Mask(3) & Mask(4)
    with pytest.raises(TypeError, match="expected `keep` to be a bool tensor, got Float"):
        Mask.from_tensor(torch.ones(3))
