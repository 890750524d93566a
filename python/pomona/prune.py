"""Pruning (thesis ch. 3): masks by rule, kept while the network is retrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from . import _C
from ._mask_shell import MaskShell, logger, rows_and_ranks
from ._ranks import local
from ._shell import named_owners, resolve
from .rules import Prune, Rules

__all__ = ["Pruner"]


class Pruner(MaskShell):
    """Prunes the least important weights and keeps them at zero while the model trains.

    Of n weights exactly floor(n * sparsity + 0.5) go, by default the smallest magnitudes of each
    parameter; of equal ones the lower index goes first. What is masked, or scores 0, goes before
    anything else and never returns (but see ``Surgery``). The model is never wrapped: weights stay
    ordinary parameters, ``state_dict`` keeps its keys, and the forward pass costs nothing.

    Args:
        model: the network; the constructor does not touch it.
        rules: pattern -> sparsity, ``Prune`` or None (see ``pomona.rules``); the first that matches
            a parameter decides.
        optimizer: trains the model; a list or a wrapper will do. It may come later, by ``attach``.
        process_group: the ranks that hold the same parameters; by default those of the shards
            (FSDP2), or all; False: no other rank is asked. Every rank calls ``step()``.

    Raises:
        InvalidArgument: a sparsity outside [0, 1), a rule that matches nothing, names an integer
            parameter or does not fit a shape, an optimizer that does not hold a parameter under a
            rule.

    Example:
        >>> model = torch.nn.Linear(10, 10)
        >>> pruner = Pruner(model, {"*": 0.9})
        >>> pruner.step(), int(model.weight.count_nonzero())
        (True, 10)

    Reference:
        Han, thesis §3.2; Han et al., Learning both Weights and Connections, NIPS 2015.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        rules: Rules,
        *,
        optimizer: Any = None,
        process_group: Any = None,
    ) -> None:
        """Resolve the rules; the model stays as it is."""
        super().__init__(model)
        resolved = resolve(model, rules, Prune)
        core = _C.Pruner(*rows_and_ranks(resolved, named_owners(model), process_group))
        self._begin(core, core, optimizer)

    def step(self, scores: Mapping[str, torch.Tensor] | None = None) -> bool:
        """One call of the schedules: prunes where a round falls on it, and checks what is pruned.

        Without a schedule the first call prunes. Every call checks that no pruned weight has come
        back.

        Args:
            scores: of each parameter under a rule, by name and of its shape: higher is more
                important, signs count. By default the rules' criteria score.

        Returns:
            Whether a mask has changed.

        Raises:
            InvalidArgument: NaN or Inf in a weight or score, a weight of another shape, a pruned
                weight that is not zero, no gradients where the criterion needs them, a parameter
                that would lose all its weights, ranks that differ. The model and the optimizer are
                as they were.
        """
        self._check_open("step")
        self._find_owners()
        live = self._live()
        has_changed = self._core.step(live, self._listed(scores))
        self._follow()
        if has_changed:
            self._zero_wrapped_moments()
            self._warn_of_unknown_state(live)
            logger.info("Pruner: sparsity %.4f over %d parameters", self.sparsity, len(self.names))
        return has_changed

    def _listed(self, scores: Mapping[str, torch.Tensor] | None) -> list[torch.Tensor]:
        if scores is None:
            return []
        if not isinstance(scores, Mapping) or set(scores) != set(self.names):
            got = sorted(scores) if isinstance(scores, Mapping) else type(scores).__name__
            raise _C.InvalidArgument(
                f"Pruner.step: expected `scores` to be a dict with the keys {self.names}, "
                f"got {got}."
            )
        return [local(scores[name]).detach() for name in self.names]

    def _state(self) -> tuple[Any, dict[str, Any]]:
        return self._core.state(), {}

    def _load_state(self, pruner: Any, history: dict[str, Any]) -> None:
        self._core.load_state(pruner)
