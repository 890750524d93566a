"""Codebook entries in 16 bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona
from pomona import InvalidArgument


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 10))
    pomona.Sharer(model, {"0*": 4}).step()
    return model


@pytest.mark.parametrize("entries", ["bfloat16", "float16"])
def test_shared_parameters_are_rounded_and_others_left_alone(model, entries):
    dense, bias = model[1].weight.clone(), model[0].bias.clone()
    expected = model[0].weight.to(getattr(torch, entries)).float()
    report = pomona.round_codebooks_(model, entries)
    assert (report.names, report.kept) == (["0.weight"], True)
    assert torch.equal(model[0].weight, expected)
    assert torch.equal(model[1].weight, dense)
    assert torch.equal(model[0].bias, bias)


def test_a_rounded_codebook_takes_two_bytes_an_entry(model, tmp_path):
    before = pomona.save(model, tmp_path / "a.pomona").entries[0]
    pomona.round_codebooks_(model)
    after = pomona.save(model, tmp_path / "a.pomona").entries[0]
    assert (before.codebook_bytes, after.codebook_bytes) == (64, 32)


def test_an_evaluation_that_falls_takes_it_back(model):
    weight = model[0].weight.clone()
    scores = iter([0.9, 0.8])
    report = pomona.round_codebooks_(model, evaluate=lambda m: next(scores), tolerance=0.05)
    assert (report.kept, report.before, report.after) == (False, 0.9, 0.8)
    assert torch.equal(model[0].weight, weight)


def test_an_evaluation_within_its_tolerance_keeps_it(model):
    scores = iter([0.9, 0.88])
    assert pomona.round_codebooks_(model, evaluate=lambda m: next(scores), tolerance=0.05).kept


def test_zeros_stay_zero(model):
    pomona.Pruner(model, {"0*": 0.5}).step()
    zeros = model[0].weight == 0
    pomona.round_codebooks_(model)
    assert torch.equal(model[0].weight == 0, zeros)


def test_other_entries_and_tolerances_are_refused(model):
    with pytest.raises(InvalidArgument, match="`entries` to be one of bfloat16, float16, got 'x'"):
        pomona.round_codebooks_(model, "x")
    with pytest.raises(InvalidArgument, match="`tolerance` of at least 0, got -1"):
        pomona.round_codebooks_(model, tolerance=-1)


def test_values_that_float16_cannot_hold_are_refused(model):
    with torch.no_grad():
        model[0].weight.mul_(1e7)
    before = model[0].weight.clone()
    with pytest.raises(InvalidArgument, match=r"`0.weight` within the range of float16"):
        pomona.round_codebooks_(model, "float16")
    assert torch.equal(model[0].weight, before)
