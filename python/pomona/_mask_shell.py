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
from ._ranks import is_distributed, like, local, ranks_of
from ._shell import GradientHooks, Shell, named_owners

logger = logging.getLogger("pomona")

_PARTS = ("masks", "scores", "shadows")

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
        return {
            name: like(self._pruner.keep_mask(i, local(weight)), weight)
            for i, (name, weight) in enumerate(weights)
        }

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
            self._pruner.apply_(index, local(weights[name]))

    def accumulate(self) -> None:
        """Add the gradients that are there now to the scores of Taylor and OBD.

        An attached optimizer's step does it by itself; this is for gradients without a step.
        """
        self._check_open("accumulate")
        self._pruner.accumulate(self._live())

    def _narrow(self, name: str, dim: int, indices: list[int]) -> None:
        """The parameter has lost what is not listed along ``dim``: its mask follows."""
        self._pruner.narrow(self.names.index(name), dim, indices)

    def report(self) -> list[_C.PruneReport]:
        """One row for each parameter under a rule: name, size, kept, sparsity, threshold, bytes.

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
        return [(local(weight), []) for weight in self._weights()]

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        held = self._held(optimizer)
        if held is None or _has_overflowed(optimizer):
            return
        if self._pruner.is_pruned():
            self._follow()
        scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer unscales by itself
        self._pruner.before_step(self._weights_only(), 1.0 if scale is None else float(scale), held)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        held = self._held(optimizer)
        if held is not None and self._pruner.is_pruned():
            self._pruner.keep(self._weights_only(), held)

    def _zero_wrapped_moments(self) -> None:
        """First moments in wrapper subclasses (8-bit states): through what they decode to."""
        for index, weight in enumerate(self._weights()):
            for optimizer in self._optimizers:
                for name, value in optimizer.state.get(weight, {}).items():
                    if _C.moment_of(name) == "first" and _is_encoded(value):
                        keep = self._pruner.keep_mask(index, local(weight))
                        plain = value.dequantize()
                        value.copy_(torch.where(keep, plain, torch.zeros_like(plain)))

    def _warn_of_unknown_state(self, live: list) -> None:
        """Say once which optimizer state a mask leaves alone because nobody knows what it is."""
        names = {name for _, state in live for name, _ in state}
        left = {n for n in names if _C.moment_of(n) == "other"} | self._names_of_codes()
        unknown = left - _HARMLESS_STATE - self._warned
        if unknown:
            self._warned |= unknown
            warnings.warn(
                f"{type(self).__name__}: optimizer state {sorted(unknown)} is unknown and left as "
                "it is; if it is a momentum, pruned weights may be pushed until it decays.",
                stacklevel=3,
            )

    def _names_of_codes(self) -> set[str]:
        """State of integers, one for each weight: codes (bitsandbytes), which are never written."""
        return {
            name
            for weight in self._weights()
            for optimizer in self._optimizers
            for name, value in optimizer.state.get(weight, {}).items()
            if isinstance(value, torch.Tensor)
            and value.shape == weight.shape
            and not value.is_floating_point()
        }

    def state_dict(self) -> dict[str, Any]:
        """Masks and counters, without weights: the model's own checkpoint holds those.

        Returns:
            ``{"masks": {name: uint8 [dim0, ceil(row / 8)]}, "history": JSON text}``, and where the
            rules need them ``"scores"`` (accumulated gradients) and ``"shadows"`` (weights that may
            return); the same keys and shapes from construction on (masks are all ones before
            pruning). Loads with ``torch.load(weights_only=True)``. On FSDP2 the tensors are
            DTensors, for ``torch.distributed.checkpoint``.
        """
        self._find_owners()
        whole = dict(zip(self.names, self._weights(), strict=True))
        (is_pruned, steps, thresholds, accumulated, *parts), history = self._state()
        history = {
            "kind": type(self).__name__,
            "is_pruned": is_pruned,
            "steps": steps,
            "thresholds": dict(zip(self.names, thresholds, strict=True)),
            "accumulated": dict(zip(self.names, accumulated, strict=True)),
            **history,
        }
        state: dict[str, Any] = {
            part: {name: like(tensor, whole[name]) for name, tensor in tensors}
            for part, tensors in zip(_PARTS, parts, strict=True)
            if tensors or part == "masks"
        }
        return {**state, "history": json.dumps(history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``, before or after the model and the optimizer are loaded.

        Raises:
            InvalidArgument: it is no such state, or of another model or other rules (lists every
                difference). Then nothing has changed.
        """
        self._check_open("load_state_dict")
        kind = type(self).__name__
        try:
            parts = [list(dict(state.get(part, {})).items()) for part in _PARTS]
            if not all(isinstance(tensor, torch.Tensor) for part in parts for _, tensor in part):
                raise TypeError("a mask that is no tensor")
            parts = [[(name, local(tensor)) for name, tensor in part] for part in parts]
            state["masks"]
            history = json.loads(state["history"])
            found = history["kind"]
            thresholds = history["thresholds"]
            accumulated = history["accumulated"]
            pruner = (
                bool(history["is_pruned"]),
                int(history["steps"]),
                [float(thresholds.get(name, 0)) for name in self.names],
                [int(accumulated.get(name, 0)) for name in self.names],
                *parts,
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


def _is_encoded(value: Any) -> bool:
    """Whether it is a tensor of a subclass that keeps other numbers than it shows."""
    is_subclass = isinstance(value, torch.Tensor) and type(value) not in (
        torch.Tensor,
        torch.nn.Parameter,
    )
    return is_subclass and not is_distributed(value) and hasattr(type(value), "dequantize")


def _has_overflowed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler has told a fused optimizer to skip this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def rows_and_ranks(resolved: list[tuple[str, list[int], Any]], owners: Any, group: Any) -> Any:
    """(rows, ranks) as the C++ core takes them: shapes are those of this rank's rows."""
    weights = [getattr(*owners[name]) for name, _, _ in resolved]
    rows = [
        (name, list(local(weight).shape), rule._row())
        for (name, _, rule), weight in zip(resolved, weights, strict=True)
    ]
    return rows, ranks_of([name for name, _, _ in resolved], weights, group)
