"""Our layouts as candidates, in every precision that this machine is fast at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _candidates import Candidate, check

from pomona import _C
from pomona.nn import PackedLinear

# Name of a row: layout, precision, whether the codebook is rounded to bfloat16 beforehand.
OURS = {
    "csr16": ("csr16", "fp32", False),
    "pg32": ("pg32", "fp32", False),
    "pg32, bf16 codebook": ("pg32", "fp32", True),
    "pg32, bf16 x": ("pg32", "bf16", True),
    "pgv fixed16": ("pgv", "fixed16", False),
    "pgv int8": ("pgv", "int8", False),
    "csc16": ("csc16", "fp32", False),
    "lut": ("lut", "fp32", False),  # the dense 4-bit table
    "lut int8": ("lut", "int8", False),
}
ALLOWED = {"fp32": 1e-4, "bf16": 2e-2, "fixed16": 1e-4, "int8": 0.1}


def ours(weight_of: Callable[[bool], torch.Tensor], x: torch.Tensor) -> dict[str, Candidate]:
    """By name, checked; ``weight_of(bfloat16)`` is the weight with either codebook."""
    found: dict[str, Candidate] = {}
    for rounded in (False, True):
        weight = weight_of(rounded)
        group = {
            name: packed(weight, x, layout, precision)
            for name, (layout, precision, bfloat16) in OURS.items()
            if bfloat16 == rounded and is_fast(name)
        }
        check(group, weight, x)
        found |= group
    return {name: found[name] for name in OURS if name in found}


def is_fast(name: str) -> bool:
    """Whether this processor has instructions for a row."""
    return OURS[name][1] in _C.fast_precisions()


def packed(weight: torch.Tensor, x: torch.Tensor, layout: str, precision: str) -> Candidate:
    """A packed layer as a user calls it, from Python."""
    layer = PackedLinear(weight, layout=layout, precision=precision)
    return Candidate(lambda: layer(x), layer.packed.numel(), ALLOWED[precision])


def skipped() -> dict[str, str]:
    """The rows that are left out, and why."""
    return {name: "skipped: no instructions for it" for name in sorted(OURS) if not is_fast(name)}
