"""Rules: which parameter is pruned or shared, and how.

A rule set is an ordered dict; the first pattern that matches a parameter decides. A pattern is a
glob on the qualified name of a parameter or of a module that contains it (``*`` crosses dots, a
match may begin at any module boundary), or ``re:<regex>`` on the whole parameter name. A number is
short for ``Prune(sparsity=...)`` or ``Share(bits=...)``; ``None`` leaves a layer alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from . import _C

__all__ = ["Prune", "Share", "rules_from_json", "rules_to_json"]


@dataclasses.dataclass(frozen=True)
class Prune:
    """How one parameter is pruned.

    Args:
        sparsity: share of the weights that go, in [0, 1). Exactly floor(n * sparsity + 0.5) of n.
    """

    sparsity: float

    def __post_init__(self) -> None:
        """Refuse a sparsity outside [0, 1)."""
        if not _is_number(self.sparsity) or not 0 <= self.sparsity < 1:
            raise _C.InvalidArgument(
                f"Prune: expected `sparsity` in [0, 1), got {self.sparsity!r}."
            )


@dataclasses.dataclass(frozen=True)
class Share:
    """How one parameter is shared.

    Args:
        bits: 1 to 8; the parameter gets 2**bits codes, one of them for 0.0 when it has zeros.
    """

    bits: int

    def __post_init__(self) -> None:
        """Refuse bits outside 1..8."""
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= 8:
            raise _C.InvalidArgument(
                f"Share: expected `bits` to be an integer in 1..8, got {self.bits!r}."
            )


Rule = TypeVar("Rule", Prune, Share)
Rules = Mapping[str, Any]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def normalize(rules: Rules, kind: type[Rule]) -> dict[str, Rule | None]:
    """Every value as ``kind`` or None, in order.

    Raises:
        InvalidArgument: rules is not a mapping, is empty, or a value is neither a number, ``kind``
            nor None.
    """
    name = kind.__name__
    if not isinstance(rules, Mapping) or not rules:
        raise _C.InvalidArgument(
            f"rules: expected a non-empty dict of pattern: {name} (or a number, or None), "
            f"got {rules!r}."
        )
    normal: dict[str, Rule | None] = {}
    for pattern, value in rules.items():
        if not isinstance(pattern, str):
            raise _C.InvalidArgument(f"rules: expected patterns to be strings, got {pattern!r}.")
        if value is None or isinstance(value, kind):
            normal[pattern] = value
        elif _is_number(value):
            try:
                normal[pattern] = kind(value)
            except _C.InvalidArgument as error:
                raise _C.InvalidArgument(f"rules[{pattern!r}]: {error}") from None
        else:
            raise _C.InvalidArgument(
                f"rules[{pattern!r}]: expected a number, {name} or None, got {value!r}."
            )
    return normal


def rules_to_json(rules: Rules, kind: type[Rule]) -> str:
    """Rules as JSON text, in order: ``[["fc*", {"sparsity": 0.9}], ["*", null]]``."""
    rows = [
        [pattern, None if rule is None else dataclasses.asdict(rule)]
        for pattern, rule in normalize(rules, kind).items()
    ]
    return json.dumps(rows)


def _is_row(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and (row[1] is None or isinstance(row[1], dict))


def _not_rules(text: str, why: str) -> _C.InvalidArgument:
    return _C.InvalidArgument(
        f"rules: expected JSON [[pattern, rule or null], ...], got {text!r} ({why})."
    )


def rules_from_json(text: str, kind: type[Rule]) -> dict[str, Rule | None]:
    """Inverse of ``rules_to_json``.

    Raises:
        InvalidArgument: not such JSON, or an unknown or missing key.
    """
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise _not_rules(text, str(error)) from None
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise _not_rules(text, "not a list of such pairs")
    rules: dict[str, Rule | None] = {}
    for pattern, fields in rows:
        try:
            rules[pattern] = None if fields is None else kind(**fields)
        except TypeError:
            known = [field.name for field in dataclasses.fields(kind)]
            raise _C.InvalidArgument(
                f"rules[{pattern!r}]: expected the keys {known} of {kind.__name__}, got {fields!r}."
            ) from None
    return normalize(rules, kind)
