"""Products at batch 1 that are timed in turns, hot and cold, and the ratios between them."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import torch

BROKEN_CLOCK = 200e9  # bytes a second: nothing here reads faster, so a shorter time is no time
_BURST_SECONDS = 1.5e-3
_SETTLE_SECONDS = 5e-3
_FLUSHED_BYTES = 96 << 20


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to multiply.

    ``run`` takes a float32 x where it lies and includes all that is done to it; ``output`` makes a
    tensor ``[1, rows]`` of what run returned. ``reads`` are the bytes of weights that a call must
    read; ``allowed`` the largest error beside the largest output.
    """

    run: Callable[[], object]
    reads: int
    allowed: float = 1e-4
    output: Callable[[object], torch.Tensor] = lambda result: result  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Time:
    """Least seconds hot, third best of nine cold."""

    hot: float
    cold: float


Times = dict[str, Time]


def check(candidates: Mapping[str, Candidate], weight: torch.Tensor, x: torch.Tensor) -> None:
    """Every candidate gives the product, or its time would say nothing."""
    expected = torch.cat([rows.double() @ x[0].double() for rows in weight.split(512)])
    largest = expected.abs().max().clamp(min=1e-30)
    for name, candidate in candidates.items():
        found = candidate.output(candidate.run()).double().flatten()
        error = float((found - expected).abs().max() / largest)
        if not error <= candidate.allowed:
            raise AssertionError(
                f"{name}: expected an error up to {candidate.allowed}, got {error}"
            )


def measure(candidates: Mapping[str, Candidate], seconds: float) -> Times:
    """Every candidate by turns, for that long; then cold.

    Hot: a turn is a burst of calls, so that weights which fit into the cache lie there; with more
    threads than one the pools of the candidate before are first left to fall asleep (they spin for
    milliseconds on the cores that the next one needs). Cold: after 96 MB have been written.
    """
    hot = dict.fromkeys(candidates, math.inf)
    cold: dict[str, list[float]] = {name: [] for name in candidates}
    settle = _SETTLE_SECONDS if torch.get_num_threads() > 1 else 0.0
    for candidate in candidates.values():
        candidate.run()
        candidate.run()
    end, turns = time.perf_counter() + seconds, 0
    while turns < 10 or time.perf_counter() < end:
        turns += 1
        for name, candidate in candidates.items():
            time.sleep(settle)
            hot[name] = min(hot[name], _burst(candidate))
    flushed = torch.ones(_FLUSHED_BYTES // 4)
    for _ in range(9):
        for name, candidate in candidates.items():
            flushed.add_(1)
            took = _once(candidate)
            if took > candidate.reads / BROKEN_CLOCK:
                cold[name].append(took)
    return {name: Time(hot[name], sorted(cold[name])[2]) for name in candidates}


def _once(candidate: Candidate) -> float:
    begin = time.perf_counter()
    candidate.run()
    return time.perf_counter() - begin


def _burst(candidate: Candidate) -> float:
    """The least of two calls or more, up to 1.5 ms of them."""
    best, spent, calls = math.inf, 0.0, 0
    while calls < 2 or spent < _BURST_SECONDS:
        took = _once(candidate)
        calls += 1
        spent += took
        if took > candidate.reads / BROKEN_CLOCK:
            best = min(best, took)
    return best


def with_best(times: Times, groups: Mapping[str, tuple[str, ...]]) -> Times:
    """The times, and for each group the least of its members that are there."""
    found = dict(times)
    for name, members in groups.items():
        here = [times[member] for member in members if member in times]
        if here:
            found[name] = Time(min(t.hot for t in here), min(t.cold for t in here))
    return found


def ratio(layers: Iterable[Times], rival: str, ours: str, which: str) -> str:
    """How many times faster than the rival, as a geometric mean (and the worst layer)."""
    found = [
        getattr(times[rival], which) / getattr(times[ours], which)
        for times in layers
        if rival in times and ours in times
    ]
    return f"{statistics.geometric_mean(found):.2f} ({min(found):.2f})" if found else "-"


def microseconds(times: Times, name: str, which: str = "hot") -> str:
    """A cell of a table."""
    return f"{1e6 * getattr(times[name], which):.1f}" if name in times else "-"
