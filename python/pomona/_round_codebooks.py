"""Codebook entries in 16 bits: half the bytes of a codebook, and faster kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from . import _C

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST_CENTROIDS = 256


@dataclasses.dataclass(frozen=True)
class RoundReport:
    """What rounding did: ``names`` of the parameters, and what ``evaluate`` said before and after.

    ``kept`` is False where it said too little: the model is then as it was.
    """

    names: list[str]
    kept: bool
    before: float | None = None
    after: float | None = None


def round_codebooks_(
    model: nn.Module,
    entries: str = "bfloat16",
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    tolerance: float = 0.0,
) -> RoundReport:
    """Round the values of shared parameters to 16 bits, in place; ``save`` then stores their
    codebooks in two bytes an entry, and they run faster.

    Parameters are shared when they are float32, have two or more dimensions and at most 256
    distinct values besides zero.

    Args:
        model: what is rounded; optimizers and hooks stay valid.
        entries: ``"bfloat16"`` or ``"float16"``.
        evaluate: called with the model before and after; larger is better (an accuracy). None
            accepts the rounding unseen.
        tolerance: how much less than before it may say.

    Returns:
        What was rounded, and whether it was kept.

    Raises:
        InvalidArgument: other ``entries``, a negative ``tolerance``, or a value that the type
            cannot hold (float16 above 65504), naming the parameter; the model is as it was.

    Example:
        >>> layer = torch.nn.Linear(4, 4, bias=False)
        >>> layer.weight.data = torch.tensor([0.1, 0.2]).repeat(4, 2)
        >>> round_codebooks_(layer).names
        ['weight']
        >>> layer.weight[0, 0].item()
        0.10009765625
    """
    dtype = _DTYPES.get(entries)
    if dtype is None:
        raise _C.InvalidArgument(
            f"round_codebooks_: expected `entries` to be one of {', '.join(_DTYPES)}, "
            f"got {entries!r}."
        )
    if not tolerance >= 0:
        raise _C.InvalidArgument(
            f"round_codebooks_: expected `tolerance` of at least 0, got {tolerance!r}."
        )
    shared = {name: p for name, p in model.named_parameters() if _is_shared(p)}
    rounded = {name: p.detach().to(dtype).float() for name, p in shared.items()}
    for name, values in rounded.items():
        if not values.isfinite().all():
            raise _C.InvalidArgument(
                f"round_codebooks_: expected `{name}` within the range of {entries}, "
                f"got {shared[name].abs().max().item():g}."
            )
    before = None if evaluate is None else evaluate(model)
    originals = {name: p.detach().clone() for name, p in shared.items()} if evaluate else {}
    _write(shared, rounded)
    if evaluate is None or before is None:
        return RoundReport(list(shared), True)
    after = evaluate(model)
    kept = after >= before - tolerance
    if not kept:
        _write(shared, originals)
    return RoundReport(list(shared), kept, before, after)


def _is_shared(parameter: nn.Parameter) -> bool:
    if parameter.dtype != torch.float32 or parameter.dim() < 2 or parameter.numel() == 0:
        return False
    values = parameter.detach().flatten()
    few = values[: 16 * _MOST_CENTROIDS].unique().numel() <= _MOST_CENTROIDS + 1
    return few and values[values != 0].unique().numel() <= _MOST_CENTROIDS


@torch.no_grad()
def _write(parameters: dict[str, nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
