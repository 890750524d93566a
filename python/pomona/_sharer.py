"""Sharer: pomona.quantize has its public name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch

from . import _C
from ._shell import GradientHooks, Shell, resolve, unwrap_optimizers
from ._to_layers import find_replacements
from .rules import Rules, Share
from .schedules import Alternate

# Optimizers that mix the entries of a tensor: members of a cluster would not move as one.
_NOT_ELEMENT_WISE = {
    "LBFGS": "its direction comes from inner products over all weights",
    "Adafactor": "its second moment is factored over rows and columns",
    "Muon": "it orthogonalizes each matrix",
    "Shampoo": "it preconditions rows and columns",
    "SOAP": "it rotates each matrix into an eigenbasis",
    "SparseAdam": "it takes sparse gradients",
}


@dataclasses.dataclass(frozen=True)
class ShareReport:
    """One line of ``Sharer.report()``.

    Args:
        name: the parameter.
        size: its weights.
        kept: those that are not pruned.
        centroids: values of a codebook that the kept ones take; 0 before sharing.
        groups: codebooks; 0 before sharing.
        entropy: bits that an ideal coder takes for the code of a kept weight.
        squared_error: sum of (w - c)^2 when the codes were made.
    """

    name: str
    size: int
    kept: int
    centroids: int
    groups: int
    entropy: float
    squared_error: float


class Sharer(Shell):
    """Shares the weights of each layer under a rule and trains the centroids.

    The constructor does not touch the model. The first ``step()`` clusters each layer (a layer with
    zeros keeps them: code 0 is 0.0), writes the centroids into the weights and pools the
    optimizer's state; from then on every step of the optimizer moves the centroids. Use it beside
    ``Pruner`` as it is.

    Args:
        model: whose parameters the rules name; never wrapped.
        rules: ``{"fc*": 5, "conv*": 8}`` or ``{pattern: pomona.Share(bits=...)}``; see
            ``pomona.rules``.
        optimizer: a torch optimizer (or a wrapper, or a list) that steps these parameters; may come
            later by ``attach``.
        reduction: "mean" keeps the dense network's learning rate usable; "sum" is the thesis's
            equation to the letter, and wants a learning rate smaller by about the size of a
            cluster.
        alternate: ``pomona.schedules.Alternate``: when codes are made anew. None: they stay, unless
            ``reassign_()`` is called.

    Raises:
        InvalidArgument: bits outside 1..8, a rule that matches nothing or names an integer
            parameter, an ``alternate`` outside what it says, an optimizer that does not hold a
            parameter under a rule or that is not element-wise.

    Reference: thesis §4.2-4.4.

    >>> model = torch.nn.Linear(16, 4)
    >>> sharer = Sharer(model, {"*": 2}, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    >>> sharer.step()
    True
    >>> len(model.weight.unique())
    4
    """

    def __init__(
        self,
        model: torch.nn.Module,
        rules: Rules,
        *,
        optimizer: Any = None,
        reduction: Literal["mean", "sum"] = "mean",
        alternate: Alternate | None = None,
    ) -> None:
        """Find the parameters and attach the optimizer; the model is as it was."""
        super().__init__(model)
        if reduction not in ("mean", "sum"):
            raise _C.InvalidArgument(
                f'Sharer: expected `reduction` to be "mean" or "sum", got {reduction!r}.'
            )
        rows = [(name, shape, rule._row()) for name, shape, rule in resolve(model, rules, Share)]
        self._reduction = reduction
        self._core = _C.Sharer(rows, reduction == "sum", _row_of(alternate))
        self._gradients = GradientHooks(self._on_gradient)
        self._is_finalized = False
        self._is_free = False
        self._find_owners()
        if optimizer is not None:
            self.attach(optimizer)

    @property
    def is_shared(self) -> bool:
        """Whether ``step()`` has shared the weights (or a state that has was loaded)."""
        return self._core.is_shared()

    def attach(self, optimizer: Any) -> None:
        """Take over a new optimizer (or a list), after one is made, copied or replaced.

        Raises:
            InvalidArgument: it is no optimizer, is not element-wise, or does not hold a parameter
                that has a rule. Then nothing has changed.
        """
        self._check_open("attach")
        for inner in unwrap_optimizers(optimizer):
            for kind in type(inner).__mro__:
                if kind.__name__ in _NOT_ELEMENT_WISE:
                    raise _C.InvalidArgument(
                        f"Sharer: expected `optimizer` to be element-wise, got {kind.__name__}: "
                        f"{_NOT_ELEMENT_WISE[kind.__name__]}. Use SGD, Adam, AdamW, RMSprop, ..."
                    )
        super().attach(optimizer)
        for inner in self._optimizers:
            self._handles.append(inner.register_step_pre_hook(self._pool_after_closure))

    def step(self, importance: Mapping[str, torch.Tensor] | None = None) -> bool:
        """Share on the first call; on later ones check that no weight has left its codebook.

        Args:
            importance: how much each weight matters, by name (``pomona.fisher``): codebooks then
                minimise the sum of importance * (w - c)^2. Parameters without one weigh the same.

        Returns:
            Whether it shared.

        Raises:
            InvalidArgument: NaN or Inf in a weight, a layer of zeros only, an importance that does
                not fit, a weight that another sharer on the same optimizer has shared, or (later) a
                weight that has left its codebook; each named. Then the model is as it was.
        """
        self._check_open("step")
        self._find_owners()
        if not self.is_shared:
            self._check_alone()
        return self._core.assign(self._live(), self._importance(importance))

    def reassign_(self, importance: Mapping[str, torch.Tensor] | None = None) -> None:
        """Fit codebooks and codes anew to the weights as they are now, and write the centroids.

        For schemes that alternate: train freely under :meth:`free`, which ends in this.

        Raises:
            InvalidArgument: before ``step()``, and as ``step()``.
        """
        self._check_open("reassign_")
        if not self.is_shared:
            raise _C.InvalidArgument("reassign_: expected a shared model, got none. Call step().")
        self._find_owners()
        self._core.reassign(self._live(), self._importance(importance))

    @contextlib.contextmanager
    def free(self) -> Iterator[None]:
        """Within it, weights train one by one; at its end they are shared anew.

        Zeros are not kept either, unless a ``Pruner`` keeps them.

        >>> model = torch.nn.Linear(16, 4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> sharer = Sharer(model, {"*": 2}, optimizer=optimizer)
        >>> _ = sharer.step()
        >>> with sharer.free():
        ...     model(torch.randn(8, 16)).square().mean().backward()
        ...     optimizer.step()
        >>> len(model.weight.unique())
        4
        """
        self._check_open("free")
        self._is_free = True
        try:
            yield
        finally:
            self._is_free = False
        self.reassign_()

    def pool(self) -> None:
        """Pool the gradients now, before ``clip_grad_norm_``; else the optimizer's step does it.

        A gradient is pooled once in a step, however often this is called. Call it after the last
        ``backward()``, and after ``GradScaler.unscale_``.
        """
        weights = self._weights()
        self._gradients.follow(weights)  # to notice that a backward() follows without a step
        if not self._is_free:
            self._core.pool(list(range(len(weights))), weights)

    def report(self) -> list[ShareReport]:
        """One line for each parameter under a rule.

        Raises:
            InvalidArgument: a shared weight has left its codebook.
        """
        self._find_owners()
        self._core.check(self._live())
        return [ShareReport(*line) for line in self._core.report()]

    def codebooks(self) -> dict[str, torch.Tensor]:
        """The centroids as the weights hold them now: ``weight == codebook[codes]``.

        Code 0 is 0.0 in a pruned layer.

        Returns:
            name -> ``[k]`` of the weight's dtype and device, or ``[groups, k]`` where the rule has
            a granularity (entries that a group does not use are 0); empty before ``step()``.
        """
        pairs = zip(self.names, self._weights(), strict=True)
        return {name: self._core.codebook(i, w) for i, (name, w) in enumerate(pairs)}

    def codes(self) -> dict[str, torch.Tensor]:
        """name -> codes, uint8, of the weight's shape, CPU. All 0 before ``step()``."""
        return {name: self._core.codes(i).clone() for i, name in enumerate(self.names)}

    def state_dict(self) -> dict[str, Any]:
        """The codes and what else a resumed run needs. The centroids are in the model's own state.

        Returns:
            ``{"codes": {name: uint8 of the weight's shape}, "history": JSON}``, of the same keys
            and shapes from construction on.
        """
        is_shared, is_sum, entries = self._core.state()
        parameters = {
            name: {
                "k": k,
                "group": group,
                "has_zero": has_zero,
                "squared_error": error,
                "steps": steps,
            }
            for name, _, k, group, has_zero, error, steps in entries
        }
        history = {
            "is_shared": is_shared,
            "reduction": "sum" if is_sum else "mean",
            "parameters": parameters,
        }
        codes = {name: codes for name, codes, *_ in entries}
        return {"codes": codes, "history": json.dumps(history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict()``; load the model and the optimizer too, in any order.

        Raises:
            InvalidArgument: a state of another model (every name and shape that differs is listed),
                of other rules or another reduction, or damaged. Then nothing has changed.
        """
        try:
            history = json.loads(state["history"])
            rows = [
                (name, codes, *_entry(history["parameters"].get(name, {})))
                for name, codes in state["codes"].items()
            ]
            snapshot = (bool(history["is_shared"]), history["reduction"] == "sum", rows)
            self._core.load_state(snapshot)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise _C.InvalidArgument(
                f"Sharer.load_state_dict: expected `state` as state_dict() gives it, got {error!r}."
            ) from None

    def finalize(self) -> None:
        """Let go of the optimizer and forget the codes.

        The weights stay as they are, but for rules with ``entries``: training has moved their
        centroids, which are rounded once more; and in a free stretch of ``alternate``, which ends
        here.
        """
        if not self._is_finalized and self.is_shared:
            self._find_owners()
            if loose := [i for i in range(len(self.names)) if self._core.is_loose(i)]:
                self._reassign(loose)
            self._core.round(self._live())
        self._let_go()

    def _let_go(self) -> None:
        self._is_finalized = True
        self._detach()
        self._gradients.remove()
        self._core.release()

    def to_layers_(self, model: torch.nn.Module) -> list[str]:
        """Replace nn.Linear, nn.Conv2d and nn.Embedding under the rules by ``pomona.nn.Shared...``.

        Then there are k floats to train, reduce and store. Only modules of exactly these types
        without hooks are replaced (and no Embedding with ``max_norm``, ``scale_grad_by_freq`` or
        ``sparse``), and none that is tied to a module that stays; other shared parameters stay as
        they are. Tied layers, such as an Embedding and the Linear of its weight, share one
        codebook and one buffer of codes; a ``bias`` is the same Parameter as before. The replaced
        parameters are gone: make a new optimizer over ``model.parameters()``. When ``model`` is the
        sharer's own, the sharer lets go of it (make a new one for what is left; sharing again keeps
        the codes). ``pomona.nn.to_dense_`` is the way back.

        Args:
            model: the sharer's own or a copy of it.

        Returns:
            The names of the replaced modules.

        Raises:
            InvalidArgument: before ``step()``, a layer of several codebooks (``granularity``), or a
                weight that is not in its codebook. Then nothing is replaced.
        """
        self._check_open("to_layers_")
        if not self.is_shared:
            raise _C.InvalidArgument("to_layers_: expected a shared model, got none. Call step().")
        replacements = find_replacements(self, model)
        names = []
        for name, parent, attribute, module in replacements:
            setattr(parent, attribute, module)
            names.append(name)
        if model is self._model and names:
            if self._optimizers:
                warnings.warn(
                    "to_layers_: the attached optimizer holds parameters that are no longer in the "
                    "model; make a new one over model.parameters().",
                    stacklevel=2,
                )
            self._let_go()
        return names

    def _check_open(self, verb: str) -> None:
        if self._is_finalized:
            raise _C.InvalidArgument(f"Sharer: expected {verb}() before finalize(), got it after.")

    def _check_alone(self) -> None:
        """Refuse weights that another sharer moves: each would undo what the other does."""
        for optimizer in self._optimizers:
            for hook in optimizer._optimizer_step_pre_hooks.values():
                other = getattr(hook, "__self__", None)
                if not isinstance(other, Sharer) or other is self or not other.is_shared:
                    continue
                theirs = {id(weight) for weight in other._weights()}
                pairs = zip(self.names, self._weights(), strict=True)
                if twice := [name for name, weight in pairs if id(weight) in theirs]:
                    raise _C.InvalidArgument(
                        "Sharer: expected weights that no sharer on this optimizer has shared, got "
                        f"{', '.join(twice)}. Use that one, or finalize() it first."
                    )

    # What hooks call

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._is_free:
            self._core.pool(*self._held_by(optimizer))

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._is_free:
            return
        held, weights = self._held_by(optimizer)
        self._core.keep(held, weights)
        if due := set(self._core.due()).intersection(held):
            self._reassign(sorted(due))

    def _reassign(self, which: list[int]) -> None:
        rows = self._live()
        self._core.reassign_some(which, [rows[i] for i in which])

    def _pool_after_closure(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A closure makes its gradients inside the step: pool them as it returns."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def closure_and_pool() -> Any:
            loss = closure()
            for index in self._held_by(optimizer)[0]:
                self._core.expect_gradient(index)
            self._before_step(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], closure_and_pool, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_and_pool}

    def _on_gradient(self, index: int, gradient: torch.Tensor) -> None:
        self._core.expect_gradient(index)

    def _held_by(self, optimizer: torch.optim.Optimizer) -> tuple[list[int], list[torch.Tensor]]:
        """Each optimizer of a list pools and keeps what it steps, and nothing else."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        weights = self._weights()
        which = [i for i, weight in enumerate(weights) if id(weight) in held]
        return which, [weights[i] for i in which]

    def _importance(self, given: Mapping[str, torch.Tensor] | None) -> list[torch.Tensor | None]:
        if given is None:
            return []
        if unknown := sorted(set(given) - set(self.names)):
            raise _C.InvalidArgument(
                f"Sharer: expected `importance` of parameters under a rule, got {unknown}. "
                f"Under a rule are {self.names}."
            )
        return [given.get(name) for name in self.names]


def _row_of(alternate: Any) -> tuple[int, int, int]:
    """What the core takes; it checks the numbers."""
    if alternate is None:
        return (0, 0, 0)
    if not isinstance(alternate, Alternate):
        raise _C.InvalidArgument(
            "Sharer: expected `alternate` to be a pomona.schedules.Alternate, "
            f"got {type(alternate).__name__}."
        )
    row = alternate._row()
    if not all(type(number) is int for number in row):
        raise _C.InvalidArgument(f"Sharer: expected `alternate` of whole numbers, got {alternate}.")
    return row


def _entry(fields: Mapping[str, Any]) -> tuple[int, int, bool, float, int]:
    return (
        int(fields.get("k", 0)),
        int(fields.get("group", 0)),
        bool(fields.get("has_zero", False)),
        float(fields.get("squared_error", 0.0)),
        int(fields.get("steps", 0)),
    )
