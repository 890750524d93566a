"""Masks through everything that a training loop may do (each rule of what PyTorch really does)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training import SmallNet, batch, train

import pomona

RULES = {"conv*": 0.3, "fc*": 0.8}


@pytest.fixture
def model():
    return SmallNet()


def weights(model):
    return dict(model.named_parameters())


def alive(model, pruner):
    """How many pruned weights are not zero."""
    return sum(
        int(weights(model)[name][~keep].count_nonzero()) for name, keep in pruner.masks().items()
    )


def pruned(model, optimizer, steps=5):
    pruner = pomona.Pruner(model, RULES, optimizer=optimizer)
    train(model, optimizer, 0, steps)
    pruner.step()
    return pruner


def test_adafactor_keeps_the_masks(model):
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2, weight_decay=1e-3)
    pruner = pruned(model, optimizer)
    train(model, optimizer, 5, 60)
    assert alive(model, pruner) == 0


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch without Muon")
def test_muon_keeps_the_masks_by_the_backstop():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20, bias=False), nn.ReLU(), nn.Linear(20, 10))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimizers = [torch.optim.Muon(matrices, lr=1e-2), torch.optim.SGD(others, lr=1e-2)]
    pruner = pomona.Pruner(model, {"*": 0.8}, optimizer=optimizers)
    pruner.step()
    for index in range(40):
        images, labels = batch(index)
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert alive(model, pruner) == 0


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_that_skips_steps_leaves_the_masks(model, fused):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    pruner = pruned(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for index in range(30):
        optimizer.zero_grad()
        images, labels = batch(index)
        scaler.scale(nn.functional.cross_entropy(model(images), labels)).backward()
        if index % 5 == 2:
            model.fc1.weight.grad[0, 0] = float("inf")
        before = copy.deepcopy(model.state_dict())
        scaler.step(optimizer)
        scaler.update()
        if index % 5 == 2:
            assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
        assert alive(model, pruner) == 0


def test_a_scaled_gradient_scores_as_an_unscaled_one():
    def scores(scale):
        model = SmallNet()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        rule = pomona.Prune(0.5, criterion="taylor", scope="global")
        pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for index in range(3):
            optimizer.zero_grad()
            images, labels = batch(index)
            scaler.scale(nn.functional.cross_entropy(model(images), labels)).backward()
            scaler.step(optimizer)
            scaler.update()
        return pruner.state_dict()["scores"]

    for (_, a), (_, b) in zip(scores(1.0).items(), scores(1024.0).items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-9)


def test_an_optimizer_in_backward_sees_masked_gradients(model):
    optimizers = {p: torch.optim.SGD([p], lr=0.05, momentum=0.9) for p in model.parameters()}

    def step_and_free(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step_and_free)
    pruner = pomona.Pruner(model, RULES, optimizer=list(optimizers.values()))
    pruner.step()
    for index in range(30):
        images, labels = batch(index)
        nn.functional.cross_entropy(model(images), labels).backward()
    assert alive(model, pruner) == 0
    for name, keep in pruner.masks().items():
        momentum = optimizers[weights(model)[name]].state[weights(model)[name]]["momentum_buffer"]
        assert momentum[~keep].count_nonzero() == 0, name
        assert momentum[keep].count_nonzero() > 0, name


def test_each_optimizer_of_a_list_scores_its_own_parameters_once(model):
    optimizers = [
        torch.optim.SGD(model.fc1.parameters(), lr=0.0),
        torch.optim.SGD(model.fc2.parameters(), lr=0.0),
    ]
    rule = pomona.Prune(0.5, criterion="taylor")
    pruner = pomona.Pruner(model, {"fc*": rule}, optimizer=optimizers)
    images, labels = batch(0)
    nn.functional.cross_entropy(model(images), labels).backward()
    for optimizer in optimizers:
        optimizer.step()
    scores = pruner.state_dict()["scores"]
    for name in ("fc1.weight", "fc2.weight"):
        weight = weights(model)[name]
        assert torch.allclose(scores[name], (weight * weight.grad).abs())


class EightBit(torch.Tensor):
    """A wrapper of int8 codes that shows floats, as 8-bit optimizer states do."""

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    def __init__(self, values: torch.Tensor) -> None:
        self.encode(values)

    def encode(self, values: torch.Tensor) -> None:
        self.scale = values.abs().max().clamp(min=1e-12) / 127
        self.codes = (values / self.scale).round().to(torch.int8)

    def dequantize(self) -> torch.Tensor:
        return self.codes.float() * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.copy_.default:
            args[0].encode(args[1])
            return args[0]
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"8-bit state refuses {func}")


def test_encoded_first_moments_are_zeroed_through_what_they_decode_to(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = pomona.Pruner(model, {"fc1": 0.5}, optimizer=optimizer)
    state = EightBit(torch.randn(model.fc1.weight.shape))
    codes = torch.randint(0, 255, model.fc1.weight.shape, dtype=torch.uint8)
    optimizer.state[model.fc1.weight] = {"exp_avg": state, "state1": codes.clone()}
    before = state.dequantize()
    with pytest.warns(UserWarning, match=r"optimizer state \['state1'\] is unknown and left as"):
        pruner.step()
    keep = pruner.masks()["fc1.weight"]
    assert state.dequantize()[~keep].count_nonzero() == 0
    assert torch.allclose(state.dequantize()[keep], before[keep], atol=float(state.scale))
    assert torch.equal(optimizer.state[model.fc1.weight]["state1"], codes)


def test_an_average_is_pruned_by_apply(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    pruner = pruned(model, optimizer)
    for index in range(20):
        train(model, optimizer, index, index + 1)
        average.update_parameters(model)
    pruner.apply_(average.module)
    assert alive(average.module, pruner) == 0


def test_export_of_a_pruned_model_gives_the_same_output(model):
    pomona.Pruner(model, RULES).step()
    images, _ = batch(0)
    exported = torch.export.export(model.eval(), (images,))
    assert torch.equal(exported.module()(images), model(images))


def test_masks_of_torch_prune_become_ours_and_back(model):
    from torch.nn.utils import prune

    prune.l1_unstructured(model.fc1, "weight", amount=0.6)
    mask = pomona.Mask.from_tensor(model.fc1.weight_mask.bool())
    prune.remove(model.fc1, "weight")
    pruner = pomona.Pruner(model, {"fc1": 0.6})
    pruner.step()
    keep = pruner.masks()["fc1.weight"]
    assert pomona.Mask.from_tensor(keep) == mask
    assert torch.equal(mask.to_tensor().view(keep.shape), keep)
    prune.custom_from_mask(model.fc1, "weight", keep)
    assert torch.equal(model.fc1.weight, model.fc1.weight_orig * keep)


def test_dsd_of_two_cycles_prunes_by_the_rules_of_each(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rules = [{"*": 0.5}, {"fc1": 0.25, "*": None}]
    dsd = pomona.DSD(model, rules, epochs=(1, 2, 1, 1, 1), optimizer=optimizer)
    seen = []
    for epoch in dsd:
        keep = dsd.masks()
        seen.append(
            (dsd.phase, round(dsd.lr_factor, 6), *(
                round(float(1 - keep[f"{name}.weight"].float().mean()), 2)
                for name in ("fc1", "fc2")
            ))
        )  # fmt: skip
        train(model, optimizer, epoch, epoch + 1)
        dsd.step()
    assert seen == [
        ("dense", 1.0, 0.0, 0.0),
        ("sparse", 0.1, 0.5, 0.5),
        ("sparse", 0.1, 0.5, 0.5),
        ("redense", 0.01, 0.0, 0.0),
        ("sparse", 0.001, 0.25, 0.0),
        ("redense", 0.0001, 0.0, 0.0),
    ]


@pytest.mark.parametrize("stop", range(1, 6))
def test_dsd_of_two_cycles_goes_on_with_the_same_bits(stop):
    def fresh():
        model = SmallNet()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        rules = [{"*": 0.5}, {"*": 0.25}]
        return model, optimizer, pomona.DSD(
            model, rules, epochs=(1, 2, 1, 1, 1), optimizer=optimizer
        )  # fmt: skip

    def run(model, optimizer, dsd, end):
        for epoch in dsd:
            train(model, optimizer, epoch, epoch + 1)
            dsd.step()
            if dsd.epoch == end:
                break

    whole, first, second = fresh(), fresh(), fresh()
    run(*whole, 6)
    run(*first, stop)
    for part, saved in zip(second, first, strict=True):
        part.load_state_dict(copy.deepcopy(saved.state_dict()))
    run(*second, 6)
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)


WRONG_CYCLES = {
    "even": (dict(epochs=(1, 1, 1, 1)), "three integers .* and two more for each further cycle"),
    "rules": (dict(epochs=(1, 1, 1)), "rules for each of 1 cycles, got 2"),
    "factors": (dict(epochs=(1, 1, 1, 1, 1), lr_factors=(1, 0.1)), "to be 5 numbers"),
}


@pytest.mark.parametrize("name", WRONG_CYCLES)
def test_cycles_that_do_not_fit_are_refused(model, name):
    options, message = WRONG_CYCLES[name]
    with pytest.raises(pomona.InvalidArgument, match=message):
        pomona.DSD(model, [{"*": 0.5}, {"*": 0.25}], **options)


def test_a_schedule_in_dsd_is_refused(model):
    rule = pomona.Prune(0.5, schedule=pomona.Cubic(10))
    with pytest.raises(pomona.InvalidArgument, match=r"one-shot schedule for `conv2.weight`"):
        pomona.DSD(model, {"*": rule}, epochs=(1, 1, 1))
