"""The nine layers of EIE's Table III as matrices and vectors of synthetic patterns."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layer:
    """A layer, its densities (EIE Table III), and the microseconds that we and the paper have."""

    name: str
    inputs: int
    outputs: int
    weights: float
    activations: float
    synthetic_us: float  # of these rules on a synthetic layer, from an independent model
    paper_ideal_us: float  # EIE Table IV, "theoretical"
    paper_us: float  # EIE Table IV, "actual"


LAYERS = [
    Layer("Alex-6", 9216, 4096, 0.09, 0.351, 28.7, 28.1, 30.3),
    Layer("Alex-7", 4096, 4096, 0.09, 0.353, 12.9, 11.7, 12.2),
    Layer("Alex-8", 4096, 1000, 0.25, 0.375, 8.1, 8.9, 9.9),
    Layer("VGG-6", 25088, 4096, 0.04, 0.183, 25.4, 28.1, 34.4),
    Layer("VGG-7", 4096, 4096, 0.04, 0.375, 8.3, 7.9, 8.7),
    Layer("VGG-8", 4096, 1000, 0.23, 0.411, 8.3, 7.3, 8.4),
    Layer("NT-We", 4096, 600, 0.10, 1.0, 7.6, 5.2, 8.0),
    Layer("NT-Wd", 600, 8791, 0.11, 1.0, 13.4, 13.0, 13.9),
    Layer("NT-LSTM", 1201, 2400, 0.10, 1.0, 6.7, 6.5, 7.5),
]
BY_NAME = {layer.name: layer for layer in LAYERS}


def make(layer: Layer, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight [out, in], activations [in]): each weight there with its probability, one of 15
    values; of the activations exactly the share that the table says."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layer.outputs, layer.inputs)
    weight = torch.rand(shape, generator=generator)
    # A uniform number below the density says, once more uniform, which value it is.
    codes = (weight / layer.weights * 15).floor_()
    weight = torch.where(weight < layer.weights, (codes - 7.25) / 64, 0.0)
    active = torch.randperm(layer.inputs, generator=generator)
    x = torch.zeros(layer.inputs)
    count = round(layer.activations * layer.inputs)
    x[active[:count]] = torch.rand(count, generator=generator) + 0.01
    return weight, x
