"""Selection on a GPU makes the masks of the CPU, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona

pytestmark = pytest.mark.cuda

first_not_finite = torch.ops.pomona.first_not_finite
select_histogram = torch.ops.pomona.select_histogram
select_mask = torch.ops.pomona.select_mask

KEY_BITS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
SHAPES = [(0,), (1,), (63,), (64, 64), (5, 13), (300, 784), (3, 500_001)]


def example(shape, dtype):
    """Scores with ties and zeros, and the words of a random mask."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator)
    ties = torch.rand(shape, generator=generator) < 0.3
    scores = torch.where(ties, (scores * 2).round() / 2, scores)
    count = (scores.numel() + 63) // 64
    words = torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)
    return scores.to(dtype), words | (words << 1)


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", KEY_BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_select_histogram_equals_the_cpu(cuda, shape, dtype, by_value):
    scores, words = example(shape, dtype)
    there, words_there = scores.to(cuda), words.to(cuda)
    bits = KEY_BITS[dtype]
    prefix = 0
    for shift in range((bits - 1) // 11 * 11, -1, -11):
        digit = {"shift": shift, "prefix": prefix, "by_value": by_value}
        expected = select_histogram(scores, words, **digit)
        assert torch.equal(select_histogram(there, words_there, **digit).cpu(), expected)
        prefix = prefix << 11 | int(expected.argmax())


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", KEY_BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_select_mask_equals_the_cpu(cuda, shape, dtype, by_value):
    scores, words = example(shape, dtype)
    there, words_there = scores.to(cuda), words.to(cuda)
    integer = {16: torch.int16, 32: torch.int32, 64: torch.int64}[KEY_BITS[dtype]]
    cut = int(torch.tensor(0.5, dtype=dtype).view(integer))  # a score that many have
    for ties in (0, 1, 1000, 10**9):
        asked = {"cut": cut, "ties": ties, "by_value": by_value}
        expected = select_mask(scores, words, **asked)
        assert torch.equal(select_mask(there, words_there, **asked).cpu(), expected)


@pytest.mark.parametrize("dtype", KEY_BITS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_first_not_finite_equals_the_cpu(cuda, dtype, wrong):
    scores = torch.randn(1000, 333).to(dtype)
    assert first_not_finite(scores.to(cuda)).item() == -1
    scores[700, 5] = scores[999, 332] = wrong
    assert first_not_finite(scores.to(cuda)).item() == 700 * 333 + 5


def test_operators_refuse_words_on_the_cpu(cuda):
    scores, words = example((5, 13), torch.float32)
    with pytest.raises(TypeError, match=r"`words` on the device of `scores` \(cuda:0\), got cpu"):
        select_histogram(scores.to(cuda), words, shift=0)
    with pytest.raises(TypeError, match=r"`words` on the device of `scores` \(cuda:0\), got cpu"):
        select_mask(scores.to(cuda), words, cut=0)


def test_operators_pass_opcheck(cuda):
    scores, words = (x.to(cuda) for x in example((5, 13), torch.float32))
    torch.library.opcheck(first_not_finite.default, (scores,))
    torch.library.opcheck(select_histogram.default, (scores, words), {"shift": 22})
    torch.library.opcheck(select_mask.default, (scores, words), {"cut": 77, "ties": 2})


def model(device, dtype) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Linear(700, 301), nn.Linear(301, 10))
    return net.to(dtype).to(device)


RULES = {
    "by layer": {"*": 0.75},
    "over all layers": {"*": pomona.Prune(sparsity=0.75, scope="global")},
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", KEY_BITS)
def test_a_pruner_makes_the_masks_of_the_cpu(cuda, name, dtype):
    nets = [model(device, dtype) for device in ("cpu", cuda)]
    reports = []
    for net in nets:
        pruner = pomona.Pruner(net, RULES[name])
        pruner.step()
        reports.append([(line.name, line.kept, line.threshold) for line in pruner.report()])
    assert reports[0] == reports[1]
    for here, there in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(here, there.cpu())


def test_a_pruner_ranks_layers_of_two_devices_together(cuda):
    here, mixed = model("cpu", torch.float32), model("cpu", torch.float32)
    mixed[1].to(cuda)
    for net in (here, mixed):
        pomona.Pruner(net, RULES["over all layers"]).step()
    for a, b in zip(here.parameters(), mixed.parameters(), strict=True):
        assert torch.equal(a, b.cpu())


def test_a_pruner_takes_scores_with_signs_that_lie_on_the_gpu(cuda):
    nets = [model(device, torch.float32) for device in ("cpu", cuda)]
    for net in nets:
        pruner = pomona.Pruner(net, RULES["by layer"])
        pruner.step(
            scores={name: p.detach().clone() for name, p in net.named_parameters() if p.dim() > 1}
        )
    for here, there in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(here, there.cpu())


def test_a_weight_on_the_gpu_that_is_not_finite_is_named(cuda):
    net = model(cuda, torch.float32)
    with torch.no_grad():
        net[2].weight[1, 2] = float("inf")
    message = r"`2\.weight` to be finite, got inf at index 303"
    with pytest.raises(pomona.InvalidArgument, match=message):
        pomona.Pruner(net, {"*": 0.5}).step()
