"""pomona.eie: layers, networks and files on the machine, against the plain reference."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from eie_layers import activations, saved_network, shared
from reference import eie as reference
from torch import nn
from torch.nn import functional

import pomona
from pomona import eie


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )
    with torch.no_grad():
        for index, module in enumerate(model):
            if hasattr(module, "weight"):
                module.weight.copy_(shared(*module.weight.shape, density=0.6, seed=index))
    return model.eval()


@pytest.mark.parametrize("arithmetic", ["fixed8", "fixed16", "fixed32"])
@pytest.mark.parametrize("pes", [1, 5, 64])
def test_outputs_are_those_of_the_reference(arithmetic, pes):
    weight, bias, x = shared(70, 50), shared(70, density=1.0, seed=3), activations(2, 50)
    result = eie.simulate(
        weight, x, bias=bias, samples=2, pes=pes, arithmetic=arithmetic, measure=False
    )
    layer = result.layers[0]
    bits = int(arithmetic.removeprefix("fixed"))
    for got, vector in zip(layer.outputs, x, strict=True):
        expected = reference.product(
            weight.numpy(), bias.numpy(), vector.numpy(), layer.digits, bits
        )
        assert torch.equal(got, torch.tensor(expected))  # of 32 bits, float32 holds the first 24


@pytest.mark.parametrize("seed", range(5))
def test_outputs_stay_within_the_bound_of_docs_eie(seed):
    weight, x = shared(80, 200, seed=seed), activations(1, 200, seed=seed + 50)
    layer = eie.simulate(weight, x, measure=False).layers[0]
    of_weight, of_input, of_output = (0.5 * 2.0**-digits for digits in layer.digits)
    exact = functional.linear(x.double(), weight.double())[0]
    products = ((weight != 0) & (x != 0)).sum(1)
    bound = products * of_output  # each is rounded once
    bound = bound + (x.abs() * (weight != 0)).sum(1) * of_weight
    bound = bound + (weight.abs() * (x != 0)).sum(1) * of_input + products * of_weight * of_input
    assert ((layer.outputs[0] - exact).abs() <= bound).all()
    packed = pomona.nn.PackedLinear(weight, layout="pgv", precision="fixed16")(x)[0]
    assert ((layer.outputs[0] - packed).abs() <= bound + 1e-4 * exact.abs().max()).all()


def test_a_layer_alone_is_a_network():
    layer = nn.Linear(50, 20)
    with torch.no_grad():
        layer.weight.copy_(shared(20, 50))
    x = activations(1, 50)
    result = eie.simulate(layer, x, measure=False)
    assert [found.name for found in result.layers] == ["Linear"]
    with eie.emulated(layer, x):
        assert torch.equal(layer(x), result.layers[0].outputs)


def test_signed_activations_are_passed_on_when_asked():
    weight, x = shared(30, 40), torch.randn(1, 40, generator=torch.Generator().manual_seed(5))
    plain = eie.simulate(weight, x, measure=False).layers[0]
    both = eie.simulate(weight, x, signed=True, measure=False).layers[0]
    assert "activations below zero skipped" in plain.note
    assert torch.equal(
        plain.outputs, eie.simulate(weight, x.relu(), measure=False).layers[0].outputs
    )
    assert torch.allclose(both.outputs, functional.linear(x, weight), atol=2e-3)
    expected = reference.product(weight.numpy(), None, x[0].numpy(), both.digits, signed=True)
    assert both.outputs[0].tolist() == expected


def test_the_memories_hold_what_the_reference_interleaves():
    weight = shared(150, 20, density=0.04)
    fillers = sum(
        len([v for v in reference.interleaved(weight.numpy(), 4, pe)[0] if v == 0])
        for pe in range(4)
    )
    layer = eie.simulate(weight, activations(20), pes=4, measure=False).layers[0]
    assert fillers > 0
    assert layer.fillers == fillers
    assert layer.nonzeros == int(weight.count_nonzero())


def test_figure_three_of_the_paper():
    weight = torch.zeros(16, 8)
    places = [(0, 0), (8, 0), (12, 0), (4, 1), (0, 2), (12, 2), (0, 4)]
    places += [(4, 4), (0, 5), (12, 5), (0, 6), (8, 7), (12, 7)]
    for place in places:
        weight[place] = 1.0
    values, gaps, pointers = reference.interleaved(weight.numpy(), pes=4, pe=0)
    assert values == [1.0] * 13
    assert gaps == [0, 1, 0, 1, 0, 2, 0, 0, 0, 2, 0, 2, 0]
    assert pointers == [0, 3, 4, 6, 6, 8, 10, 11, 13]


def test_a_network_gets_the_activations_of_its_own_forward_pass():
    model, images = network(), activations(3, 1, 8, 8)
    result = eie.simulate(model, images, samples=3, pes=4, measure=False)
    assert [layer.name for layer in result.layers] == ["0", "3", "5"]
    conv, first, last = result.layers
    assert (conv.products, conv.simulated) == (16, 48)
    assert torch.allclose(conv.outputs.view(3, 4, 4, 4), model[0](images), atol=1e-3)
    assert torch.allclose(last.outputs, model(images), atol=1e-3)
    assert first.outputs.shape == (3, 20)
    assert result.cycles == pytest.approx(sum(layer.cycles for layer in result.layers))
    assert all(layer.load_balance <= 1 and layer.energy_nj > 0 for layer in result.layers)


def test_a_convolution_is_scaled_from_some_positions():
    model, images = network(), activations(1, 1, 8, 8, density=1.0)
    every = eie.simulate(model, images, measure=False).layers[0]
    some = eie.simulate(model, images, products=4, measure=False).layers[0]
    assert (some.simulated, some.products) == (4, 16)
    assert some.cycles == pytest.approx(every.cycles, rel=0.2)
    assert torch.equal(some.outputs, every.outputs)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding="same", dilation=2),
        nn.Conv2d(3, 4, (2, 4), padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", stride=2),
        nn.Conv2d(3, 4, 1, bias=False),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_every_kind_of_convolution(conv):
    with torch.no_grad():
        conv.weight.copy_(shared(*conv.weight.shape, density=0.7))
    images = activations(2, 3, 9, 7)
    with eie.emulated(conv, images):
        got = conv(images)
    assert got.shape == conv(images).shape
    assert torch.allclose(got, conv(images), atol=2e-3)


def test_a_grouped_convolution_is_left_out_and_said_so():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight.copy_(shared(3, 8))
    result = eie.simulate(model, activations(1, 2, 4, 4), measure=False)
    assert [layer.name for layer in result.layers] == ["2"]
    assert result.skipped == {"0": "a convolution of 2 groups"}
    assert "0: not simulated, a convolution of 2 groups" in str(result)


def test_a_layer_that_is_not_shared_is_left_out_and_said_so(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 8))
    with torch.no_grad():
        model[2].weight.copy_(shared(8, 30))
    x = activations(2, 40)
    result = eie.simulate(model, x, measure=False)
    assert [layer.name for layer in result.layers] == ["2"]
    assert result.skipped == {"0": "its weights are not shared"}
    pomona.save(model, tmp_path / "net.pomona")
    assert eie.simulate(tmp_path / "net.pomona", measure=False).skipped == result.skipped
    with eie.emulated(model, x):
        assert torch.allclose(model(x), model[2](model[1](model[0](x))))
    with pytest.raises(pomona.InvalidArgument, match=r"\(0: its weights are not shared\)"):
        eie.simulate(model[:1], x)


def test_emulated_network_runs_in_the_arithmetic_of_the_machine():
    model, images = network(), activations(4, 1, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(images)
    with eie.emulated(model, images, pes=4):
        got = model(images)
    assert not torch.equal(got, expected)
    assert torch.allclose(got, expected, atol=2e-3)
    assert torch.equal(model(images), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with eie.emulated(model, images, arithmetic="float32"):
        assert torch.allclose(model(images), expected, atol=1e-5)
    with eie.emulated(model, images, arithmetic="fixed8"):
        coarse = (model(images) - expected).abs().max()
    assert coarse > (got - expected).abs().max()


def test_an_exception_inside_takes_the_hooks_away():
    model, images = network(), activations(1, 1, 8, 8)
    with pytest.raises(RuntimeError, match="stop"), eie.emulated(model, images):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())


def test_compact_layers_run_too():
    model = nn.Sequential(nn.Linear(30, 12), nn.ReLU(), nn.Linear(12, 4))
    sharer = pomona.Sharer(model, {"*": pomona.Share(3)})
    sharer.step()
    sharer.to_layers_(model)
    x = activations(1, 30)
    result = eie.simulate(model, x, measure=False)
    assert torch.allclose(result.layers[1].outputs, model(x), atol=2e-3)


def test_a_file_runs_layer_after_layer(tmp_path):
    model, path = saved_network(tmp_path)
    x = activations(2, 40)
    result = eie.simulate(path, x, samples=2, measure=False)
    assert [layer.name for layer in result.layers] == ["0", "2"]
    assert torch.allclose(result.layers[1].outputs, model(x), atol=2e-3)
    by_name = eie.simulate(path, {"2": activations(1, 20)}, measure=False)
    assert [layer.name for layer in by_name.layers] == ["2"]
    assert by_name.skipped == {"0": "no activations were given"}
    drawn = eie.simulate(path, density=0.5, measure=False)
    assert "random activations, 50 % of them nonzero" in drawn.layers[0].note


def test_layers_that_do_not_fit_run_in_tiles_and_say_so():
    weight, x = shared(300, 60), activations(60)
    whole = eie.simulate(weight, x, pes=2, unbounded=True, measure=False).layers[0]
    tiled = eie.simulate(weight, x, pes=2, measure=False).layers[0]
    assert whole.tiles == 1
    assert tiled.tiles == 3  # 128 rows at a time
    assert "run in 3 tiles" in tiled.note
    assert torch.equal(whole.outputs, tiled.outputs)


def test_an_lstm_step_is_one_layer():
    cell = nn.LSTMCell(10, 6)
    with torch.no_grad():
        cell.weight_ih.copy_(shared(24, 10))
        cell.weight_hh.copy_(shared(24, 6, seed=4))
    x, hidden = torch.randn(1, 10), torch.randn(1, 6)
    weight, bias, vector = eie.lstm_step(cell, x, hidden)
    got = eie.simulate(weight, vector, bias=bias, signed=True, measure=False).layers[0].outputs
    gates = functional.linear(x, cell.weight_ih, cell.bias_ih)
    gates = gates + functional.linear(hidden, cell.weight_hh, cell.bias_hh)
    assert torch.allclose(got, gates, atol=2e-3)
    lstm = nn.LSTM(10, 6)
    assert eie.lstm_step(lstm, x, hidden)[0].shape == (24, 16)


def test_a_trace_shows_a_row_for_each_pe():
    layer = eie.simulate(
        torch.ones(3, 2), torch.ones(2), pes=1, trace=(2, 9), measure=False
    ).layers[0]
    assert layer.trace == "cycles 2 to 9\nCCU  |B.......|\nPE 0 |.######.|\n"


def test_sweep_tries_every_machine():
    weight, x = shared(200, 200), activations(200)
    results = eie.sweep(weight, x, pes=(4, 16), fifo=(2, 8))
    assert [(r.machine.pes, r.machine.fifo) for r in results] == [(4, 2), (4, 8), (16, 2), (16, 8)]
    assert results[0].cycles > results[1].cycles > results[3].cycles
    assert len(eie.sweep_table(results).splitlines()) == 5
    small = eie.sweep(weight, x, pes=(4,), machine=eie.Machine(gap_bits=8), samples=1)
    assert small[0].machine == eie.Machine(pes=4, gap_bits=8)
    assert small[0].layers[0].fillers == 0


def test_result_as_table_json_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    result = eie.simulate(network(), activations(1, 1, 8, 8))
    assert all(layer.cpu_dense_us > 0 for layer in result.layers)
    assert result.layers[1].cpu_packed_us > 0
    lines = str(result).splitlines()
    assert lines[0].split()[:2] == ["layer", "shape"]
    assert lines[-1] == "64 PEs, 8 queue slots, 40.8 mm2"
    facts = json.loads(result.to_json(tmp_path / "result.json"))
    assert facts == json.loads((tmp_path / "result.json").read_text())
    assert facts["machine"]["pes"] == 64
    assert facts["layers"][2]["cycles"] == result.layers[2].cycles
    result.plot(tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def test_energy_and_area():
    machine = eie.Machine()
    assert sum(machine.area_mm2().values()) == pytest.approx(40.8, abs=0.1)
    small = eie.Machine(pes=256, technology="28nm")
    assert sum(small.area_mm2().values()) == pytest.approx(63.8, abs=0.3)
    assert small.seconds(1.2e9) == pytest.approx(1.0)
    weight, x = shared(256, 256), activations(256)
    usual = eie.simulate(weight, x, measure=False)
    later = eie.simulate(weight, x, technology="28nm", measure=False)
    assert later.cycles == usual.cycles
    assert later.microseconds == pytest.approx(usual.microseconds / 1.5)
    assert later.energy_nj == pytest.approx(usual.energy_nj * 2 / 3, rel=1e-3)


def test_a_pe_that_is_never_idle_has_the_power_of_table_two():
    weight, x = torch.full((8, 4096), 0.5), torch.ones(4096)  # each column is a line
    layer = eie.simulate(weight, x, pes=1, unbounded=True, measure=False).layers[0]
    milliwatts = {unit: pj / layer.microseconds * 1e-3 for unit, pj in layer.energy_pj.items()}
    paper = {"queue": 0.112, "pointer_read": 1.807, "matrix_read": 4.955}
    paper |= {"arithmetic": 1.162, "activation": 1.122, "lnzd": 0.0}
    assert milliwatts == pytest.approx(paper, rel=0.01)
    assert sum(milliwatts.values()) == pytest.approx(9.157, rel=0.01)
    assert 1e6 * sum(eie.Machine(pes=1).area_mm2().values()) == pytest.approx(638_024, rel=1e-4)


def test_machines_are_values():
    machine = eie.Machine(pes=16)
    assert pickle.loads(pickle.dumps(machine)) == machine
    assert eie.simulate(shared(8, 8), activations(8), machine=machine, measure=False).machine is (
        machine
    )


def test_balanced_pruning_gives_every_pe_equally_many():
    torch.manual_seed(0)
    rows = torch.linspace(0.2, 2.0, 64)[:, None]  # some neurons have larger weights
    results = {}
    for granularity in ("element", "balanced:16"):
        model = nn.Sequential(nn.Linear(300, 64))
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(64, 300, generator=torch.Generator().manual_seed(1)))
            model[0].weight.mul_(
                rows[torch.randperm(64, generator=torch.Generator().manual_seed(2))]
            )
        pomona.Pruner(model, {"0": pomona.Prune(0.9, granularity=granularity)}).step()
        pomona.Sharer(model, {"0": pomona.Share(3)}).step()
        kept = [int(model[0].weight[pe::16].count_nonzero()) for pe in range(16)]
        results[granularity] = eie.simulate(model, activations(1, 300), pes=16, measure=False)
        if granularity == "balanced:16":
            assert set(kept) == {120}
    assert results["balanced:16"].cycles < results["element"].cycles
    assert results["balanced:16"].layers[0].load_balance > results["element"].layers[0].load_balance
