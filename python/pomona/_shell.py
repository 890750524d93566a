"""What only Python can do for Pruner, DSD and Sharer: find the live tensors, hook the optimizer.

No logic of pruning here. The C++ objects hold names, masks, codes and counters, never a tensor of
the model; each call hands them the tensors as they are now. So deepcopy, pickle, ``.to()``,
``load_state_dict(assign=True)`` and torch.compile of the model work as before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from . import _C
from ._ranks import local, reshard
from .rules import Rules, normalize

# What wrappers put into names: DistributedDataParallel, torch.compile, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_checkpoint_wrapped_module)\.")

LiveRow = tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]


def clean_name(name: str) -> str:
    """The name without the prefixes of wrappers: ``_orig_mod.fc.weight`` is ``fc.weight``."""
    return _WRAPPERS.sub("", name)


def named_owners(model: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, str]]:
    """(module, attribute) of each parameter by clean name; tied parameters once, under the first.

    Where two clean names are one (a module that is itself called ``module``), all names stay whole.
    """
    owners: dict[str, tuple[torch.nn.Module, str]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                owners[f"{path}.{attribute}" if path else attribute] = (module, attribute)
    clean = {clean_name(name): owner for name, owner in owners.items()}
    return clean if len(clean) == len(owners) else owners


def resolve(model: torch.nn.Module, rules: Rules, kind: type) -> list[tuple[str, list[int], Any]]:
    """(clean name, shape, rule) of each parameter that has a rule; tied parameters once.

    Raises:
        InvalidArgument: a rule that matches nothing, or names an integer parameter.
    """
    normal = normalize(rules, kind)
    rows = []
    for name, (module, attribute) in named_owners(model).items():
        parameter = getattr(module, attribute)
        rows.append((name, list(parameter.shape), parameter.is_floating_point()))
    decided_by = _C.match_rules(rows, list(normal))
    values = list(normal.values())
    return [
        (name, shape, values[index])
        for (name, shape, _), index in zip(rows, decided_by, strict=True)
        if index >= 0 and values[index] is not None
    ]


def _unwrap(optimizer: Any) -> Iterator[torch.optim.Optimizer]:
    """The optimizers inside one another, outermost first; none when there is none."""
    for _ in range(8):
        if isinstance(optimizer, torch.optim.Optimizer):
            yield optimizer
        inner = getattr(optimizer, "optimizer", None) or getattr(optimizer, "optim", None)
        if inner is None or inner is optimizer:
            return
        optimizer = inner


def _listed(optimizer: Any) -> list[Any]:
    if isinstance(optimizer, (list, tuple)):
        return [item for inner in optimizer for item in _listed(inner)]
    return [] if optimizer is None else [optimizer]


def unwrap_optimizers(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The objects that own the hooks: a list stays a list, wrappers (Accelerate, ...) are opened.

    Raises:
        InvalidArgument: there is no torch.optim.Optimizer in it.
    """
    owners = []
    for item in _listed(optimizer):
        chain = list(_unwrap(item))
        if not chain:
            raise _C.InvalidArgument(
                "attach: expected `optimizer` to be a torch.optim.Optimizer or a list of them, "
                f"got {type(item).__name__}."
            )
        owners.append(chain[-1])
    return owners


class Shell:
    """Finds the tensors under the rules and hooks the optimizer's step.

    Subclasses set ``_core`` (the C++ object) and override ``_before_step`` and ``_after_step``.
    """

    _core: Any

    def __init__(self, model: torch.nn.Module) -> None:
        if not isinstance(model, torch.nn.Module):
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected `model` to be a torch.nn.Module, "
                f"got {type(model).__name__}."
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
            InvalidArgument: it is no optimizer, or does not hold a parameter that has a rule. Then
                nothing has changed.
        """
        optimizers = unwrap_optimizers(optimizer)
        self._find_owners()
        if optimizers:  # None lets go of the last one
            self._check_held(optimizer)
        self._detach()
        self._optimizers = optimizers
        for o in optimizers:
            self._handles.append(o.register_step_pre_hook(lambda o, *_: self._before_step(o)))
            self._handles.append(o.register_step_post_hook(lambda o, *_: self._after_step(o)))

    def _check_held(self, optimizer: Any) -> None:
        # A sharding wrapper holds every parameter, its inner optimizer only this rank's.
        held = {
            id(p)
            for item in _listed(optimizer)
            for o in _unwrap(item)
            for group in o.param_groups
            for p in group["params"]
        }
        parameters = zip(self.names, self._weights(), strict=True)
        missing = [name for name, p in parameters if p.requires_grad and id(p) not in held]
        if missing:
            raise _C.InvalidArgument(
                "attach: expected `optimizer` to hold every parameter under a rule, "
                f"got one without: {', '.join(missing)}."
            )

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
        reshard(self._model)
        owners = named_owners(self._model)
        missing = [name for name in self.names if name not in owners]
        if missing:
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected the model to hold every parameter under a rule, "
                f"got one without: {', '.join(missing)}."
            )
        self._owners = [owners[name] for name in self.names]

    def _weights(self) -> list[torch.Tensor]:
        if len(self._owners) != len(self.names):
            self._find_owners()
        return [getattr(module, attribute) for module, attribute in self._owners]

    def _live(self) -> list[LiveRow]:
        """The parameters as they are now, each with its optimizer's state of the same shape.

        Of a DTensor this rank's part.
        """
        rows = []
        for weight in self._weights():
            state: dict[str, Any] = {}
            for optimizer in self._optimizers:
                state = state or optimizer.state.get(weight, {})
            entries = [
                (name, local(value))
                for name, value in state.items()
                if isinstance(value, torch.Tensor)
                and value.shape == weight.shape
                and value.is_floating_point()
            ]
            rows.append((local(weight), entries))
        return rows

    def _held(self, optimizer: torch.optim.Optimizer) -> list[int] | None:
        """Which parameters this optimizer holds; [] stands for all, None for none."""
        if len(self._optimizers) == 1:
            return []
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [i for i, weight in enumerate(self._weights()) if id(weight) in held] or None


class GradientHooks:
    """Post-accumulate-gradient hooks, kept on the objects that are the parameters now."""

    def __init__(self, on_gradient: Callable[[int, torch.Tensor], None]) -> None:
        self._on_gradient = on_gradient
        self._hooked: list[tuple[torch.Tensor, Any]] = []

    def follow(self, weights: Sequence[torch.Tensor]) -> None:
        """Hook these parameters and no others; cheap when nothing has changed."""
        if len(weights) == len(self._hooked) and all(
            weight is hooked and weight.requires_grad == (handle is not None)
            for weight, (hooked, handle) in zip(weights, self._hooked, strict=True)
        ):
            return
        self.remove()
        for index, weight in enumerate(weights):
            handle = None  # frozen: no gradient will come
            if weight.requires_grad:
                handle = weight.register_post_accumulate_grad_hook(self._hook(index))
                _run_first(weight, handle)
            self._hooked.append((weight, handle))

    def remove(self) -> None:
        """Let go of every parameter."""
        for _, handle in self._hooked:
            if handle is not None:
                handle.remove()
        self._hooked = []

    def _hook(self, index: int) -> Callable[[torch.Tensor], None]:
        def on_gradient(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                with torch.no_grad():
                    self._on_gradient(index, local(parameter.grad))

        return on_gradient


def _run_first(weight: torch.Tensor, handle: Any) -> None:
    """Before the hooks that are there already: one of them may be an optimizer's step."""
    hooks = getattr(weight, "_post_accumulate_grad_hooks", None)
    if hooks and handle.id in hooks:
        hooks.move_to_end(handle.id, last=False)
