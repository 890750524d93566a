"""Pruning (thesis ch. 3): masks by magnitude, kept while the network is retrained."""

from __future__ import annotations

from typing import Any

import torch

from . import _C
from ._mask_shell import MaskShell, logger
from ._shell import resolve
from .rules import Prune, Rules

__all__ = ["Pruner"]


class Pruner(MaskShell):
    """Prunes the smallest weights of each layer and keeps them at zero while the model trains.

    Of a parameter with n weights exactly floor(n * sparsity + 0.5) go, the smallest magnitudes
    first; of equal ones the lower index goes first. The model is never wrapped: weights stay
    ordinary parameters, ``state_dict`` keeps its keys, and the forward pass costs nothing.

    Args:
        model: the network; the constructor does not touch it.
        rules: pattern -> sparsity, ``Prune`` or None (see ``pomona.rules``); the first that matches
            a parameter decides.
        optimizer: trains the model; a list or a wrapper will do. It may come later, by ``attach``.

    Raises:
        InvalidArgument: a sparsity outside [0, 1), a rule that matches nothing or names an integer
            parameter, an optimizer that does not hold a parameter under a rule.

    Example:
        >>> model = torch.nn.Linear(10, 10)
        >>> pruner = Pruner(model, {"*": 0.9})
        >>> pruner.step(), int(model.weight.count_nonzero())
        (True, 10)

    Reference:
        Han, thesis §3.2; Han et al., Learning both Weights and Connections, NIPS 2015.
    """

    def __init__(self, model: torch.nn.Module, rules: Rules, *, optimizer: Any = None) -> None:
        """Resolve the rules; the model stays as it is."""
        super().__init__(model)
        rows = [(name, shape, rule.sparsity) for name, shape, rule in resolve(model, rules, Prune)]
        core = _C.Pruner(rows)
        self._begin(core, core, optimizer)

    def step(self) -> bool:
        """Prune, on the first call; on later ones, check that no pruned weight has come back.

        Returns:
            Whether a mask has changed.

        Raises:
            InvalidArgument: NaN or Inf in a weight, a weight of another shape, a pruned weight that
                is not zero. The model and the optimizer are as they were.
        """
        self._check_open("step")
        self._find_owners()
        live = self._live()
        has_changed = self._core.step(live)
        self._follow()
        if has_changed:
            self._warn_of_unknown_state(live)
            logger.info("Pruner: sparsity %.4f over %d parameters", self.sparsity, len(self.names))
        return has_changed

    def _state(self) -> tuple[Any, dict[str, Any]]:
        return self._core.state(), {}

    def _load_state(self, pruner: Any, history: dict[str, Any]) -> None:
        self._core.load_state(pruner)
