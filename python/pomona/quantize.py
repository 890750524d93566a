"""Weight sharing with trained centroids (thesis §4.2-4.4).

``Sharer`` gives every weight of a layer one of ``2**bits`` values and trains those values, while
the model stays as it is: before the optimizer's step each gradient becomes its cluster's mean or
sum, after it each cluster is one value again. With any element-wise optimizer this equals training
a codebook ``Parameter``. ``lookup`` and ``centroid_grad`` are the operators that it, and
``pomona.nn.SharedLinear``, are made of.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from . import _C
from ._shell import GradientHooks, Shell, named_owners, resolve, unwrap_optimizers
from .nn import SharedLinear
from .rules import Rules, Share

__all__ = ["ShareReport", "Sharer", "centroid_grad", "fit_codebook", "lookup"]

# Optimizers that mix the entries of a tensor: members of a cluster would not move as one.
_NOT_ELEMENT_WISE = {
    "LBFGS": "its direction comes from inner products over all weights",
    "Adafactor": "its second moment is factored over rows and columns",
    "Muon": "it orthogonalizes each matrix",
    "Shampoo": "it preconditions rows and columns",
    "SOAP": "it rotates each matrix into an eigenbasis",
    "SparseAdam": "it takes sparse gradients",
}


def lookup(
    codebook: torch.Tensor,
    codes: torch.Tensor,
    shape: Sequence[int],
    *,
    bits: int = 8,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """``weight[i] = codebook[codes[i]]``; differentiable in the codebook (thesis §4.2).

    Args:
        codebook: ``[k]``, floating-point, k at most ``2**bits``.
        codes: uint8, packed codes of ``bits`` bits, low bits first, row-major.
        shape: of the weight.
        bits: 1, 2, 4 or 8.
        dtype: of the weight; the codebook's when None.

    Returns:
        The weight ``shape``; NaN where a code is outside the codebook.

    Raises:
        ValueError: a size or ``bits`` does not fit.
        TypeError: a dtype or a device does not fit.

    >>> lookup(torch.tensor([0.0, 1.5]), torch.tensor([0b0110], dtype=torch.uint8), (2, 2), bits=1)
    tensor([[0.0000, 1.5000],
            [1.5000, 0.0000]])
    """
    return torch.ops.pomona.lookup(codebook, codes, shape, bits=bits, dtype=dtype)


def centroid_grad(
    grad: torch.Tensor, codes: torch.Tensor, k: int, *, bits: int = 8
) -> torch.Tensor:
    """The sum of ``grad`` over each cluster (thesis eq. 4.3).

    ``dL/dC_j = sum of dL/dW_i over codes[i] = j``.

    Args:
        grad: any shape, floating-point.
        codes: uint8, the packed codes of its elements, row-major.
        k: entries of the codebook, at most ``2**bits``.
        bits: 1, 2, 4 or 8.

    Returns:
        ``[k]`` float32 (float64 for a float64 ``grad``); codes from k on are dropped.
        Differentiable in ``grad``.

    Raises:
        ValueError: a size, ``k`` or ``bits`` does not fit.
        TypeError: a dtype or a device does not fit.

    >>> centroid_grad(torch.ones(3), torch.tensor([1, 0, 1], dtype=torch.uint8), 2)
    tensor([1., 2.])
    """
    return torch.ops.pomona.centroid_grad(grad, codes, k, bits=bits)


def fit_codebook(tensor: torch.Tensor, k: int) -> torch.Tensor:
    """At most k centroids: Lloyd's k-means from the thesis's linear initialization (§4.3).

    Args:
        tensor: floating-point, any shape and device.
        k: 1 to 256.

    Returns:
        float32, CPU, ascending; the distinct values themselves when there are at most k.

    Raises:
        InvalidArgument: k outside 1..256, no values, NaN or Inf, or not a floating-point tensor.

    >>> fit_codebook(torch.tensor([0.0, 0.2, 0.9, 1.1]), 2)
    tensor([0.1000, 1.0000])
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise _C.InvalidArgument(
            f"fit_codebook: expected `tensor` to be a floating-point tensor, got {kind}."
        )
    return _C.fit_codebook(tensor.detach().to("cpu", torch.float32).contiguous(), k)


@dataclasses.dataclass(frozen=True)
class ShareReport:
    """One line of ``Sharer.report()``.

    Args:
        name: the parameter.
        size: its weights.
        kept: those that are not pruned.
        centroids: values that the kept ones take; 0 before sharing.
        squared_error: sum of (w - c)^2 when the codes were made.
    """

    name: str
    size: int
    kept: int
    centroids: int
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

    Raises:
        InvalidArgument: bits outside 1..8, a rule that matches nothing or names an integer
            parameter, an optimizer that does not hold a parameter under a rule or that is not
            element-wise.

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
    ) -> None:
        """Find the parameters and attach the optimizer; the model is as it was."""
        super().__init__(model)
        if reduction not in ("mean", "sum"):
            raise _C.InvalidArgument(
                f'Sharer: expected `reduction` to be "mean" or "sum", got {reduction!r}.'
            )
        rows = [(name, shape, rule.bits) for name, shape, rule in resolve(model, rules, Share)]
        self._reduction = reduction
        self._core = _C.Sharer(rows, reduction == "sum")
        self._gradients = GradientHooks(self._on_gradient)
        self._is_finalized = False
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

    def step(self) -> bool:
        """Share on the first call; on later ones check that no weight has left its codebook.

        Returns:
            Whether it shared.

        Raises:
            InvalidArgument: NaN or Inf in a weight, a layer of zeros only, or (later) a weight that
                has left its codebook; each named. Then the model is as it was.
        """
        self._check_open("step")
        self._find_owners()
        return self._core.assign(self._live())

    def pool(self) -> None:
        """Pool the gradients now, before ``clip_grad_norm_``; else the optimizer's step does it.

        A gradient is pooled once in a step, however often this is called. Call it after the last
        ``backward()``, and after ``GradScaler.unscale_``.
        """
        weights = self._weights()
        self._gradients.follow(weights)  # to notice that a backward() follows without a step
        for index, weight in enumerate(weights):
            self._core.pool(index, weight)

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
            name -> ``[k]`` of the weight's dtype and device; empty tensors before ``step()``.
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
            name: {"k": k, "has_zero": has_zero, "squared_error": error}
            for name, _, k, has_zero, error in entries
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
        """Let go of the optimizer and forget the codes; the weights stay as they are."""
        self._is_finalized = True
        self._detach()
        self._gradients.remove()
        self._core.release()

    def to_layers_(self, model: torch.nn.Module) -> list[str]:
        """Replace the ``nn.Linear`` layers under the rules by ``SharedLinear``.

        Then there are k floats to train, reduce and store. Only modules of exactly that type
        without hooks are replaced, and none that is tied to another kind of layer; other shared
        parameters stay as they are. The replaced parameters are
        gone: make a new optimizer over ``model.parameters()``. When ``model`` is the sharer's own,
        the sharer lets go of it (make a new one for what is left; sharing again keeps the codes).

        Args:
            model: the sharer's own or a copy of it.

        Returns:
            The names of the replaced modules.

        Raises:
            InvalidArgument: before ``step()``, or a weight is not in its codebook. Then nothing is
                replaced.
        """
        self._check_open("to_layers_")
        if not self.is_shared:
            raise _C.InvalidArgument("to_layers_: expected a shared model, got none. Call step().")
        replacements = self._replacements(model)
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
            self.finalize()
        return names

    def _check_open(self, verb: str) -> None:
        if self._is_finalized:
            raise _C.InvalidArgument(f"Sharer: expected {verb}() before finalize(), got it after.")

    # What hooks call

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        for index, weight in self._held_by(optimizer):
            self._core.pool(index, weight)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        for index, weight in self._held_by(optimizer):
            self._core.keep(index, weight)

    def _pool_after_closure(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A closure makes its gradients inside the step: pool them as it returns."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def closure_and_pool() -> Any:
            loss = closure()
            for index, weight in self._held_by(optimizer):
                self._core.expect_gradient(index)
                self._core.pool(index, weight)
            return loss

        if len(args) > 1:
            return (args[0], closure_and_pool, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_and_pool}

    def _on_gradient(self, index: int, gradient: torch.Tensor) -> None:
        self._core.expect_gradient(index)

    def _held_by(self, optimizer: torch.optim.Optimizer) -> list[tuple[int, torch.Tensor]]:
        """Each optimizer of a list pools and keeps what it steps, and nothing else."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [(i, w) for i, w in enumerate(self._weights()) if id(w) in held]

    def _replacements(
        self, model: torch.nn.Module
    ) -> list[tuple[str, torch.nn.Module, str, SharedLinear]]:
        """(name, parent, attribute, new layer); tied layers share their codebook."""
        index_of = {name: i for i, name in enumerate(self.names)}
        index_of_weight = {
            id(getattr(*owner)): index_of[name]
            for name, owner in named_owners(model).items()
            if name in index_of
        }
        modules = dict(model.named_modules(remove_duplicate=False))
        for module in modules.values():  # a weight tied to another kind of layer stays
            if not _is_replaceable(module):
                for parameter in module.parameters(recurse=False):
                    index_of_weight.pop(id(parameter), None)
        made: dict[int, SharedLinear] = {}
        first_of: dict[int, SharedLinear] = {}
        rows = []
        for name, module in modules.items():
            if not _is_replaceable(module) or id(module.weight) not in index_of_weight:
                continue
            if not name:
                raise _C.InvalidArgument(
                    "to_layers_: expected `model` to contain its layers, got an nn.Linear. "
                    "Use SharedLinear.from_linear."
                )
            if id(module) not in made:
                layer = self._to_layer(name, module, index_of_weight[id(module.weight)])
                tied = first_of.setdefault(id(module.weight), layer)
                layer.codebook, layer.codes = tied.codebook, tied.codes
                made[id(module)] = layer
            parent, _, attribute = name.rpartition(".")
            rows.append((name, modules[parent], attribute, made[id(module)]))
        return rows

    def _to_layer(self, name: str, linear: torch.nn.Linear, index: int) -> SharedLinear:
        codes = self._core.codes(index)
        fits = codes.shape == linear.weight.shape
        codebook = self._core.codebook(index, linear.weight) if fits else torch.empty(0)
        if not fits or not torch.equal(codebook[codes.long()], linear.weight):
            raise _C.InvalidArgument(
                f"to_layers_: expected the weight of `{name}` to be in its codebook, got others. "
                "Is this the model that was shared?"
            )
        has_zero = self._core.has_zero(index)
        return SharedLinear._from_codes(linear, codebook[int(has_zero) :], codes, has_zero)


def _is_replaceable(module: torch.nn.Module) -> bool:
    """Exactly nn.Linear (a subclass may do anything), without hooks (they would be lost)."""
    return type(module) is torch.nn.Linear and not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    )


def _entry(fields: Mapping[str, Any]) -> tuple[int, bool, float]:
    return (
        int(fields.get("k", 0)),
        bool(fields.get("has_zero", False)),
        float(fields.get("squared_error", 0.0)),
    )
