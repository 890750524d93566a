"""A plain training loop: it knows nothing of Pomona, and Pomona asks nothing of it.

Epochs fit a time budget: when the machine is too slow for all images in the time given, each epoch
takes as many as it can, and the result says how many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from data import Dataset
from torch.nn import functional

BATCH = 128
_CPUINFO = Path("/proc/cpuinfo")
# Elsewhere bfloat16 is emulated, and slower than float32.
HAS_FAST_BFLOAT16 = _CPUINFO.exists() and "avx512_bf16" in _CPUINFO.read_text()


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    number: int
    of: int
    images: int
    loss: float
    seconds: float


def print_epoch(epoch: Epoch) -> None:
    """One line of progress."""
    print(
        f"  epoch {epoch.number}/{epoch.of}: loss {epoch.loss:.4f}, "
        f"{epoch.images:,} images in {epoch.seconds:.1f} s",
        flush=True,
    )


def describe_machine() -> str:
    """What decides the times."""
    numbers = "bfloat16 autocast" if HAS_FAST_BFLOAT16 else "float32 (no avx512_bf16)"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {numbers}"


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, c, h, w] -> float32 in 0..1, channels last."""
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)


def fit(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    *,
    epochs: int,
    lr: float,
    seconds: float = math.inf,
    shift: int = 2,
    seed: int = 0,
    bfloat16: bool = HAS_FAST_BFLOAT16,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> int:
    """Train with a 10 % warm-up and a cosine to 0, on randomly shifted images.

    Args:
        model: trained in place.
        optimizer: its learning rate is set before every step.
        dataset: its training images are used.
        epochs: how many; each shows all images, or as many as the time left allows.
        lr: the highest learning rate.
        seconds: the budget.
        shift: the largest shift of an image, in pixels.
        seed: of the order and the shifts of the images.
        bfloat16: whether to train under autocast; by default where the processor is fast at it.
        on_epoch: called after each epoch.

    Returns:
        How many images were shown in all.
    """
    generator = torch.Generator().manual_seed(seed)
    model.train()
    started, shown = time.perf_counter(), 0
    all_steps = math.ceil(len(dataset.train_labels) / BATCH)
    steps_per_second = _speed(model, dataset) if seconds < math.inf else math.inf
    for number in range(epochs):
        begun = time.perf_counter()
        budget = (seconds - (begun - started)) / (epochs - number)
        steps = max(1, int(min(all_steps, budget * steps_per_second)))
        loss, images = 0.0, 0
        epoch = islice(batches(dataset, shift=shift, generator=generator), steps)
        for step, (inputs, labels) in enumerate(epoch):
            set_lr(optimizer, lr * _schedule((number + step / steps) / epochs))
            loss += train_step(model, optimizer, inputs, labels, bfloat16)
            images += len(labels)
        took = time.perf_counter() - begun
        steps_per_second = steps / took
        on_epoch(Epoch(number + 1, epochs, images, loss / steps, took))
        shown += images
    return shown


def batches(
    dataset: Dataset, *, generator: torch.Generator, shift: int = 0, size: int = BATCH
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All training images once, in random order, each moved by up to ``shift`` pixels."""
    padded = functional.pad(dataset.train_images, [shift] * 4)
    for indices in torch.randperm(len(padded), generator=generator).split(size):
        images = _shifted(padded, indices, shift, generator) if shift else padded[indices]
        yield to_input(images), dataset.train_labels[indices]


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    bfloat16: bool = HAS_FAST_BFLOAT16,
) -> float:
    """One step of gradient descent; returns the loss."""
    optimizer.zero_grad()
    loss = _loss(model, inputs, labels, bfloat16)
    loss.backward()
    optimizer.step()
    return loss.item()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def error_percent(model: torch.nn.Module, dataset: Dataset) -> float:
    """The share of test images that are classified wrongly, in percent, computed in float32."""
    was_training = model.training
    model.eval()
    wrong = 0
    for images, labels in zip(
        dataset.test_images.split(1000), dataset.test_labels.split(1000), strict=True
    ):
        wrong += int((model(to_input(images)).argmax(1) != labels).sum())
    model.train(was_training)
    return 100 * wrong / len(dataset.test_labels)


def _loss(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    bfloat16: bool = HAS_FAST_BFLOAT16,
) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(inputs)
    return functional.cross_entropy(logits.float(), labels)


def _schedule(progress: float) -> float:
    """The learning rate's factor at ``progress`` in 0..1: up for a tenth, then a cosine to 0."""
    if progress < 0.1:
        return progress / 0.1
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def _shifted(
    padded: torch.Tensor, indices: torch.Tensor, shift: int, generator: torch.Generator
) -> torch.Tensor:
    """A window of the original size out of each padded image [n, c, h + 2 shift, w + 2 shift]."""
    height, width = padded.shape[2] - 2 * shift, padded.shape[3] - 2 * shift
    offsets = torch.randint(0, 2 * shift + 1, (2, len(indices), 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    channels = torch.arange(padded.shape[1])
    return padded[
        indices[:, None, None, None],
        channels[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _speed(model: torch.nn.Module, dataset: Dataset) -> float:
    """Steps per second, measured on a copy of the model."""
    copy = deepcopy(model)
    inputs, labels = to_input(dataset.train_images[:BATCH]), dataset.train_labels[:BATCH]
    _loss(copy, inputs, labels).backward()
    begun = time.perf_counter()
    for _ in range(10):
        _loss(copy, inputs, labels).backward()
    return 10 / (time.perf_counter() - begun)
