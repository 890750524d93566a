"""A removal in the middle of training, stopped after it and gone on with: the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from dead_networks import mlp
from torch import nn

import pomona
from pomona.dead import Removal, remove_dead_

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3, amsgrad=True, weight_decay=1e-3),
}
EXAMPLE = torch.zeros(2, 7)


def objects(name: str, seed: int = 0):
    """Model, optimizer, scheduler and pruner, all fresh.

    Batch norm and dropout are there because buffers and random numbers must resume too.
    """
    torch.manual_seed(seed)
    model = mlp(nn.Tanh(), norm=True)
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    rule = pomona.Prune(0.7, schedule=pomona.Iterative((0.5, 0.7), every=2))
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    return model, optimizer, scheduler, pruner


def train(parts, begin: int, end: int) -> None:
    """Epochs of three steps, each with a call of the pruner's schedule at its end."""
    model, optimizer, scheduler, pruner = parts
    for epoch in range(begin, end):
        torch.manual_seed(epoch)  # dropout
        for _ in range(3):
            optimizer.zero_grad()
            inputs, labels = torch.randn(8, 7), torch.randint(3, (8,))
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        scheduler.step()
        if epoch == 0:
            doom(model)
        pruner.step()


def doom(model) -> None:
    """Make neurons that the next round of the pruner kills."""
    with torch.no_grad():
        model[0].weight[:4] *= 1e-6  # these lose their inputs: a constant is left of them
        model[4].weight[:, 8:] *= 1e-6  # these lose their readers


def begin(name: str):
    """An epoch, and the removal."""
    parts = objects(name)
    train(parts, 0, 1)
    return parts, remove_dead_(parts[0], EXAMPLE, pruners=parts[3])


def go_on(name: str, folder: str) -> None:
    """What a new process does: as the docstring of remove_dead_ says."""
    saved = torch.load(f"{folder}/{name}.state", weights_only=True)
    parts = objects(name, seed=5)
    model, *others = parts
    removal = Removal.from_dict(saved["removal"])
    model.load_state_dict(removal.expand(saved["parts"][0]))
    again = remove_dead_(model, EXAMPLE, pruners=others[2])
    assert again.tensors == removal.tensors
    for part, state in zip(others, saved["parts"][1:], strict=True):
        part.load_state_dict(state)
    train(parts, 1, 5)
    torch.save([part.state_dict() for part in parts], f"{folder}/{name}.end")


def assert_equal(found, expected, where=""):
    """Equal bit for bit, through dicts and lists."""
    assert type(found) is type(expected), where
    if isinstance(found, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(found, dict):
        assert list(found) == list(expected), where
        for key in found:
            assert_equal(found[key], expected[key], f"{where}/{key}")
    elif isinstance(found, (list, tuple)):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    else:
        assert found == expected, where


def test_a_removal_resumed_in_a_new_process_gives_the_same_bits(tmp_path):
    runs = {}
    for name in OPTIMIZERS:
        parts, removal = begin(name)
        assert removal.removed > 4
        states = [part.state_dict() for part in parts]
        torch.save({"parts": states, "removal": removal.to_dict()}, tmp_path / f"{name}.state")
        runs[name] = parts
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; "
        "from python.prune.test_dead_resume import go_on\n"
        "for name in sys.argv[2:]: go_on(name, sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *OPTIMIZERS],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    for name, parts in runs.items():
        train(parts, 1, 5)
        found = torch.load(tmp_path / f"{name}.end", weights_only=True)
        assert_equal(found, [part.state_dict() for part in parts], name)
