"""Packed layers of Python and of C++ have one state dict and one cache: each reads the other's.

The other half is tests/cpp/nn/packed_exchange_test.cpp. An archive of LibTorch is a TorchScript
module; Python writes one of the same names, and reads one with torch.jit.load.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pomona
from pomona.nn import (
    PackedEmbedding,
    PackedGRU,
    PackedLinear,
    PackedLSTM,
    PackedMultiheadAttention,
)

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("POMONA_BUILD_DIR") or ROOT / "build" / sys.implementation.cache_tag)
PROGRAM = BUILD / "tests" / "cpp" / "torch_tests"


def pruned(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand(parameter.shape) < 0.3)
    return module.eval()


LAYERS = {
    "linear": lambda: PackedLinear.from_linear(pruned(nn.Linear(12, 9))),
    "embedding": lambda: PackedEmbedding.from_embedding(pruned(nn.Embedding(50, 12))),
    "lstm": lambda: PackedLSTM(
        pruned(nn.LSTM(12, 9, num_layers=2, bidirectional=True, proj_size=4))
    ),
    "gru": lambda: PackedGRU(pruned(nn.GRU(12, 9, bias=False))),
    "attention": lambda: PackedMultiheadAttention(
        pruned(nn.MultiheadAttention(8, 2, kdim=5, vdim=3))
    ),
}


def bare(module: nn.Module) -> nn.Module:
    """The buffers alone, under their names."""
    copy = nn.Module()
    for name, buffer in module._buffers.items():
        if buffer is not None:
            copy.register_buffer(name, buffer)
    for name, child in module.named_children():
        copy.add_module(name, bare(child))
    return copy


def run_other_half(test: str, folder: Path) -> None:
    run = subprocess.run(
        [PROGRAM, f"--gtest_filter=PackedExchange.{test}"],
        env={**os.environ, "POMONA_EXCHANGE": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


is_built = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: run `make build`"
)


@is_built
def test_the_cache_of_one_language_is_that_of_the_other(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(50, 120), nn.Linear(120, 8), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2)
    )
    pomona.save(pruned(model), tmp_path / "net.pomona")
    assert pomona.load_packed_(model, tmp_path / "net.pomona", cache=True) == ["0", "1", "2", "3"]
    cache = tmp_path / "net.pomona.packed"
    written, content = cache.stat().st_mtime_ns, cache.read_bytes()
    run_other_half("ACacheOfPythonIsReadAndNotWrittenAnew", tmp_path)
    assert (cache.stat().st_mtime_ns, cache.read_bytes()) == (written, content)


@is_built
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_each_language_reads_what_the_other_wrote(tmp_path):
    torch.manual_seed(0)
    layers = {name: make() for name, make in LAYERS.items()}
    for name, layer in layers.items():
        torch.jit.script(bare(layer)).save(str(tmp_path / f"{name}.python.pt"))
    run_other_half("WhatPythonWroteIsReadAndWrittenBack", tmp_path)
    for name, layer in layers.items():
        state = torch.jit.load(str(tmp_path / f"{name}.cpp.pt")).state_dict()
        assert list(state) == list(layer.state_dict()), name
        other = LAYERS[name]()
        other.load_state_dict(state)
        for key, value in layer.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key
