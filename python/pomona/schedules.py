"""When masks are made (schedules) and by which score (criteria): the values of ``pomona.Prune``.

Schedules are pure functions of how often ``pruner.step()`` has been called, so that a run resumes
where it stood. They, and the criteria, are carried out in C++ (``pomona/prune_rule.h``).
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = [
    "OBD",
    "Cubic",
    "Growing",
    "Iterative",
    "Magnitude",
    "OneShot",
    "Random",
    "Scores",
    "StdFactor",
    "Surgery",
    "Taylor",
]


@dataclasses.dataclass(frozen=True)
class OneShot:
    """Prunes once, at call number ``begin`` of ``step()`` (from 0)."""

    begin: int = 0

    def _row(self) -> tuple[Any, ...]:
        return ("one_shot", self.begin, 1, 0, [], 0.0, 0.1)


@dataclasses.dataclass(frozen=True)
class Iterative:
    """Prunes to ``sparsities[i]`` at call ``begin + i * every``: prune, retrain, prune more.

    Args:
        sparsities: ascending, each in [0, 1).
        every: calls of ``step()`` from one round to the next.
        begin: the call of the first round.

    Reference:
        Han, thesis §3.2 (iterative pruning).
    """

    sparsities: tuple[float, ...]
    every: int = 1
    begin: int = 0

    def __post_init__(self) -> None:
        """Any sequence of numbers will do."""
        object.__setattr__(self, "sparsities", tuple(float(s) for s in self.sparsities))

    def _row(self) -> tuple[Any, ...]:
        return ("iterative", self.begin, self.every, 0, list(self.sparsities), 0.0, 0.1)


@dataclasses.dataclass(frozen=True)
class Cubic:
    """A ramp s(t) = s_f + (s_0 - s_f)(1 - t / steps)^3, fast at first and slow at the end.

    Args:
        steps: calls of ``step()`` from the first round to the last.
        every: calls from one round to the next; the last call is always a round.
        begin: the call of the first round.
        initial: s_0.

    Reference:
        Zhu and Gupta, To prune, or not to prune, 2017.
    """

    steps: int
    every: int = 1
    begin: int = 0
    initial: float = 0.0

    def _row(self) -> tuple[Any, ...]:
        return ("cubic", self.begin, self.every, self.steps, [], float(self.initial), 0.1)


@dataclasses.dataclass(frozen=True)
class Growing:
    """Rounds of equal steps: sparsity * (i + 1) / rounds, or quality + i * growth (StdFactor)."""

    rounds: int
    every: int = 1
    begin: int = 0

    def _row(self) -> tuple[Any, ...]:
        return ("growing", self.begin, self.every, self.rounds, [], 0.0, 0.1)


@dataclasses.dataclass(frozen=True)
class Surgery:
    """Dynamic network surgery: until the last round pruned weights go on learning and may return.

    At each round a weight goes below t (1 - margin) and comes back from t (1 + margin) on, where t
    is the threshold that the rule's sparsity (or ``StdFactor``) gives; the last round is exact.

    Args:
        steps: calls of ``step()`` from the first round to the last.
        every: calls from one round to the next.
        begin: the call of the first round.
        margin: in [0, 1); the paper's implementation has 0.1.

    Reference:
        Guo, Yao and Chen, Dynamic Network Surgery for Efficient DNNs, 2016.
    """

    steps: int
    every: int = 1
    begin: int = 0
    margin: float = 0.1

    def _row(self) -> tuple[Any, ...]:
        return ("surgery", self.begin, self.every, self.steps, [], 0.0, float(self.margin))


@dataclasses.dataclass(frozen=True)
class Alternate:
    """When the codes of a ``Sharer`` are made anew: weights and codes are trained by turns.

    Of every ``every`` steps of the optimizer the last ``free`` move the weights one by one and end
    in codebooks and codes made anew, as ``Sharer.reassign_`` does (without importance); after
    ``rounds`` of them the codes stay. Zeros stay zero in free steps only where a ``Pruner`` keeps
    them.

    Args:
        every: steps of the optimizer from one round to the next; at least 2.
        free: of those, in 1 to ``every - 1``.
        rounds: how often.
    """

    every: int
    free: int
    rounds: int

    def _row(self) -> tuple[int, int, int]:
        return (self.every, self.free, self.rounds)


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """The smallest \\|w\\| go (thesis §3.2)."""

    def _row(self) -> tuple[Any, ...]:
        return ("magnitude", 1.0, 0.0, 0.98, False, 0)


@dataclasses.dataclass(frozen=True)
class StdFactor:
    """Every \\|w\\| below quality * (standard deviation of the tensor) goes: no sparsity is given.

    Args:
        quality: the thesis's quality parameter, above 0.
        growth: added to it at each further round (with ``Growing``).

    Reference:
        Han, thesis §3.2.
    """

    quality: float
    growth: float = 0.0

    def _row(self) -> tuple[Any, ...]:
        return ("std", float(self.quality), float(self.growth), 0.98, False, 0)


@dataclasses.dataclass(frozen=True)
class Taylor:
    """First order: the sum of \\|w * dL/dw\\| over the steps since the last round.

    Reference:
        Molchanov et al., Pruning Convolutional Neural Networks, 2017.
    """

    def _row(self) -> tuple[Any, ...]:
        return ("taylor", 1.0, 0.0, 0.98, False, 0)


@dataclasses.dataclass(frozen=True)
class OBD:
    """Second order: w^2 times a moving average of (dL/dw)^2. Made for ``scope="global"``.

    Args:
        decay: of the moving average, in [0, 1).
        from_optimizer: take Adam's ``exp_avg_sq``, and accumulate nothing.

    Reference:
        LeCun, Denker and Solla, Optimal Brain Damage, 1990.
    """

    decay: float = 0.98
    from_optimizer: bool = False

    def _row(self) -> tuple[Any, ...]:
        return ("obd", 1.0, 0.0, float(self.decay), bool(self.from_optimizer), 0)


@dataclasses.dataclass(frozen=True)
class Random:
    """The baseline that everyone must beat; the same on every machine and rank."""

    seed: int = 0

    def _row(self) -> tuple[Any, ...]:
        return ("random", 1.0, 0.0, 0.98, False, self.seed)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The caller's scores, given to ``step(scores)``: higher is more important, signs count."""

    def _row(self) -> tuple[Any, ...]:
        return ("scores", 1.0, 0.0, 0.98, False, 0)


CRITERIA = {
    "magnitude": Magnitude,
    "taylor": Taylor,
    "obd": OBD,
    "random": Random,
    "scores": Scores,
}
KINDS = {
    kind.__name__: kind
    for kind in (
        *(OneShot, Iterative, Cubic, Growing, Surgery),
        *(Magnitude, StdFactor, Taylor, OBD, Random, Scores),
    )
}
SCHEDULES = (OneShot, Iterative, Cubic, Growing, Surgery)
