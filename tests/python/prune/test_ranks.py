"""Pruning on ranks: DDP and FSDP2 by torchrun with gloo make the masks of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pomona

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
import ranks_worker as worker  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)
SECONDS = 400  # a rank that hangs fails the test; a busy machine takes a minute


def on_ranks(case: str, folder: Path, ranks: int) -> list[dict]:
    """What each rank found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", str(ROOT / "tests" / "ranks_worker.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "python")}
    result = subprocess.run(
        [*command, case, str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [
        json.loads((folder / f"{case}-{ranks}-{rank}.json").read_text()) for rank in range(ranks)
    ]


def alone(rules: str) -> dict:
    """The same on one process."""
    return worker.masks("plain", rules)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return on_ranks("masks", tmp_path_factory.mktemp("masks"), 2)


@pytest.mark.parametrize("rules", worker.RULES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_make_the_masks_of_one_process(masks, kind, rules):
    expected = alone(rules)
    for rank in masks:
        found = rank[f"{kind} {rules}"]
        assert found["hashes"] == expected["hashes"]
        assert found["sparsity"] == expected["sparsity"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_pruned_weights_stay_zero_on_ranks(masks, kind):
    for rank in masks:
        assert [rank[f"{kind} {rules}"]["alive"] for rules in worker.RULES] == [0] * len(
            worker.RULES
        )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, on_ranks("save", folder, 2)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_checkpoint_of_two_ranks_loads_on(checkpoint, ranks):
    folder, saved = checkpoint
    for found in on_ranks("load", folder, ranks):
        assert found["hashes"] == saved[0]["hashes"]


def test_a_rank_that_fails_makes_all_of_them_raise(tmp_path):
    first, second = on_ranks("fail", tmp_path, 2)
    for kind in ("ddp", "fsdp"):
        assert "got an error on rank 1" in first[kind]
        assert "`fc1.weight` to be finite, got nan at index 0" in second[kind]


def test_a_parameter_sharded_along_columns_is_refused_by_name(tmp_path):
    for found in on_ranks("sharded_otherwise", tmp_path, 2):
        assert "expected `fc1.weight` to be sharded along dimension 0 alone" in found["error"]


def test_one_process_asks_no_rank():
    assert not torch.distributed.is_initialized()
    model = worker.Net()
    pruner = pomona.Pruner(model, {"*": 0.5}, process_group=False)
    assert pruner.step()
