"""Paired comparisons over seeds: the mean difference and its 95 % confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t at 97.5 %, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_T |= {10: 2.228, 11: 2.201, 12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 16: 2.120, 17: 2.110}
_T |= {18: 2.101, 19: 2.093}


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences, half the width of its interval, how often it is below 0."""

    mean: float
    reach: float
    lower: int
    count: int

    def cells(self) -> list[str]:
        """As three cells of a table: the difference, how often it is lower, in words."""
        return [
            f"{self.mean:+.3f} ± {self.reach:.3f}",
            f"{self.lower} of {self.count}",
            self.verdict(),
        ]

    def verdict(self) -> str:
        """What the interval allows to say."""
        if abs(self.mean) <= self.reach:
            return "a tie: the interval contains 0"
        return "the mask helps" if self.mean < 0 else "the mask harms"


def difference(ours: Sequence[float], control: Sequence[float]) -> Difference:
    """``ours`` minus ``control``, pair by pair; lower is better.

    Raises:
        ValueError: fewer than two pairs, or more than twenty.
    """
    pairs = [a - b for a, b in zip(ours, control, strict=True)]
    if len(pairs) - 1 not in _T:
        raise ValueError(f"expected 2 to 20 pairs, got {len(pairs)}")
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    reach = _T[len(pairs) - 1] * error
    return Difference(statistics.mean(pairs), reach, sum(d < 0 for d in pairs), len(pairs))


def mean_and_deviation(values: Sequence[float]) -> str:
    """For example "8.43 ± 0.09"."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"
