"""Rules: which parameter is pruned or shared, and how.

A rule set is an ordered dict; the first pattern that matches a parameter decides. A pattern is a
glob on the qualified name of a parameter or of a module that contains it (``*`` crosses dots, a
match may begin at any module boundary), or ``re:<regex>`` on the whole parameter name. A number is
short for ``Prune(sparsity=...)`` or ``Share(bits=...)``; ``None`` leaves a layer alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from . import _C
from .schedules import CRITERIA, KINDS, SCHEDULES, Iterative, OneShot, StdFactor

__all__ = ["Prune", "Share", "rules_from_json", "rules_to_json"]


# One word for each piece that goes or stays together; neurons and filters are rows, channels are
# columns.
_PIECES = {
    "element": ("element", 1, 1),
    "row": ("row", 1, 1),
    "neuron": ("row", 1, 1),
    "filter": ("row", 1, 1),
    "column": ("column", 1, 1),
    "channel": ("column", 1, 1),
}


@dataclasses.dataclass(frozen=True)
class Prune:
    """How one parameter is pruned.

    Args:
        sparsity: share of the pieces that go, in [0, 1). Exactly floor(n * sparsity + 0.5) of n.
            It may be left out where something else says it: ``StdFactor``, ``Iterative``, n:m.
        criterion: "magnitude", "taylor", "obd", "random", "scores", or one of the classes of
            ``pomona.schedules`` (``StdFactor``, ``OBD(decay=...)``, ...).
        granularity: "element"; "row" ("neuron", "filter"): dimension 0; "column" ("channel"):
            dimension 1; "block:4x8": blocks of the matrix [dim 0, the rest]; "2:4": two of every
            four neighbours along dimension 1 stay; "balanced:64": elements, equally many in the
            rows of each of 64 banks (row r of bank r mod 64), as the PEs of EIE want them. The
            score of a piece is the mean over its weights.
        scope: "layer", or "global": the parameters of equal rules are compared with one another.
        schedule: when, in calls of ``step()``; see ``pomona.schedules``.
        may_empty: whether a parameter may lose all its weights.
    """

    sparsity: float | None = None
    criterion: Any = "magnitude"
    granularity: str = "element"
    scope: str = "layer"
    schedule: Any = dataclasses.field(default_factory=OneShot)
    may_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not a rule."""
        self._set("criterion", _criterion(self.criterion))
        if not isinstance(self.schedule, SCHEDULES):
            raise _C.InvalidArgument(
                "Prune: expected `schedule` to be one of "
                f"{', '.join(kind.__name__ for kind in SCHEDULES)}, got {self.schedule!r}."
            )
        if self.scope not in ("layer", "global"):
            raise _C.InvalidArgument(
                f"Prune: expected `scope` to be 'layer' or 'global', got {self.scope!r}."
            )
        _piece(self.granularity)
        self._set("sparsity", self._sparsity())
        try:
            _C.check_rule(self._row())
        except TypeError:
            raise _C.InvalidArgument(
                f"Prune: expected numbers of the right types, got {self!r}."
            ) from None

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _sparsity(self) -> float:
        """The given sparsity, or the one that the other members say."""
        implied = None
        if isinstance(self.criterion, StdFactor):
            implied = 0.0
        elif isinstance(self.schedule, Iterative) and self.schedule.sparsities:
            implied = self.schedule.sparsities[-1]
        elif _piece(self.granularity)[0] == "n:m":
            _, n, m = _piece(self.granularity)
            implied = 1 - n / m
        given = self.sparsity
        if given is None and implied is not None:
            return implied
        if not _is_number(given) or not 0 <= given < 1:
            raise _C.InvalidArgument(f"Prune: expected `sparsity` in [0, 1), got {given!r}.")
        if implied is not None and given != implied and not isinstance(self.criterion, StdFactor):
            raise _C.InvalidArgument(
                f"Prune: expected `sparsity` of {implied}, as the schedule or the granularity "
                f"says, got {given!r}. Leave it out."
            )
        return given

    def _row(self) -> tuple[Any, ...]:
        """What the C++ core takes."""
        return (
            float(self.sparsity or 0),
            self.criterion._row(),
            _piece(self.granularity),
            self.schedule._row(),
            self.scope == "global",
            bool(self.may_empty),
        )


def _criterion(given: Any) -> Any:
    if isinstance(given, str) and given in CRITERIA:
        return CRITERIA[given]()
    if type(given).__name__ in KINDS and not isinstance(given, (*SCHEDULES, str)):
        return given
    raise _C.InvalidArgument(
        f"Prune: expected `criterion` to be one of {', '.join(CRITERIA)}, StdFactor(...), "
        f"OBD(...) or Random(...), got {given!r}."
    )


def _piece(granularity: Any) -> tuple[str, int, int]:
    """(kind, rows, columns) of "element", "row", "block:RxC", "N:M"."""
    if granularity in _PIECES:
        return _PIECES[granularity]
    if isinstance(granularity, str):
        if found := re.fullmatch(r"block:(\d+)x(\d+)", granularity):
            return ("block", int(found[1]), int(found[2]))
        if found := re.fullmatch(r"(\d+):(\d+)", granularity):
            return ("n:m", int(found[1]), int(found[2]))
        if found := re.fullmatch(r"balanced:(\d+)", granularity):
            return ("balanced", int(found[1]), 1)
    raise _C.InvalidArgument(
        f"Prune: expected `granularity` to be one of {', '.join(_PIECES)}, 'block:RxC', 'N:M' or "
        f"'balanced:PES', got {granularity!r}."
    )


FITS = ("exact", "linear", "density", "forgy", "kmeans++")
ENTRIES = ("same", "float16", "bfloat16", "fixed16")
_PER_CHANNEL = -1


@dataclasses.dataclass(frozen=True)
class Share:
    """How one parameter is shared.

    Args:
        bits: 1 to 8.
        codes: 1 to 2**bits codes, one of them for 0.0 when the parameter has zeros; None: 2**bits.
        granularity: which weights share a codebook: "tensor", "channel" (each index of dimension
            0 has one) or "group:G" (each G weights in a row, row-major).
        fit: "exact" is the optimum of the within-cluster sum of squares; "linear", "density" and
            "forgy" are Lloyd's algorithm from the thesis's initializations (§4.3), "kmeans++" from
            that of Arthur and Vassilvitskii.
        entries: what codebook entries are rounded to: "same" (the parameter's dtype), "float16",
            "bfloat16" or "fixed16" (16 bits and one power of two for a codebook).
        rate: entropy-constrained assignment: a bit of a code is priced at ``rate`` times the mean
            squared error that the codebook has without. 0: off; 0.5 to 2 are usual.
        seed: of "forgy" and "kmeans++".
    """

    bits: int
    codes: int | None = None
    granularity: str = "tensor"
    fit: str = "exact"
    entries: str = "same"
    rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not a rule."""
        if not _is_integer(self.bits) or not 1 <= self.bits <= 8:
            raise _C.InvalidArgument(
                f"Share: expected `bits` to be an integer in 1..8, got {self.bits!r}."
            )
        most = 2**self.bits
        if self.codes is not None and (not _is_integer(self.codes) or not 1 <= self.codes <= most):
            raise _C.InvalidArgument(
                f"Share: expected `codes` to be an integer in 1..{most} for {self.bits} bits, "
                f"got {self.codes!r}."
            )
        for name, known in (("fit", FITS), ("entries", ENTRIES)):
            if getattr(self, name) not in known:
                raise _C.InvalidArgument(
                    f"Share: expected `{name}` to be one of {', '.join(known)}, "
                    f"got {getattr(self, name)!r}."
                )
        if not _is_number(self.rate) or not 0 <= self.rate < float("inf"):
            raise _C.InvalidArgument(
                f"Share: expected `rate` to be finite and not negative, got {self.rate!r}."
            )
        if not _is_integer(self.seed) or not 0 <= self.seed < 2**64:
            raise _C.InvalidArgument(
                f"Share: expected `seed` to be an integer in 0..2^64-1, got {self.seed!r}."
            )
        self._group()

    def _group(self) -> int:
        if self.granularity == "tensor":
            return 0
        if self.granularity == "channel":
            return _PER_CHANNEL
        found = isinstance(self.granularity, str) and re.fullmatch(
            r"group:([1-9]\d{0,17})", self.granularity
        )
        if not found:
            raise _C.InvalidArgument(
                "Share: expected `granularity` to be 'tensor', 'channel' or 'group:G', "
                f"got {self.granularity!r}."
            )
        return int(found[1])

    def _row(self) -> tuple[Any, ...]:
        """What the C++ core takes."""
        return (
            self.bits,
            self.codes or 0,
            self._group(),
            FITS.index(self.fit),
            self.seed,
            ENTRIES.index(self.entries),
            float(self.rate),
        )


Rule = TypeVar("Rule", Prune, Share)
Rules = Mapping[str, Any]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
    """Rules as JSON text, in order: ``[["fc*", {"sparsity": 0.9}], ["*", null]]``.

    Members that have their default are left out.
    """
    rows = [
        [pattern, None if rule is None else _fields(rule, keep=("sparsity", "bits"))]
        for pattern, rule in normalize(rules, kind).items()
    ]
    return json.dumps(rows)


def _fields(value: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """The members that differ from their defaults; a class of ``KINDS`` as its name and members."""
    found = {}
    for field in dataclasses.fields(value):
        member = getattr(value, field.name)
        nested = type(member).__name__ in KINDS
        default = {"criterion": CRITERIA["magnitude"](), "schedule": OneShot()}.get(
            field.name, field.default
        )
        if member != default or field.name in keep:
            found[field.name] = (
                {"kind": type(member).__name__, **_fields(member)} if nested else member
            )
    return found


def _unfold(value: Any) -> Any:
    """Inverse of what ``_fields`` makes of a class of ``KINDS``."""
    if not isinstance(value, dict):
        return value
    members = dict(value)
    kind = KINDS.get(members.pop("kind", None))
    if kind is None:
        raise TypeError(f"unknown kind in {value!r}")
    return kind(**members)


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
            rules[pattern] = (
                None if fields is None else kind(**{k: _unfold(v) for k, v in fields.items()})
            )
        except TypeError:
            known = [field.name for field in dataclasses.fields(kind)]
            raise _C.InvalidArgument(
                f"rules[{pattern!r}]: expected the keys {known} of {kind.__name__}, got {fields!r}."
            ) from None
    return normalize(rules, kind)
