"""load_packed_: from the file straight into packed layers; pomona has its public name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import _C, _packed_cache
from ._packed_attention import PackedMultiheadAttention
from ._packed_embedding import PackedEmbedding
from ._packed_linear import Layout, Precision, done_precision
from ._packed_rnn import PackedGRU, PackedLSTM
from ._packed_source import linear
from ._shell import clean_name

# Layers of several matrices.
_WHOLE = {nn.LSTM: PackedLSTM, nn.GRU: PackedGRU, nn.MultiheadAttention: PackedMultiheadAttention}
_PACKABLE = (nn.Linear, nn.Embedding, *_WHOLE)


def load_packed_(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    layout: Layout | None = None,
    cache: bool | str | os.PathLike[str] = False,
) -> list[str]:
    """Load a ``.pomona`` file, its pruned or shared layers packed.

    The dense weight of a packed layer is never made: beside the packed model this takes the memory
    of one layer as the file holds it. The model may stand on the meta device, so that it never held
    the weights either (``with torch.device("meta"): model = Net()``). A matrix is packed that the
    file holds shared, or with at most half of its values: an ``nn.Linear`` becomes a
    :class:`~pomona.nn.PackedLinear`; an ``nn.LSTM``, ``nn.GRU`` or ``nn.MultiheadAttention`` all of
    whose matrices are such, a :class:`~pomona.nn.PackedLSTM`, :class:`~pomona.nn.PackedGRU` or
    :class:`~pomona.nn.PackedMultiheadAttention`; and an ``nn.Embedding`` a
    :class:`~pomona.nn.PackedEmbedding` where that takes less memory (its rows are unpacked as they
    are looked up). What stays dense: an embedding with ``max_norm``, attention with ``add_bias_kv``
    or ``add_zero_attn``, layers with hooks or inside ``nn.TransformerEncoderLayer``, and a weight
    that several modules hold. Every other tensor is loaded as by :func:`pomona.load_`, on the CPU
    where it had no data. Nothing is timed: ``pomona.pack_`` on a loaded model is for who
    wants to keep dense what is faster dense.

    Args:
        model: of the names and shapes of the file; on the CPU or the meta device.
        path: the file.
        precision: what packed layers compute in (embeddings do not); a matrix that has no layout
            in it is packed in "fp32", and all are where this processor has no instructions for it
            (which is said once).
        layout: of the packed layers; None: the likely fastest on this machine.
        cache: True, or a path: keep what was packed in a file (True: the path with ``.packed``
            behind it), and map it into memory the next time, in milliseconds. It is of this very
            file, version, processor and these options; what is of another, damaged or cannot be
            written is passed over, and written anew.

    Returns:
        The names of the packed layers.

    Raises:
        InvalidArgument: names, shapes or dtypes do not fit (all are listed), an unknown precision
            or layout, a layout that cannot hold a layer, a model on another device, a buffer
            without data that no file holds.
        CorruptFile, OSError: as :func:`pomona.load_`. The model is as it was after any error.

    Example:
        >>> import pomona
        >>> path = getfixture("tmp_path") / "net.pomona"
        >>> trained = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
        >>> _ = pomona.Pruner(trained, {"*weight": 0.9}).step()
        >>> _ = pomona.save(trained, path)
        >>> with torch.device("meta"):
        ...     model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
        >>> pomona.load_packed_(model, path)
        ['0']
    """
    _check_model(model)
    precision = done_precision("load_packed_", precision)
    reader = _C.FileReader(Path(path))
    state = {clean_name(n): value for n, value in model.state_dict(keep_vars=True).items()}
    _check_contents(state, reader.entries)
    layers = _layers(model, {entry.name: entry for entry in reader.entries})
    _check_bufferless(model, state)
    replaced = {id(places[0][2]): places[0][2] for places in layers.values()}
    weights = {
        clean_name(f"{prefix}.{name}")
        for prefix, module in model.named_modules(remove_duplicate=False)
        if id(module) in replaced
        for name in _matrices(module)
    }
    kept = None if cache is False else _packed_cache.path_of(path, cache)
    key = "" if kept is None else _C.packed_cache_key(Path(path), layout or "", precision)
    found = None if kept is None else _C.read_packed_cache(kept, key)
    names = {key for name, places in layers.items() for key in _keys(name, places[0][2])}
    others = state.keys() - weights
    if found is None or found[0].keys() != names or found[1].keys() != others:
        packed = _read_packed(reader, layers, layout, precision)
        dense = {name: reader.read(name) for name in sorted(others)}
        if kept is not None:
            _packed_cache.write(kept, key, packed, dense)
    else:
        packed, dense = found
    made = {
        name: _packed_layer(places[0][2], _FileSource(name, packed, dense))
        for name, places in layers.items()
    }
    _put_dense(model, dense)
    for name, places in layers.items():
        for parent, attribute, _ in places:
            setattr(parent, attribute, made[name])
    return list(layers)


def _matrices(module: nn.Module) -> dict[str, int]:
    """The weights of a layer that are packed, by name, and into how many parts each is cut."""
    if type(module) in _WHOLE:
        return _WHOLE[type(module)].matrices(module)
    return {"weight": 1}


def _part_keys(name: str, parts: int) -> list[str]:
    return [name] if parts == 1 else [f"{name}[{part}]" for part in range(parts)]


def _keys(name: str, module: nn.Module) -> list[str]:
    """The names under which the packed matrices of a layer are kept."""
    found = _matrices(module).items()
    return [key for matrix, parts in found for key in _part_keys(f"{name}.{matrix}", parts)]


def _read_packed(
    reader: _C.FileReader, layers: dict[str, Places], layout: Layout | None, precision: Precision
) -> dict[str, torch.Tensor]:
    """Every packed matrix of every layer, by the names of _keys()."""
    packed: dict[str, torch.Tensor] = {}
    for name, places in layers.items():
        for matrix, parts in _matrices(places[0][2]).items():
            full = f"{name}.{matrix}"
            if isinstance(places[0][2], nn.Embedding):
                read = [reader.read_packed_rows(full)]
            else:
                read = reader.read_packed(full, parts, layout or "", precision)
            packed.update(zip(_part_keys(full, parts), read, strict=True))
    return packed


class _FileSource:
    """What was read for the layer of one name."""

    def __init__(
        self, name: str, packed: dict[str, torch.Tensor], dense: dict[str, torch.Tensor]
    ) -> None:
        self._name, self._packed, self._dense = name, packed, dense

    def packed(self, name: str, parts: int) -> list[torch.Tensor]:
        return [self._packed[key] for key in _part_keys(f"{self._name}.{name}", parts)]

    def bias(self, name: str) -> torch.Tensor | None:
        return self._dense.get(f"{self._name}.{name}")


def _packed_layer(dense: nn.Module, source: _FileSource) -> nn.Module:
    if type(dense) in _WHOLE:
        return _WHOLE[type(dense)].from_source(dense, source)
    if isinstance(dense, nn.Embedding):
        (table,) = source.packed("weight", 1)
        layer: nn.Module = PackedEmbedding.from_packed(table, dense.weight.dtype)
    else:
        layer = linear(source, "weight", "bias")
    return layer.train(dense.training)


Places = list[tuple[nn.Module, str, nn.Module]]


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module) or type(model) in _PACKABLE:
        raise _C.InvalidArgument(
            "load_packed_: expected `model` to be a torch.nn.Module that contains its layers, "
            f"got {type(model).__name__}."
        )
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.device.type not in ("cpu", "meta"):
            raise _C.InvalidArgument(
                "load_packed_: expected `model` on the CPU or the meta device, "
                f"got `{name}` on {value.device}."
            )
        overlaps = any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True))
        if value.is_inference() or overlaps:
            raise _C.InvalidArgument(
                "load_packed_: expected tensors that can be written, got "
                f"`{name}`, {'expanded' if overlaps else 'made in inference mode'}."
            )


def _check_contents(state: dict[str, torch.Tensor], entries: list[_C.FileEntry]) -> None:
    """Every difference between model and file, in one error."""
    found = {entry.name: entry for entry in entries}
    differences = [f"`{name}` is not in the file" for name in state if name not in found]
    differences += [f"`{name}` is not in the model" for name in found if name not in state]
    for name, value in state.items():
        entry = found.get(name)
        dtype = str(value.dtype).removeprefix("torch.")
        if entry and (tuple(entry.shape) != tuple(value.shape) or entry.dtype != dtype):
            differences.append(
                f"`{name}` is {dtype} {list(value.shape)}, in the file {entry.dtype} "
                f"{list(entry.shape)}"
            )
    if differences:
        raise _C.InvalidArgument(
            f"load_packed_: expected the file to hold the model, got: {'; '.join(differences)}."
        )


def _layers(model: nn.Module, entries: dict[str, _C.FileEntry]) -> dict[str, Places]:
    """The layers to pack by their first name, each with all its places."""
    names: dict[int, str] = {}
    found: dict[str, Places] = {}
    owners: dict[int, set[int]] = {}  # modules that hold a parameter
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    # One that has to stay in one of its places stays in all.
    staying = {
        id(module)
        for parent in model.modules()
        for module in parent._modules.values()
        if module is not None and not _is_packable(parent, module)
    }
    for prefix, parent in model.named_modules():
        for attribute, module in parent._modules.items():
            if module is None or id(module) in staying:
                continue
            name = clean_name(f"{prefix}.{attribute}" if prefix else attribute)
            first = names.get(id(module), name)
            matrices = {matrix: module.get_parameter(matrix) for matrix in _matrices(module)}
            if any(len(owners[id(parameter)]) > 1 for parameter in matrices.values()):
                continue
            if not all(_is_worth(module, entries[f"{first}.{matrix}"]) for matrix in matrices):
                continue
            names.setdefault(id(module), name)
            found.setdefault(first, []).append((parent, attribute, module))
    return found


def _is_worth(module: nn.Module, entry: _C.FileEntry) -> bool:
    is_table = isinstance(module, nn.Embedding)
    return entry.is_worth_packing_rows if is_table else entry.is_worth_packing


def _is_packable(parent: nn.Module, module: nn.Module) -> bool:
    """Whether the layer is of a kind that can be packed, and only called."""
    if type(module) not in _PACKABLE or module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, nn.Embedding):
        return module.max_norm is None
    if isinstance(module, nn.MultiheadAttention) and (
        module.bias_k is not None or module.add_zero_attn
    ):
        return False
    return not isinstance(parent, (nn.TransformerEncoderLayer, nn.MultiheadAttention))


def _check_bufferless(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """A buffer that is in no state_dict has no data to come on the meta device."""
    for name, buffer in model.named_buffers():
        if buffer.is_meta and clean_name(name) not in state:
            raise _C.InvalidArgument(
                f"load_packed_: expected buffers with data, got `{name}` on the meta device, which "
                "no file holds. Make the model on the CPU."
            )


def _put_dense(model: nn.Module, dense: dict[str, torch.Tensor]) -> None:
    """Copies where there is memory; on the meta device the tensors of the file take their place."""
    made: dict[int, nn.Parameter] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for kept in (module._parameters, module._buffers):
            for attribute, old in kept.items():
                name = clean_name(f"{prefix}.{attribute}" if prefix else attribute)
                if old is None or name not in dense:
                    continue
                if not old.is_meta:
                    with torch.no_grad():
                        old.copy_(dense[name])
                elif kept is module._buffers:
                    kept[attribute] = dense[name]
                else:
                    parameter = nn.Parameter(dense[name], requires_grad=old.requires_grad)
                    kept[attribute] = made.setdefault(id(old), parameter)
