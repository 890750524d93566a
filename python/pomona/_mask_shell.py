"""What Pruner and DSD share: masks kept through training, and saved.

Note [Where a mask lives]. In the gradient first: a post-accumulate-gradient hook zeroes the pruned
entries, so clipping, momentum, decay and adaptive optimizers see the pruned network only. The
optimizer's pre-step hook does the same for gradients that were set by hand; its post-step hook is a
backstop on the weight. The model itself is never wrapped.
"""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import torch

from . import _C
from ._shell import GradientHooks, Shell, named_owners

logger = logging.getLogger("pomona")

# State of the weight's shape that torch.optim holds and a mask need not touch.
_HARMLESS_STATE = {"step_size", "prev_param_value"}


class MaskShell(Shell):
    """Keeps the masks of a C++ Pruner on a model. Base of Pruner and DSD."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self._is_finalized = False
        self._warned: set[str] = set()

    def _begin(self, core: Any, pruner: Any, optimizer: Any) -> None:
        """The last lines of a constructor."""
        self._core = core
        self._pruner = pruner
        self._gradient_hooks = GradientHooks(pruner.mask_gradient)
        self._find_owners()
        if optimizer is not None:
            self.attach(optimizer)

    def attach(self, optimizer: Any) -> None:
        """Take over a new optimizer (or a list), after one is made, copied or replaced.

        Args:
            optimizer: a torch.optim.Optimizer, a wrapper of one, or a list of these. Together they
                hold every parameter that has a rule (frozen ones excepted).

        Raises:
            InvalidArgument: it is no optimizer, or does not hold a parameter that has a rule. Then
                nothing has changed.
        """
        self._check_open("attach")
        super().attach(optimizer)
        self._follow()

    @property
    def sparsity(self) -> float:
        """The share of pruned weights among all under a rule; 0 while nothing is masked."""
        return self._pruner.sparsity()

    def masks(self) -> dict[str, torch.Tensor]:
        """The masks by parameter name: bool, of the weight's shape, on its device; True is kept."""
        weights = zip(self.names, self._weights(), strict=True)
        return {name: self._pruner.keep_mask(i, w) for i, (name, w) in enumerate(weights)}

    def apply_(self, model: torch.nn.Module) -> None:
        """Zero the pruned weights of a copy of the model, such as an average (EMA) of it.

        Args:
            model: has the parameters of this object's model, under the same names.

        Raises:
            InvalidArgument: a parameter is missing or has another shape. Then nothing has changed.
        """
        owners = named_owners(model)
        weights = {name: getattr(*owners[name]) for name in self.names if name in owners}
        shapes = [w.shape for w in self._weights()]
        wrong = [
            name
            for name, shape in zip(self.names, shapes, strict=True)
            if name not in weights or weights[name].shape != shape
        ]
        if wrong:
            raise _C.InvalidArgument(
                f"apply_: expected `model` to hold the same parameters, got one without, or of "
                f"another shape: {', '.join(wrong)}."
            )
        for index, name in enumerate(self.names):
            self._pruner.apply_(index, weights[name])

    def report(self) -> list[_C.PruneReport]:
        """One row for each parameter under a rule: name, size, kept, sparsity, threshold.

        Raises:
            InvalidArgument: a pruned weight has come back (names every such parameter).
        """
        self._find_owners()
        self._pruner.check(self._live())
        return self._pruner.report()

    def finalize(self) -> None:
        """Let go of the model and the optimizer; the weights stay as they are."""
        self._gradient_hooks.remove()
        self._detach()
        self._is_finalized = True

    def _check_open(self, verb: str) -> None:
        if self._is_finalized:
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected {verb}() before finalize(), got it after."
            )

    def _follow(self) -> None:
        """Gradient hooks on what the parameters are now, while there are masks."""
        if self._pruner.is_pruned():
            self._gradient_hooks.follow(self._weights())
        else:
            self._gradient_hooks.remove()

    def _weights_only(self) -> list[tuple[torch.Tensor, list]]:
        return [(weight, []) for weight in self._weights()]

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._pruner.is_pruned():
            self._follow()
            self._pruner.mask_gradients(self._weights_only())

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._pruner.is_pruned():
            self._pruner.keep(self._weights_only())

    def _warn_of_unknown_state(self, live: list) -> None:
        """Say once which optimizer state a mask leaves alone because nobody knows what it is."""
        names = {name for _, state in live for name, _ in state}
        unknown = {n for n in names if _C.moment_of(n) == "other"} - _HARMLESS_STATE - self._warned
        if unknown:
            self._warned |= unknown
            warnings.warn(
                f"{type(self).__name__}: optimizer state {sorted(unknown)} is unknown and left as "
                "it is; if it is a momentum, pruned weights may be pushed until it decays.",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """Masks and counters, without weights: the model's own checkpoint holds those.

        Returns:
            ``{"masks": {name: uint8 [dim0, ceil(row / 8)]}, "history": JSON text}``, with the same
            keys and shapes from construction on (masks are all ones before pruning). Loads with
            ``torch.load(weights_only=True)``.
        """
        (is_pruned, thresholds, masks), history = self._state()
        history = {
            "kind": type(self).__name__,
            "is_pruned": is_pruned,
            "thresholds": dict(zip(self.names, thresholds, strict=True)),
            **history,
        }
        return {"masks": dict(masks), "history": json.dumps(history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``, before or after the model and the optimizer are loaded.

        Raises:
            InvalidArgument: it is no such state, or of another model or other rules (lists every
                difference). Then nothing has changed.
        """
        self._check_open("load_state_dict")
        kind = type(self).__name__
        try:
            masks = list(state["masks"].items())
            if not all(isinstance(mask, torch.Tensor) for _, mask in masks):
                raise TypeError("a mask that is no tensor")
            history = json.loads(state["history"])
            found = history["kind"]
            thresholds = history["thresholds"]
            pruner = (
                bool(history["is_pruned"]),
                [float(thresholds.get(name, 0)) for name in self.names],
                masks,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _C.InvalidArgument(
                f"{kind}.load_state_dict: expected a dict as {kind}.state_dict() returns it, "
                f"got {type(state).__name__} ({error!r})."
            ) from None
        if found != kind:
            raise _C.InvalidArgument(
                f"{kind}.load_state_dict: expected the state of a {kind}, got that of a {found}."
            )
        self._load_state(pruner, history)
        self._find_owners()
        self._follow()

    def _state(self) -> tuple[Any, dict[str, Any]]:
        """The C++ Pruner's state, and what else the history holds."""
        raise NotImplementedError

    def _load_state(self, pruner: Any, history: dict[str, Any]) -> None:
        raise NotImplementedError
