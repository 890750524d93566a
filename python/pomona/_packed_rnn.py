"""PackedLSTM and PackedGRU run on packed weights; pomona.nn has their public names."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import _C
from ._packed_linear import Layout, Precision
from ._packed_source import ModuleSource, Source, linear

_Rnn = TypeVar("_Rnn", bound="_PackedRnn")


class _PackedRnn(nn.Module):
    """What both have in common: the layers and directions, one after the other.

    ``cells[layer * directions + direction]`` holds the packed matrices of one: ``input`` for all
    steps at once, ``hidden`` step by step, and ``projection`` where an LSTM has one.
    """

    _dense: type[nn.RNNBase]
    _states: int  # tensors that a step hands on

    def __init__(
        self, rnn: nn.RNNBase, *, layout: Layout | None = None, precision: Precision = "fp32"
    ) -> None:
        """Pack all matrices of a torch module."""
        super().__init__()
        if type(rnn) is not self._dense:
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected `rnn` to be a torch.nn.{self._dense.__name__}, "
                f"got {type(rnn).__name__}."
            )
        self._fill(rnn, ModuleSource(rnn, layout, precision))

    @classmethod
    def from_source(cls: type[_Rnn], rnn: nn.RNNBase, source: Source) -> _Rnn:
        """A layer like ``rnn``, whose weights are read from elsewhere."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._fill(rnn, source)
        return layer

    @staticmethod
    def matrices(rnn: nn.RNNBase) -> dict[str, int]:
        """The matrices of a torch module by name, and into how many each is cut."""
        return {name: 1 for name, _ in rnn.named_parameters() if name.startswith("weight")}

    def _fill(self, rnn: nn.RNNBase, source: Source) -> None:
        self.input_size, self.hidden_size = rnn.input_size, rnn.hidden_size
        self.num_layers, self.batch_first = rnn.num_layers, rnn.batch_first
        self.bidirectional, self.proj_size = rnn.bidirectional, rnn.proj_size
        self.cells = nn.ModuleList()
        for suffix in self._suffixes():
            cell = nn.ModuleDict()
            for name, kind in (("input", "ih"), ("hidden", "hh"), ("projection", "hr")):
                if hasattr(rnn, f"weight_{kind}_{suffix}"):
                    cell[name] = linear(source, f"weight_{kind}_{suffix}", f"bias_{kind}_{suffix}")
            self.cells.append(cell)
        self.train(rnn.training)

    @classmethod
    def from_rnn(
        cls: type[_Rnn],
        rnn: nn.RNNBase,
        *,
        layout: Layout | None = None,
        precision: Precision = "fp32",
    ) -> _Rnn:
        """The same network, packed; see the class."""
        return cls(rnn, layout=layout, precision=precision)

    def forward(
        self, input: torch.Tensor | PackedSequence, hx: Any = None
    ) -> tuple[torch.Tensor | PackedSequence, Any]:
        """As the torch module: ``(output, state)``, shapes as there."""
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        self._check_input(input)
        is_single = input.dim() == 2
        steps = input.unsqueeze(1) if is_single else input
        if self.batch_first and not is_single:
            steps = steps.transpose(0, 1)
        steps, hidden = self._forward(steps, self._initial(hx, steps, is_single), None)
        output = steps.transpose(0, 1) if self.batch_first and not is_single else steps
        if is_single:
            output, hidden = output.squeeze(1), tuple(s.squeeze(1) for s in hidden)
        return output, hidden if self._states > 1 else hidden[0]

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Sequences of different lengths; states in the order of the unsorted batch."""
        steps, lengths = pad_packed_sequence(input)
        self._check_input(steps)
        state = self._initial(hx, steps, False)
        steps, hidden = self._forward(steps, state, lengths.to(steps.device))
        if input.sorted_indices is not None:
            steps = steps.index_select(1, input.sorted_indices)
            lengths = lengths[input.sorted_indices.cpu()]
        data = pack_padded_sequence(steps, lengths).data
        output = PackedSequence(
            data, input.batch_sizes, input.sorted_indices, input.unsorted_indices
        )
        return output, hidden if self._states > 1 else hidden[0]

    def _forward(
        self, steps: torch.Tensor, begin: tuple[torch.Tensor, ...], lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """All layers on steps ``[T, N, features]``; the outputs and the last states."""
        finals: list[tuple[torch.Tensor, ...]] = []
        directions = 2 if self.bidirectional else 1
        for first in range(0, len(self.cells), directions):
            outputs = []
            for index in range(first, first + directions):
                state = tuple(s[index] for s in begin)
                is_reverse = index > first
                output, state = self._run(self.cells[index], steps, state, is_reverse, lengths)
                outputs.append(output)
                finals.append(state)
            steps = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        return steps, tuple(torch.stack(kind) for kind in zip(*finals, strict=True))

    def flatten_parameters(self) -> None:
        """Nothing: models call it of the torch module before they run it on a GPU."""

    def extra_repr(self) -> str:
        """What print() shows."""
        words = [str(self.input_size), str(self.hidden_size)]
        words += [f"num_layers={self.num_layers}"] if self.num_layers != 1 else []
        words += [f"proj_size={self.proj_size}"] if self.proj_size else []
        words += [name for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return ", ".join(words)

    def _suffixes(self) -> list[str]:
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{d}" for layer in range(self.num_layers) for d in directions]

    def _run(
        self,
        cell: nn.ModuleDict,
        steps: torch.Tensor,
        state: tuple[torch.Tensor, ...],
        is_reverse: bool,
        lengths: torch.Tensor | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """One layer in one direction; past its length a sequence keeps its state."""
        gates = cell["input"](steps)
        outputs: list[torch.Tensor] = []
        order = range(len(steps) - 1, -1, -1) if is_reverse else range(len(steps))
        for t in order:
            stepped = self._step(cell, gates[t], state)
            if lengths is not None:
                goes_on = (lengths > t).unsqueeze(1)
                pairs = zip(stepped, state, strict=True)
                stepped = tuple(torch.where(goes_on, new, old) for new, old in pairs)
            state = stepped
            outputs.append(state[0])
        if is_reverse:
            outputs.reverse()
        return torch.stack(outputs), state

    def _step(
        self, cell: nn.ModuleDict, gates: torch.Tensor, state: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError

    def _check_input(self, input: Any) -> None:
        name = type(self).__name__
        if not isinstance(input, torch.Tensor):
            raise _C.InvalidArgument(
                f"{name}: expected `input` to be a tensor or a PackedSequence, "
                f"got {type(input).__name__}."
            )
        fits = input.dim() in (2, 3) and input.shape[-1] == self.input_size
        is_empty = input.dim() == 3 and input.shape[1 if self.batch_first else 0] == 0
        if not fits or is_empty or input.shape[0] == 0:
            raise _C.InvalidArgument(
                f"{name}: expected `input` of shape [steps, {self.input_size}] or "
                f"[steps, batch, {self.input_size}] with a step, got {list(input.shape)}."
            )

    def _initial(self, hx: Any, steps: torch.Tensor, is_single: bool) -> tuple[torch.Tensor, ...]:
        """The states to begin with, ``[layers * directions, N, size]`` each."""
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: self._states]
        shapes = [[len(self.cells), steps.shape[1], size] for size in sizes]
        if hx is None:
            return tuple(steps.new_zeros(shape) for shape in shapes)
        given = hx if self._states > 1 else (hx,)
        if is_single:
            given = tuple(s.unsqueeze(1) for s in given)
        if [list(s.shape) for s in given] != shapes:
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected `hx` of shapes {shapes}, "
                f"got {[list(s.shape) for s in given]}."
            )
        return tuple(given)


class PackedLSTM(_PackedRnn):
    """``torch.nn.LSTM`` on packed weights, for inference: both matrices of every layer are packed.

    Takes and returns what the torch module does, a PackedSequence among it; dropout between layers
    is left out. All layers and directions, projections and unbatched input work.

    Args:
        rnn: a torch.nn.LSTM, its weights finite; copied.
        layout: as for :class:`PackedLinear`, of every matrix.
        precision: as for :class:`PackedLinear`.

    Raises:
        InvalidArgument: another module, NaN or Inf, a layout that cannot hold a weight.

    Reference:
        EIE, Table III: NT-LSTM.

    Example:
        >>> lstm = torch.nn.LSTM(16, 8)
        >>> packed = PackedLSTM(lstm)
        >>> x = torch.randn(5, 2, 16)
        >>> torch.allclose(packed(x)[0], lstm(x)[0], atol=1e-5)
        True
    """

    _dense = nn.LSTM
    _states = 2

    def _step(
        self, cell: nn.ModuleDict, gates: torch.Tensor, state: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        hidden, memory = state
        i, f, g, o = (gates + cell["hidden"](hidden)).chunk(4, -1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * memory.tanh()
        return (cell["projection"](hidden) if self.proj_size else hidden), memory


class PackedGRU(_PackedRnn):
    """``torch.nn.GRU`` on packed weights, for inference; see :class:`PackedLSTM`.

    Args:
        rnn: a torch.nn.GRU, its weights finite; copied.
        layout: as for :class:`PackedLinear`, of every matrix.
        precision: as for :class:`PackedLinear`.

    Raises:
        InvalidArgument: another module, NaN or Inf, a layout that cannot hold a weight.

    Example:
        >>> gru = torch.nn.GRU(16, 8)
        >>> x = torch.randn(5, 16)
        >>> torch.allclose(PackedGRU(gru)(x)[0], gru(x)[0], atol=1e-5)
        True
    """

    _dense = nn.GRU
    _states = 1

    def _step(
        self, cell: nn.ModuleDict, gates: torch.Tensor, state: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        (hidden,) = state
        r, z, n = gates.chunk(3, -1)
        hidden_r, hidden_z, hidden_n = cell["hidden"](hidden).chunk(3, -1)
        update = (z + hidden_z).sigmoid()
        candidate = (n + (r + hidden_r).sigmoid() * hidden_n).tanh()
        return (candidate + update * (hidden - candidate),)
