"""Stopping after any epoch and going on in fresh objects gives the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import SmallNet, train

import pomona

LENGTHS = (2, 3, 2)
STEPS = 3  # optimizer steps in an epoch
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3, amsgrad=True, weight_decay=1e-3),
}


def objects(name: str, seed: int = 0):
    """Model, optimizer, scheduler and DSD, all fresh."""
    model = SmallNet(seed)
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=LENGTHS, optimizer=optimizer)
    return model, optimizer, scheduler, dsd


def run(model, optimizer, scheduler, dsd, stop: int = sum(LENGTHS)) -> None:
    """Train from where it stands until `stop` epochs have been trained."""
    for epoch in dsd:
        train(model, optimizer, epoch * STEPS, (epoch + 1) * STEPS)
        scheduler.step()
        dsd.step()
        if dsd.epoch == stop:
            break


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def uninterrupted(request):
    parts = objects(request.param)
    run(*parts)
    return request.param, parts[0].state_dict()


@pytest.mark.parametrize("dsd_first", [True, False])
@pytest.mark.parametrize("stop", range(sum(LENGTHS) + 1))
def test_resuming_after_any_epoch_gives_the_same_bits(uninterrupted, stop, dsd_first, tmp_path):
    name, expected = uninterrupted
    parts = objects(name)
    if stop > 0:
        run(*parts, stop=stop)
    torch.save([part.state_dict() for part in parts], tmp_path / "state")

    fresh = objects(name, seed=5)
    pairs = list(zip(fresh, torch.load(tmp_path / "state", weights_only=True), strict=True))
    for part, state in reversed(pairs) if dsd_first else pairs:
        part.load_state_dict(state)
    assert (fresh[3].epoch, fresh[3].phase) == (parts[3].epoch, parts[3].phase)
    assert fresh[3].lr_factor == parts[3].lr_factor
    run(*fresh)
    assert fresh[3].phase == "done"
    for key, value in fresh[0].state_dict().items():
        assert torch.equal(value, expected[key]), key


GO_ON = """
import sys
import torch
from python.dsd.test_dsd_resume import objects, run
fresh = objects(sys.argv[1], seed=5)
for part, state in zip(fresh, torch.load(sys.argv[2], weights_only=True)):
    part.load_state_dict(state)
run(*fresh)
torch.save(fresh[0].state_dict(), sys.argv[3])
"""


def test_resuming_in_a_new_process_gives_the_same_bits(uninterrupted, tmp_path):
    name, expected = uninterrupted
    parts = objects(name)
    run(*parts, stop=4)  # in the middle of the sparse phase
    torch.save([part.state_dict() for part in parts], tmp_path / "state")
    code = f"import sys; sys.path[:0] = {sys.path!r}; {GO_ON}"
    subprocess.run(
        [sys.executable, "-c", code, name, str(tmp_path / "state"), str(tmp_path / "end")],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    for key, value in torch.load(tmp_path / "end", weights_only=True).items():
        assert torch.equal(value, expected[key]), key


def test_state_has_the_same_keys_and_shapes_through_all_phases():
    *_, dsd = parts = objects("sgd")
    shapes = {name: mask.shape for name, mask in dsd.state_dict()["masks"].items()}
    for stop in range(1, sum(LENGTHS) + 1):
        run(*parts, stop=stop)
        state = dsd.state_dict()
        assert list(state) == ["masks", "history"]
        assert {name: mask.shape for name, mask in state["masks"].items()} == shapes


def test_a_state_may_be_loaded_into_longer_phases():
    parts = objects("sgd")
    run(*parts, stop=4)
    model = SmallNet()
    longer = pomona.DSD(model, {"*": 0.3}, epochs=(2, 4, 2))
    longer.load_state_dict(parts[3].state_dict())
    assert (longer.phase, longer.epoch) == ("sparse", 4)
