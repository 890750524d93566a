"""EIE's arithmetic, plain and literal: b_i = sum of S[I_ij] a_j in registers of a few bits.

And the interleaving of its memories (EIE, Figure 3), as lists.
"""

from __future__ import annotations

import math

import numpy as np


def to_fixed(value: float, digits: int, bits: int) -> int:
    """floor(value * 2^digits + 1/2), ended at the largest and smallest number; NaN is 0."""
    if math.isnan(value):
        return 0
    most = 2 ** (bits - 1) - 1
    if math.isinf(value):
        return most if value > 0 else -most - 1
    return min(max(math.floor(value * 2.0**digits + 0.5), -most - 1), most)


def product(
    weight: np.ndarray,
    bias: np.ndarray | None,
    activations: np.ndarray,
    digits: tuple[int, int, int],
    bits: int = 16,
    relu: bool = False,
    signed: bool = False,
) -> list[float]:
    """One output after the other, its products in the order of the columns."""
    of_weight, of_input, of_output = digits
    shift = of_weight + of_input - of_output
    half = 2 ** (shift - 1) if shift > 0 else 0
    most = 2 ** (bits - 1) - 1
    inputs = [to_fixed(float(a), of_input, bits) for a in activations]
    outputs = []
    for i, row in enumerate(weight):
        total = 0 if bias is None else to_fixed(float(bias[i]), of_output, bits)
        for w, a in zip(row, inputs, strict=True):
            if w == 0 or not (a != 0 if signed else a > 0):
                continue
            term = (to_fixed(float(w), of_weight, bits) * a + half) >> shift
            total = min(max(total + term, -most - 1), most)
        outputs.append((max(total, 0) if relu else total) / 2.0**of_output)
    return outputs


def interleaved(
    weight: np.ndarray, pes: int, pe: int, gap_bits: int = 4
) -> tuple[list[float], list[int], list[int]]:
    """(values, gaps, pointers) of one PE; a filler has the value 0.0 and the largest gap."""
    largest = 2**gap_bits - 1
    values: list[float] = []
    gaps: list[int] = []
    pointers = [0]
    for column in weight[pe::pes].T:
        gap = 0
        for value in column:
            if value == 0:
                gap += 1
                continue
            while gap > largest:
                values.append(0.0)
                gaps.append(largest)
                gap -= largest + 1
            values.append(float(value))
            gaps.append(gap)
            gap = 0
        pointers.append(len(values))
    return values, gaps, pointers
