"""What pomona.eie refuses, and how it says so."""

from __future__ import annotations

import pytest
import torch
from eie_layers import saved_network, shared
from torch import nn

import pomona
from pomona import eie


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eie.Machine(pes=0), "eie: expected `pes` in 1..1024, got 0."),
        (lambda: eie.Machine(pes=2.5), "eie: expected `pes` to be int, got 2.5."),
        (lambda: eie.Machine(fifo=1), "eie: expected `queue_slots` in 2..4096, got 1."),
        (
            lambda: eie.Machine(sram_width=100),
            "eie: expected `sram_width_bits` to be 32, 64, 128, 256 or 512, got 100.",
        ),
        (
            lambda: eie.Machine(arithmetic="fixed12"),
            'eie: expected `arithmetic` to be "fixed8", "fixed16", "fixed32" or "float32", '
            'got "fixed12".',
        ),
        (
            lambda: eie.Machine(technology="7nm"),
            "eie: expected `technology` to be '45nm' or '28nm', got '7nm'.",
        ),
        (
            lambda: eie.simulate(torch.ones(2, 3), torch.ones(3), tpes=3),
            "eie: expected members of Machine, got tpes.",
        ),
        (
            lambda: eie.simulate(torch.ones(2, 3), torch.ones(3), machine=eie.Machine(), pes=3),
            "eie: expected `machine` or pes, got both. Put them into the machine.",
        ),
        (
            lambda: eie.simulate(torch.ones(2, 3), torch.ones(4)),
            "eie: expected `weight` to get 3 activations, got 4.",
        ),
        (
            lambda: eie.simulate(torch.ones(2, 3), None),
            "eie: expected `activations` [inputs, in], got NoneType.",
        ),
        (
            lambda: eie.simulate(torch.ones(2, 3), torch.ones(0, 3)),
            "eie: expected `weight` to get at least one input, got none.",
        ),
        (
            lambda: eie.simulate(torch.ones(2), torch.ones(2)),
            "eie: expected a weight [out, in] of floating point, got [2] of torch.float32.",
        ),
        (
            lambda: eie.simulate(torch.ones(2, 3), torch.ones(3), samples=0),
            "eie: expected `samples` of at least 1, got 0.",
        ),
        (
            lambda: eie.simulate(torch.arange(20.0).view(1, 20), torch.ones(20)),
            "eie: expected `weight` to have at most 15 centroids (codes of 4 bits, one for "
            "fillers), got 19. Raise code_bits, or share by fewer.",
        ),
        (
            lambda: eie.simulate(torch.randn(30, 30), torch.ones(30)),
            "interleaved_columns: expected `weight` to be shared, got plain values.",
        ),
        (
            lambda: eie.simulate(nn.ReLU(), torch.ones(3)),
            "eie: expected a network with shared Linear or Conv2d layers, got ReLU (without any).",
        ),
        (
            lambda: eie.simulate(nn.Linear(2, 2), None),
            "eie: expected `activations` to be the network's input, got NoneType.",
        ),
        (
            lambda: eie.simulate(3, None),
            "eie: expected a torch.nn.Module, a weight or the path of a file, got int.",
        ),
    ],
)
def test_refuses_what_does_not_fit(call, message):
    with pytest.raises(pomona.InvalidArgument) as caught:
        call()
    assert str(caught.value) == message


def test_refuses_what_a_file_does_not_have(tmp_path):
    _, path = saved_network(tmp_path)
    with pytest.raises(pomona.InvalidArgument, match="of 0, 2, got fc9"):
        eie.simulate(path, {"fc9": torch.ones(3)})
    with pytest.raises(pomona.InvalidArgument, match="to be a tensor or a dict of them, got int"):
        eie.simulate(path, 3)
    with pytest.raises(pomona.InvalidArgument, match=r"expected `density` in \[0, 1\], got 2"):
        eie.simulate(path, density=2)
    pomona.save({"bias": torch.ones(3)}, tmp_path / "flat.pomona")
    with pytest.raises(pomona.InvalidArgument, match="expected a file with matrices"):
        eie.simulate(tmp_path / "flat.pomona")
    pomona.save({"conv.weight": shared(4, 3, 3, 3)}, tmp_path / "conv.pomona")
    with pytest.raises(pomona.InvalidArgument, match="got the convolution 'conv'"):
        eie.simulate(tmp_path / "conv.pomona", torch.ones(27))
    assert eie.simulate(tmp_path / "conv.pomona", measure=False).layers[0].cols == 27
    with pytest.raises(FileNotFoundError):
        eie.simulate(tmp_path / "none.pomona")
