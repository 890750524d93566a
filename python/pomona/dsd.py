"""Dense-Sparse-Dense training (thesis ch. 5): the same network, trained to a better optimum."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from . import _C
from ._mask_shell import MaskShell, logger, rows_and_ranks
from ._shell import named_owners, resolve
from .rules import Prune, Rules, normalize

__all__ = ["DSD"]

_PHASES = ("dense", "sparse", "redense")


def _first_convolution(model: torch.nn.Module) -> list[str]:
    """The names of the weights of the first convolution; none without one."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            inside = set(module.modules())  # itself, and its parametrizations
            return [
                name
                for name, (owner, attribute) in named_owners(model).items()
                if owner in inside and getattr(owner, attribute).dim() >= 2
            ]
    return []


def _lengths(epochs: Sequence[int] | None, steps: Sequence[int] | None) -> tuple[str, list[int]]:
    """The unit and the lengths of the phases."""
    if (epochs is None) == (steps is None):
        raise _C.InvalidArgument(
            "DSD: expected either `epochs` or `steps` as (dense, sparse, redense), "
            f"got {'neither' if epochs is None else 'both'}."
        )
    unit, lengths = ("steps", steps) if epochs is None else ("epochs", epochs)
    try:
        if any(isinstance(length, bool) for length in lengths):
            raise TypeError
        whole = [operator.index(length) for length in lengths]
    except TypeError:
        whole = []
    if len(whole) < len(_PHASES) or len(whole) % 2 == 0:
        raise _C.InvalidArgument(
            f"DSD: expected `{unit}` to be three integers (dense, sparse, redense), and two more "
            f"for each further cycle, got {lengths!r}."
        )
    return unit, whole


def _factors(lr_factors: Sequence[float] | None, count: int) -> list[float]:
    if lr_factors is None:
        return [10.0**-phase for phase in range(count)]
    try:
        factors = [float(factor) for factor in lr_factors]
    except (TypeError, ValueError):
        factors = []
    if len(factors) != count:
        raise _C.InvalidArgument(
            f"DSD: expected `lr_factors` to be {'three' if count == 3 else count} numbers "
            f"(dense, sparse, redense{', ...' if count > 3 else ''}), got {lr_factors!r}."
        )
    return factors


def _cycles(model: torch.nn.Module, rules: list[Rules]) -> tuple[list, list[list]]:
    """(parameters under a rule in any cycle with the first cycle's rule, rows of each cycle)."""
    resolved = [
        {name: (shape, rule) for name, shape, rule in resolve(model, cycle, Prune)}
        for cycle in rules
    ]
    dense = Prune(0.0)
    parameters = [
        (name, cycle[name][0], resolved[0].get(name, (None, dense))[1])
        for name in named_owners(model)
        for cycle in [next((c for c in resolved if name in c), None)]
        if cycle is not None
    ]
    rows = [
        [cycle.get(name, (None, dense))[1]._row() for name, _, _ in parameters]
        for cycle in resolved
    ]
    return parameters, rows if len(rules) > 1 else []


class DSD(MaskShell):
    """Trains dense, then under a mask at a lower learning rate, then dense again.

    In the sparse phase the smallest weights are held at zero; at re-dense they start again from
    zero, and an adaptive optimizer's second moments for them from the survivors' mean. The learning
    rate is the user's (whatever a scheduler makes of it) times the phase's factor: applied just
    before the optimizer's step and taken back just after. With ``masks=False`` the phases and
    factors stay and nothing is pruned: LLR, the control that shows what the mask adds.

    Args:
        model: the network; the constructor does not touch it.
        rules: pattern -> sparsity, ``Prune`` or None. The thesis uses 0.25 to 0.5. A list of such
            dicts gives each cycle its own (DeepSpeech: 50 %, then 25 %).
        epochs: lengths of the phases (dense, sparse, redense); a phase of length 0 is skipped.
            Without a re-dense phase the network stays sparse. Two more (sparse, redense) for each
            further cycle.
        steps: the same in optimizer steps, when ``step()`` is called after each of them.
        optimizer: trains the model; a list or a wrapper will do. It may come later, by ``attach``.
        lr_factors: the learning rate of each phase over the user's; by default a decade less at
            each switch.
        masks: False for LLR.
        skip_first_convolution: leaves the first convolution dense by a rule in front of the others
            (see ``rules``), unless a rule spells its name out.
        process_group: as ``Pruner``.

    Raises:
        InvalidArgument: as ``Pruner``; lengths that are not integers of at least 0 with a sum of at
            least 1; both or neither of ``epochs`` and ``steps``; a factor that is not above 0; a
            schedule (a mask is made once for each sparse phase); nothing left to prune.

    Example:
        >>> model = torch.nn.Linear(10, 10)
        >>> dsd = DSD(model, {"*": 0.3}, epochs=(1, 1, 1))
        >>> [(dsd.phase, dsd.sparsity, dsd.step())[:2] for epoch in dsd]
        [('dense', 0.0), ('sparse', 0.3), ('redense', 0.0)]

    Reference:
        Han, thesis ch. 5; Han et al., DSD: Dense-Sparse-Dense Training, ICLR 2017.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        rules: Rules | Sequence[Rules],
        *,
        epochs: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
        optimizer: Any = None,
        lr_factors: Sequence[float] | None = None,
        masks: bool = True,
        skip_first_convolution: bool = True,
        process_group: Any = None,
    ) -> None:
        """Resolve the rules; the model stays as it is."""
        super().__init__(model)
        self._unit, lengths = _lengths(epochs, steps)
        given = list(rules) if isinstance(rules, (list, tuple)) else [rules]
        for cycle in given:
            normalize(cycle, Prune)  # refuses what is no dict of rules
        if len(given) not in (1, len(lengths) // 2):
            raise _C.InvalidArgument(
                f"DSD: expected rules for each of {len(lengths) // 2} cycles, got {len(given)}."
            )
        skipped = _first_convolution(model) if skip_first_convolution else []
        self._skipped = [name for name in skipped if not any(name in cycle for cycle in given)]
        self._rules = [{**dict.fromkeys(self._skipped), **cycle} for cycle in given]
        resolved, cycles = _cycles(model, self._rules)
        if not resolved:
            raise _C.InvalidArgument(
                f"DSD: expected rules that prune a parameter, got {self._rules[0]!r}. "
                "The first convolution is left dense unless skip_first_convolution=False."
            )
        rows, ranks = rows_and_ranks(resolved, named_owners(model), process_group)
        factors = _factors(lr_factors, len(lengths))
        core = _C.DSD(rows, lengths, factors, bool(masks), cycles, ranks)
        self._lengths = lengths
        self._scaled: dict[torch.optim.Optimizer, list[tuple[dict, Any, Any]]] = {}
        self._begin(core, core.pruner(), optimizer)

    @property
    def phase(self) -> str:
        """Where it stands: "dense", "sparse", "redense" or "done"."""
        return self._core.phase()

    @property
    def epoch(self) -> int:
        """How many epochs (or steps, when the lengths are in steps) have been trained."""
        return self._core.steps()

    @property
    def lr_factor(self) -> float:
        """What the learning rate is multiplied by now; after the end, the last phase's factor."""
        return self._core.lr_factor()

    @property
    def rules(self) -> Mapping[str, Any]:
        """The rules in force, the default for the first convolution included."""
        cycle = max(0, min(self._core.position(), len(self._lengths) - 1) - 1) // 2
        return dict(self._rules[min(cycle, len(self._rules) - 1)])

    def start(self) -> None:
        """Enter the first phase; ``for epoch in dsd`` does it. A second call does nothing.

        Raises:
            InvalidArgument: as ``step``, when the first phase is the sparse one.
        """
        self._advance("start", self._core.start)

    def step(self) -> None:
        """One epoch (or step) has been trained: at the end of a phase, switch to the next.

        Raises:
            InvalidArgument: it is called after the end; NaN or Inf in a weight when the sparse
                phase begins; a pruned weight that is not zero. Everything is as it was.
        """
        self._advance("step", self._core.step)

    def advance(self) -> None:
        """End the phase now, after ``step()``: early stopping.

        Raises:
            InvalidArgument: as ``step``.
        """
        self._advance("advance", self._core.advance)

    def __iter__(self) -> Iterator[int]:
        """Yield epoch numbers from where it stands to the end; the body calls ``step()``.

        Raises:
            InvalidArgument: the body has not called ``step()``.
        """
        self.start()
        while self.phase != "done":
            before = (self.epoch, self.phase)
            yield self.epoch
            if (self.epoch, self.phase) == before:
                raise _C.InvalidArgument(
                    f"DSD: expected the loop to call dsd.step() once for each of its {self._unit}, "
                    f"got no call in number {self.epoch}."
                )

    def _advance(self, verb: str, call: Any) -> None:
        self._check_open(verb)
        self._restore_lr()
        self._find_owners()
        live = self._live()
        switch = call(live)
        self._follow()
        if switch is not None:
            if switch[0] == "sparse":
                self._zero_wrapped_moments()
                self._warn_of_unknown_state(live)
            self._log(*switch)

    def _log(self, phase: str, factor: float) -> None:
        position = self._core.position()
        length = self._lengths[position] if position < len(self._lengths) else 0
        left_dense = f"; left dense: {', '.join(self._skipped)}" if self._skipped else ""
        logger.info(
            "DSD: %s after %d %s, for %d: sparsity %.4f, lr x %g%s",
            *(phase, self.epoch, self._unit, length, self.sparsity, factor, left_dense),
        )
        if not self._optimizers:
            logger.warning("DSD: no optimizer is attached, so no learning rate is changed")

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        super()._before_step(optimizer)
        self._restore_lr()  # a step that raised has left its learning rates scaled
        factor = self.lr_factor
        if factor == 1:
            return
        scaled = []
        for group in optimizer.param_groups:
            if "lr" in group:
                scaled.append((group, group["lr"], group["lr"] * factor))
        self._scaled[optimizer] = scaled
        for group, _, lr in scaled:
            group["lr"] = lr

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._restore_lr()
        super()._after_step(optimizer)

    def _restore_lr(self) -> None:
        """Put the very objects back, unless somebody else has set a learning rate since."""
        for scaled in self._scaled.values():
            for group, original, ours in scaled:
                if group["lr"] is ours:
                    group["lr"] = original
        self._scaled = {}

    def _detach(self) -> None:
        self._restore_lr()
        super()._detach()

    def _state(self) -> tuple[Any, dict[str, Any]]:
        self._restore_lr()
        position, steps, steps_in_phase, is_started, pruner = self._core.state()
        history = {"unit": self._unit, "lengths": self._lengths, "phase": self.phase}
        history |= {"position": position, "trained": steps}
        return pruner, {
            **history,
            "trained_in_phase": steps_in_phase,
            "is_started": is_started,
        }

    def _load_state(self, pruner: Any, history: dict[str, Any]) -> None:
        try:
            unit = history["unit"]
            counters = (
                int(history["position"]),
                int(history["trained"]),
                int(history["trained_in_phase"]),
                bool(history["is_started"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _C.InvalidArgument(
                f"DSD.load_state_dict: expected a complete history, got {history!r} ({error!r})."
            ) from None
        if unit != self._unit:
            raise _C.InvalidArgument(
                f"DSD.load_state_dict: expected phases in {self._unit}, got a state in {unit}."
            )
        self._core.load_state((*counters, pruner))
