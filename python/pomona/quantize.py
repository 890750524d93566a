"""Weight sharing with trained centroids (thesis §4.2-4.4).

``Sharer`` gives every weight of a layer one of ``2**bits`` values and trains those values, while
the model stays as it is: before the optimizer's step each gradient becomes its cluster's mean or
sum, after it each cluster is one value again. With any element-wise optimizer this equals training
a codebook ``Parameter``. ``lookup`` and ``centroid_grad`` are the operators that it, and
the layers of ``pomona.nn``, are made of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from . import _C
from ._round_codebooks import RoundReport, round_codebooks_
from ._sharer import Sharer, ShareReport
from .rules import FITS, Rules

if TYPE_CHECKING:
    from .sensitivity import Sensitivity

__all__ = [
    "RoundReport",
    "ShareReport",
    "Sharer",
    "centroid_grad",
    "fisher",
    "fit_codebook",
    "lookup",
    "round_codebooks_",
    "sensitivity",
]


def lookup(
    codebook: torch.Tensor,
    codes: torch.Tensor,
    shape: Sequence[int],
    *,
    bits: int = 8,
    group: int = 0,
    has_zero: bool = False,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``weight[i] = codebook[codes[i]]``; differentiable in the codebook (thesis §4.2).

    Args:
        codebook: ``[k]``, floating-point, k at most ``2**bits``; ``[groups, k]`` where ``group`` is
            not 0.
        codes: uint8, packed codes of ``bits`` bits, low bits first, row-major.
        shape: of the weight.
        bits: 1, 2, 4 or 8.
        group: weights in a row (row-major) that share a codebook; 0: all.
        has_zero: code 0 is 0.0 and stands in no codebook: entry j has code j + 1.
        dtype: of the weight; the codebook's when None.
        out: written to and returned (then nothing is differentiable); contiguous, of that shape and
            dtype.

    Returns:
        The weight ``shape``; NaN where a code is outside the codebook.

    Raises:
        ValueError: a size, ``bits`` or ``group`` does not fit.
        TypeError: a dtype or a device does not fit.

    >>> lookup(torch.tensor([0.0, 1.5]), torch.tensor([0b0110], dtype=torch.uint8), (2, 2), bits=1)
    tensor([[0.0000, 1.5000],
            [1.5000, 0.0000]])
    """
    options = {"bits": bits, "group": group, "has_zero": has_zero}
    if out is None:
        return torch.ops.pomona.lookup(codebook, codes, shape, **options, dtype=dtype)
    if out.shape != torch.Size(shape) or out.dtype != (dtype or codebook.dtype):
        raise _C.InvalidArgument(
            f"lookup: expected `out` of {dtype or codebook.dtype} {list(shape)}, "
            f"got {out.dtype} {list(out.shape)}."
        )
    torch.ops.pomona.lookup_into_(out, codebook, codes, **options)
    return out


def centroid_grad(
    grad: torch.Tensor,
    codes: torch.Tensor,
    k: int,
    *,
    bits: int = 8,
    group: int = 0,
    has_zero: bool = False,
    reduction: Literal["sum", "mean"] = "sum",
) -> torch.Tensor:
    """The sum of ``grad`` over each cluster (thesis eq. 4.3).

    ``dL/dC_j = sum of dL/dW_i over codes[i] = j``.

    Args:
        grad: any shape, floating-point.
        codes: uint8, the packed codes of its elements, row-major.
        k: entries of a codebook, at most ``2**bits``.
        bits: 1, 2, 4 or 8.
        group: elements in a row that share a codebook; 0: all.
        has_zero: code 0 stands in no codebook, and is dropped.
        reduction: "mean" divides by the members of the cluster (0 where there are none).

    Returns:
        ``[k]``, or ``[groups, k]`` where ``group`` is not 0, float32 (float64 for a float64
        ``grad``); codes from k on are dropped. Differentiable in ``grad``.

    Raises:
        ValueError: a size, ``k``, ``bits``, ``group`` or ``reduction`` does not fit.
        TypeError: a dtype or a device does not fit.

    >>> centroid_grad(torch.ones(3), torch.tensor([1, 0, 1], dtype=torch.uint8), 2)
    tensor([1., 2.])
    """
    if reduction not in ("sum", "mean"):
        raise _C.InvalidArgument(
            f'centroid_grad: expected `reduction` to be "sum" or "mean", got {reduction!r}.'
        )
    options = {"bits": bits, "group": group, "has_zero": has_zero}
    sums = torch.ops.pomona.centroid_grad(grad, codes, k, **options)
    if reduction == "sum":
        return sums
    ones = torch.ones_like(grad, dtype=sums.dtype, requires_grad=False)
    members = torch.ops.pomona.centroid_grad(ones, codes, k, **options)
    return sums / members.clamp_min(1)


def fit_codebook(
    tensor: torch.Tensor,
    k: int,
    *,
    fit: str = "exact",
    importance: torch.Tensor | None = None,
    rate: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """At most k centroids of the elements of a tensor (thesis §4.3).

    Args:
        tensor: floating-point, any shape and device.
        k: 1 to 256.
        fit: "exact": the least sum of importance * (v - c)^2 that k centroids can have (to 1e-6 of
            it for more than 4 million float32 values); or Lloyd's algorithm from "linear",
            "density", "forgy" or "kmeans++"; see ``pomona.Share``.
        importance: of each element, not negative, such as ``pomona.fisher`` gives; None: 1.
        rate: see ``pomona.Share``.
        seed: of "forgy" and "kmeans++".

    Returns:
        float32, CPU, ascending; the distinct values themselves when there are at most k.

    Raises:
        InvalidArgument: k outside 1..256, no values, NaN or Inf, not a floating-point tensor, an
            unknown ``fit``, or an importance that is negative, not finite, zero everywhere or of
            another shape.

    >>> fit_codebook(torch.tensor([0.0, 0.2, 0.9, 1.1]), 2)
    tensor([0.1000, 1.0000])
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise _C.InvalidArgument(
            f"fit_codebook: expected `tensor` to be a floating-point tensor, got {kind}."
        )
    if fit not in FITS:
        raise _C.InvalidArgument(
            f"fit_codebook: expected `fit` to be one of {', '.join(FITS)}, got {fit!r}."
        )
    if importance is not None and importance.shape != tensor.shape:
        raise _C.InvalidArgument(
            f"fit_codebook: expected `importance` of shape {list(tensor.shape)}, "
            f"got {list(importance.shape)}."
        )
    dtype = torch.float32 if tensor.dtype == torch.float64 else tensor.dtype
    values = tensor.detach().to("cpu", dtype).contiguous()
    if importance is not None:
        importance = importance.detach().to("cpu", torch.float32).contiguous()
    return _C.fit_codebook(values, k, FITS.index(fit), seed, float(rate), importance)


def fisher(
    model: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.nn.functional.cross_entropy,
) -> dict[str, torch.Tensor]:
    """How much each weight matters: the mean of its squared gradients over batches.

    It is the diagonal of the empirical Fisher information (of batches), which stands for that of
    the Hessian: moving weight w by d costs about ``fisher * d^2 / 2``. ``Sharer.step(importance)``
    and ``fit_codebook(importance=...)`` take it. The model, its gradients and its mode are as they
    were afterwards; it runs in eval mode.

    Args:
        model: whose parameters are measured, those that require gradients.
        batches: (inputs, targets), as ``loss(model(inputs), targets)`` takes them; small batches
            measure better.
        loss: a number to differentiate.

    Returns:
        name -> float32 of the parameter's shape, on its device; by every name of a tied parameter.

    Raises:
        InvalidArgument: no batches, or no parameter that requires gradients.

    Reference: Kim et al., SqueezeLLM, 2023, §4.1.

    >>> model = torch.nn.Linear(4, 2)
    >>> batches = [(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(3)]
    >>> importance = fisher(model, batches)
    >>> Sharer(model, {"weight": 2}).step({"weight": importance["weight"]})
    True
    """
    named = {
        name: parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }
    if not named:
        raise _C.InvalidArgument(
            "fisher: expected `model` to have parameters that require gradients, got none."
        )
    parameters = list(named.values())
    squares = {id(p): torch.zeros_like(p, dtype=torch.float32) for p in parameters}
    modes = {module: module.training for module in model.modules()}
    count = 0
    try:
        model.eval()
        for inputs, targets in batches:
            with torch.enable_grad():
                found = torch.autograd.grad(
                    loss(model(inputs), targets), parameters, allow_unused=True
                )
            gradients = {id(p): g for p, g in zip(parameters, found, strict=True)}
            for parameter in parameters:
                gradient = gradients.pop(id(parameter), None)  # a tied one counts once
                if gradient is not None:
                    squares[id(parameter)] += gradient.detach().float().square()
            count += 1
    finally:
        for module, mode in modes.items():
            module.training = mode
    if count == 0:
        raise _C.InvalidArgument("fisher: expected at least one batch, got none.")
    return {name: squares[id(p)] / count for name, p in named.items()}


def sensitivity(
    model: torch.nn.Module,
    evaluate: Callable[[torch.nn.Module], float],
    rules: Rules | None = None,
    *,
    bits: Iterable[int] = range(1, 9),
    metric: str = "error %",
    lower_is_better: bool = True,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Share one layer at a time, with each number of bits, and measure what that does.

    ``pomona.sensitivity`` with bits instead of sparsities: the same table, CSV, picture and rules,
    the same arguments and errors.

    Args:
        model: the trained network; as it was afterwards, bit for bit.
        evaluate: model -> the metric.
        rules: as for ``Sharer``; their bits and codes do not count. Default: all floating-point
            parameters with two or more dimensions.
        bits: each in 1..8.
        metric: its name, in tables and pictures.
        lower_is_better: False for accuracies.
        resume: a CSV file that grows by a line with each point.
        progress: whether to show a bar on a terminal.

    Returns:
        The points: ``.table()``, ``.to_csv(path)``, ``.to_png(path)``, ``.rules(tolerance)``.

    Raises:
        InvalidArgument: as ``pomona.sensitivity``.

    Reference:
        Han, thesis §4.3; Deep Compression, Figure 7.

    >>> model = torch.nn.Linear(8, 8)
    >>> scan = sensitivity(model, lambda m: m.weight.detach().norm(), bits=[2, 4], metric="norm")
    >>> [point.setting for point in scan.rows]
    [2, 4]
    """
    from .sensitivity import sensitivity as scan  # which shares, and so imports this module

    options = {"metric": metric, "lower_is_better": lower_is_better, "resume": resume}
    return scan(model, evaluate, rules, bits=bits, progress=progress, **options)
