"""What an evaluation may disturb in a model, kept and put back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, uint8 [n], in the order of its elements; -0.0 is not 0.0 here."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


@contextmanager
def restored(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A copy of the values; they are back in place afterwards, whatever happens in between."""
    values = tensor.detach().clone()
    try:
        yield values
    finally:
        with torch.no_grad():
            tensor.copy_(values)


class Surroundings:
    """Everything beside the weights: buffers, training flags, gradients, random numbers.

    ``restore()`` may be called often, so that every evaluation begins in the same state.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Keep a copy; the weights are not copied."""
        self._modules = [(module, module.training) for module in model.modules()]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module, _ in self._modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._parameters = [
            (p, p.requires_grad, p.grad, None if p.grad is None else p.grad.detach().clone())
            for p in model.parameters()
        ]
        self._random = random.getstate()
        self._cpu = torch.get_rng_state()
        has_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda = torch.cuda.get_rng_state_all() if has_cuda else []

    def restore(self) -> None:
        """Put everything back, into the same tensors."""
        for module, training in self._modules:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, values in self._buffers:
                module._buffers[name] = buffer
                buffer.copy_(values)
            for parameter, requires_grad, grad, values in self._parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
                if grad is not None:
                    grad.copy_(values)
        random.setstate(self._random)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
