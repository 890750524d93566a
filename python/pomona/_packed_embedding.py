"""PackedEmbedding looks rows up in a packed table; pomona.nn has its public name."""

from __future__ import annotations

import torch
from torch import nn

from . import _C
from ._packed_base import PackedLayer

_packed_embedding = torch.ops.pomona.packed_embedding.default


def _packed_rows(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The packed bytes, on the device; others than the CPU know csr16 only."""
    pack = _C.pack_rows if device.type == "cpu" else _C.pack
    return pack(weight.detach(), "weight").to(device)


def _why_no_rows(layout: str) -> str:
    """Why rows of this layout cannot be looked up; empty when they can."""
    if layout in ("csr16", "lut"):
        return ""
    return f"PackedEmbedding: expected `packed` of layout csr16 or lut, got {layout}."


class PackedEmbedding(PackedLayer):
    """``torch.nn.Embedding`` on packed weights: the dense table is never in memory.

    Made for inference: a lookup unpacks the rows that are asked for, and no gradient reaches them
    (so ``padding_idx`` has nothing to do). It saves memory, not time: a dense lookup only copies.
    An index that is no row is an IndexError; on CUDA it gives NaN. ``packed`` (uint8) is a buffer,
    so ``state_dict``, ``deepcopy`` and ``pickle`` work, and ``.half()`` leaves the bytes alone.

    Shape:
        input ``[...]``, int64 or int32; output ``[..., embedding_dim]``, of the weight's dtype.

    Args:
        weight: ``[num_embeddings, embedding_dim]``, float32, float16 or bfloat16, finite. It is
            packed as csr16 (pruned) or lut (at most 256 values), whichever is smaller; on CUDA as
            csr16.

    Raises:
        InvalidArgument: another dtype or shape, NaN or Inf.

    Reference:
        Thesis §4.2 (W[i][j] = codebook[codes[i][j]]).

    Example:
        >>> import pomona, torch
        >>> embedding = torch.nn.Embedding(100, 16)
        >>> _ = pomona.Pruner(embedding, {"*": 0.9}).step()
        >>> packed = PackedEmbedding.from_embedding(embedding)
        >>> tokens = torch.tensor([3, 99])
        >>> torch.equal(packed(tokens), embedding(tokens))
        True
        >>> packed.packed.numel() < 4 * embedding.weight.numel() / 2
        True
    """

    def __init__(self, weight: torch.Tensor) -> None:
        """Pack the weight."""
        super().__init__()
        if not isinstance(weight, torch.Tensor):
            raise _C.InvalidArgument(
                f"PackedEmbedding: expected `weight` to be a tensor, got {type(weight).__name__}."
            )
        packed = _packed_rows(weight, weight.device)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.dtype = weight.dtype
        self.register_buffer("packed", packed)

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> PackedEmbedding:
        """The same table, packed, in the same mode (training or not).

        Raises:
            InvalidArgument: not an nn.Embedding, one with ``max_norm`` (it would change rows), or a
                weight that cannot be packed.
        """
        if not isinstance(embedding, nn.Embedding):
            raise _C.InvalidArgument(
                "PackedEmbedding.from_embedding: expected `embedding` to be a torch.nn.Embedding, "
                f"got {type(embedding).__name__}."
            )
        if embedding.max_norm is not None:
            raise _C.InvalidArgument(
                "PackedEmbedding.from_embedding: expected `embedding` without `max_norm`, got "
                f"{embedding.max_norm}. It would change rows."
            )
        return cls(embedding.weight).train(embedding.training)

    @classmethod
    def from_packed(
        cls, packed: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> PackedEmbedding:
        """A table of bytes that are packed already, as ``packed`` of another has them; not copied.

        Raises:
            InvalidArgument: bytes that no layer of this version has packed, or of a layout whose
                rows cannot be looked up.
        """
        layout, _, rows, cols, _ = _C.packed_facts(packed)
        if problem := _why_no_rows(layout):
            raise _C.InvalidArgument(problem)
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.num_embeddings, layer.embedding_dim, layer.dtype = rows, cols, dtype
        layer.register_buffer("packed", packed)
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Indices ``[...]`` -> rows ``[..., embedding_dim]``."""
        rows = _packed_embedding(input, self.packed, self.num_embeddings, self.embedding_dim)
        return rows.to(self.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The dense table ``[num_embeddings, embedding_dim]``, made anew at each access."""
        return super().weight.to(self.dtype)

    def extra_repr(self) -> str:
        """What print() shows."""
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, dtype={self.dtype}, "
            f"bytes={self.packed.numel()}"
        )

    def _matrix_shape(self) -> tuple[int, int]:
        return self.num_embeddings, self.embedding_dim

    def _problem(self, packed: torch.Tensor) -> str:
        problem = super()._problem(packed)
        return problem or _why_no_rows(_C.packed_facts(packed)[0])

    def _pack_anew(self, weight: torch.Tensor) -> torch.Tensor:
        return _packed_rows(weight, self.packed.device)
