"""apply_masks_ on a GPU equals apply_masks_ on the CPU."""

from __future__ import annotations

import pytest
import torch
from reference.prune import row_bytes

import pomona  # noqa: F401  (registers the operators)

apply_masks_ = torch.ops.pomona.apply_masks_

pytestmark = pytest.mark.cuda

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2]
SHAPES = [(), (0,), (1,), (9,), (3, 1), (3, 0), (13, 7), (5, 64), (6, 3, 5, 5), (300, 784)]


def random_mask(shape, seed=0):
    return row_bytes(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_apply_masks_equals_the_cpu(cuda, shape, dtype):
    tensor, mask = torch.randn(shape).to(dtype), random_mask(shape)
    there = tensor.to(cuda)
    apply_masks_([there], [mask.to(cuda)])
    apply_masks_([tensor], [mask])
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    assert torch.equal(there.cpu().view(bits), tensor.view(bits))


def test_apply_masks_takes_more_tensors_than_a_launch(cuda):
    tensors = [torch.randn(3 + i % 5, 7 + i).to(DTYPES[i % 4]) for i in range(75)]
    masks = [random_mask(t.shape, i) for i, t in enumerate(tensors)]
    there = [t.to(cuda) for t in tensors]
    apply_masks_(there, [m.to(cuda) for m in masks])
    apply_masks_(tensors, masks)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(there, tensors, strict=True))


@pytest.mark.parametrize(
    "view",
    [
        lambda storage: storage[:5, :7].t(),
        lambda storage: storage[1:8, 2:7],
        lambda storage: storage[:7, ::2],
        lambda storage: (
            storage.flatten()[:96].view(4, 2, 3, 4).contiguous(memory_format=torch.channels_last)
        ),
        # Six dimensions of which no two merge: more than the kernel's description holds.
        lambda storage: storage.flatten()[:64].view(2, 2, 2, 2, 2, 2).permute(5, 4, 3, 2, 1, 0),
    ],
)
def test_apply_masks_follows_any_strides_and_leaves_the_rest_of_the_storage(cuda, view):
    here = torch.randn(10, 10)
    there = here.to(cuda)
    mask = random_mask(view(here).shape)
    viewed_here, viewed_there = view(here), view(there)
    apply_masks_([viewed_there], [mask.to(cuda)])
    apply_masks_([viewed_here], [mask])
    assert torch.equal(viewed_there.cpu(), viewed_here)
    assert torch.equal(there.cpu(), here)


def test_apply_masks_works_on_another_stream(cuda):
    tensor, mask = torch.ones(64, 64), random_mask((64, 64))
    there = tensor.to(cuda)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        apply_masks_([there], [mask.to(cuda)])
    torch.cuda.current_stream().wait_stream(stream)
    apply_masks_([tensor], [mask])
    assert torch.equal(there.cpu(), tensor)


def test_apply_masks_refuses_a_mask_on_the_cpu(cuda):
    with pytest.raises(TypeError, match="expected everything on cuda:0"):
        apply_masks_([torch.ones(2, 3, device=cuda)], [random_mask((2, 3))])


def test_apply_masks_passes_opcheck(cuda):
    tensors = [torch.randn(4, 9, device=cuda), torch.randn(3, 2, 3, 3, device=cuda)]
    masks = [random_mask(t.shape).to(cuda) for t in tensors]
    torch.library.opcheck(torch.ops.pomona.apply_masks_.default, (tensors, masks))
