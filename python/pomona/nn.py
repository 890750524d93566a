"""Compact layers: Shared... train through their codebook, PackedLinear runs on packed weights.

The same names, buffers and outputs as ``pomona::nn`` in C++.

``DistributedDataParallel`` sends buffers from rank 0 in every forward pass. Codes never change:
where every rank has made the same ones (or has loaded them), leave them out, before the model is
wrapped::

    model._ddp_params_and_buffers_to_ignore = [
        name for name, _ in model.named_buffers() if name.split(".")[-1] == "codes"
    ]
"""

from __future__ import annotations

from ._packed_linear import PackedLinear
from ._shared_layers import SharedConv2d, SharedEmbedding, SharedLinear

__all__ = ["PackedLinear", "SharedConv2d", "SharedEmbedding", "SharedLinear"]
