"""What only Python can do for Pruner, DSD and Sharer: find the live tensors, hook the optimizer. No logic of pruning here.

The C++ objects hold names, masks, codes and counters, never a tensor of the model; each call hands them the tensors as they are
now. So deepcopy, pickle, ``.to()``, ``load_state_dict(assign=True)`` and torch.compile of the model work as before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import _C
from .rules import Rules, normalize

# What wrappers put into names: DistributedDataParallel, torch.compile, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_checkpoint_wrapped_module)\.")

LiveRow = tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]


def clean_name(name: str) -> str:
    """The name without the prefixes of wrappers: ``_orig_mod.fc.weight`` is ``fc.weight``."""
    return _WRAPPERS.sub("", name)


def resolve(model: torch.nn.Module, rules: Rules, kind: type) -> list[tuple[str, list[int], Any]]:
    """(clean name, shape, rule) of each parameter that has a rule; tied parameters once.

    Raises:
        InvalidArgument: a rule that matches nothing, or names an integer parameter.
    """
    normal = normalize(rules, kind)
    rows = [
        (clean_name(name), list(p.shape), p.is_floating_point())
        for name, p in model.named_parameters()
    ]
    decided_by = _C.match_rules(rows, list(normal))
    values = list(normal.values())
    return [
        (name, shape, values[index])
        for (name, shape, _), index in zip(rows, decided_by, strict=True)
        if index >= 0 and values[index] is not None
    ]


def unwrap_optimizers(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The objects that own the hooks: a list stays a list, wrappers (Accelerate, ...) are opened.

    Raises:
        InvalidArgument: there is no torch.optim.Optimizer in it.
    """
    if optimizer is None:
        return []
    if isinstance(optimizer, (list, tuple)):
        return [inner for item in optimizer for inner in unwrap_optimizers(item)]
    seen = optimizer
    for _ in range(8):
        inner = getattr(seen, "optimizer", None) or getattr(seen, "optim", None)
        if not isinstance(inner, torch.optim.Optimizer):
            break
        seen = inner
    if not isinstance(seen, torch.optim.Optimizer):
        raise _C.InvalidArgument(
            f"attach: expected `optimizer` to be a torch.optim.Optimizer or a list of them, got {type(optimizer).__name__}."
        )
    return [seen]


class Shell:
    """Finds the tensors under the rules and hooks the optimizer's step.

    Subclasses set ``_core`` (the C++ object) before calling ``_start`` and override ``_before_step`` and ``_after_step``.
    """

    _core: Any

    def __init__(self, model: torch.nn.Module) -> None:
        if not isinstance(model, torch.nn.Module):
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected `model` to be a torch.nn.Module, got {type(model).__name__}."
            )
        self._model = model
        self._optimizers: list[torch.optim.Optimizer] = []
        self._handles: list[Any] = []  # of optimizer hooks
        self._owners: list[tuple[torch.nn.Module, str]] = []

    @property
    def names(self) -> list[str]:
        """The parameters under a rule, in the model's order."""
        return self._core.names()

    def attach(self, optimizer: Any) -> None:
        """Take over a new optimizer (or a list), after one is made, copied or replaced.

        Raises:
            InvalidArgument: it is no optimizer, or does not hold a parameter that has a rule. Then nothing has changed.
        """
        optimizers = unwrap_optimizers(optimizer)
        held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        parameters = zip(self.names, self._weights(), strict=True)
        missing = [name for name, p in parameters if id(p) not in held]
        if optimizers and missing:
            raise _C.InvalidArgument(
                f"attach: expected `optimizer` to hold every parameter under a rule, got none of: {', '.join(missing)}."
            )
        self._detach()
        self._optimizers = optimizers
        for o in optimizers:
            self._handles.append(o.register_step_pre_hook(lambda o, *_: self._before_step(o)))
            self._handles.append(o.register_step_post_hook(lambda o, *_: self._after_step(o)))

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._optimizers = []

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What to do before an optimizer's step."""

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What to do after it."""

    def _find_owners(self) -> None:
        """Look the parameters up by name again: modules may have been replaced."""
        modules = {clean_name(f"{name}."): module for name, module in self._model.named_modules()}
        owners = []
        for name in self.names:
            path, _, attribute = name.rpartition(".")
            module = modules.get(f"{path}." if path else ".", modules.get(""))
            if module is None or getattr(module, attribute, None) is None:
                raise _C.InvalidArgument(
                    f"{type(self).__name__}: expected the model to hold `{name}`, got a model without it."
                )
            owners.append((module, attribute))
        self._owners = owners

    def _weights(self) -> list[torch.Tensor]:
        if not self._owners:
            self._find_owners()
        return [getattr(module, attribute) for module, attribute in self._owners]

    def _live(self) -> list[LiveRow]:
        """The parameters as they are now, each with its optimizer's floating-point state of the same shape."""
        rows = []
        for weight in self._weights():
            state: dict[str, Any] = {}
            for optimizer in self._optimizers:
                state = state or optimizer.state.get(weight, {})
            entries = [
                (name, value)
                for name, value in state.items()
                if isinstance(value, torch.Tensor)
                and value.shape == weight.shape
                and value.is_floating_point()
            ]
            rows.append((weight, entries))
        return rows


class GradientHooks:
    """Post-accumulate-gradient hooks on parameters, kept on the objects that are the parameters now."""

    def __init__(self, on_gradient: Callable[[int, torch.Tensor], None]) -> None:
        self._on_gradient = on_gradient
        self._hooked: list[tuple[torch.Tensor, Any]] = []

    def follow(self, weights: Sequence[torch.Tensor]) -> None:
        """Hook these parameters and no others; cheap when nothing has changed."""
        if len(weights) == len(self._hooked) and all(
            weight is hooked for weight, (hooked, _) in zip(weights, self._hooked, strict=True)
        ):
            return
        self.remove()
        for index, weight in enumerate(weights):
            if weight.requires_grad:
                handle = weight.register_post_accumulate_grad_hook(self._hook(index))
            else:
                handle = None  # frozen: no gradient will come
            self._hooked.append((weight, handle))

    def remove(self) -> None:
        """Let go of every parameter."""
        for _, handle in self._hooked:
            if handle is not None:
                handle.remove()
        self._hooked = []

    def _hook(self, index: int) -> Callable[[torch.Tensor], None]:
        def mask_gradient(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                with torch.no_grad():
                    self._on_gradient(index, parameter.grad)

        return mask_gradient
