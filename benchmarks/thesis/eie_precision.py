"""Accuracy in EIE's arithmetic, 8 to 32 bits, beside float32 (EIE Figure 10; thesis §6.6).

    python benchmarks/thesis/eie_precision.py [--images 10000] [--resnet-images 1000] [--only NAME]

LeNet-300-100 is our own, from pruning to the file: trained, pruned to the paper's densities, shared
by 15 centroids (EIE's 4-bit codes, one of them the filler's), fine-tuned, saved, loaded in its
compressed form, and also run packed in `infer`'s fixed16, whose sums are exact. LeNet-5 and
ResNet-20 have published weights, half of them pruned in one shot and shared by 255 centroids,
without training: what is compared is arithmetic with arithmetic. The digits behind the point are
chosen on training images. Error in percent of the test images; "differ" counts predictions that are
not float32's.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import RESULTS, write_table  # noqa: E402
from data import Dataset, load  # noqa: E402
from models import LeNet5  # noqa: E402
from pruning_lenet import RECIPES, dense_and_pruned  # noqa: E402
from resnet20 import published, read_safetensors  # noqa: E402
from resnet20 import to_input as to_cifar  # noqa: E402
from training_loop import fit, to_input  # noqa: E402

import pomona  # noqa: E402
from pomona import eie  # noqa: E402

MODELS = ROOT.parent / "shared" / "models"
ARITHMETICS = ("fixed32", "fixed16", "fixed8")
CALIBRATION = 64  # training images


def lenet300() -> tuple[torch.nn.Module, Dataset]:
    """Our own, through the file."""
    recipe = RECIPES[1]
    model, dataset, _ = dense_and_pruned(recipe, 0, tune=False, quick=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    sharer = pomona.Sharer(model, {"*": pomona.Share(4, codes=15)}, optimizer=optimizer)
    sharer.step()
    fit(model, optimizer, dataset, epochs=2, lr=3e-4, shift=recipe.shift, bfloat16=False)
    sharer.finalize()
    loaded = recipe.model()
    with tempfile.TemporaryDirectory() as folder:
        pomona.save(model, Path(folder) / "net.pomona")
        pomona.load_(loaded, Path(folder) / "net.pomona")
    return loaded, dataset


def lenet5() -> tuple[torch.nn.Module, Dataset]:
    """Published, half pruned, shared by 255."""
    tensors = read_safetensors(MODELS / "lenet5_mnist.safetensors")
    model = LeNet5()
    model.load_state_dict({name.replace("ip", "fc"): value for name, value in tensors.items()})
    return halved(model), load("mnist")


def resnet20() -> tuple[torch.nn.Module, Dataset]:
    """The same for ResNet-20."""
    return halved(published(MODELS / "resnet20_cifar10.safetensors")), load("cifar10")


def halved(model: torch.nn.Module) -> torch.nn.Module:
    pomona.Pruner(model, {"*": 0.5}).step()
    pomona.Sharer(model, {"*": pomona.Share(8, codes=255)}).step()
    return model


def packed_fixed16(model: torch.nn.Module) -> torch.nn.Module:
    """Its linear layers in infer's 16-bit form."""

    def pack(layer: torch.nn.Linear) -> torch.nn.Module:
        return pomona.nn.PackedLinear(layer.weight, layer.bias, layout="pgv", precision="fixed16")

    copy = deepcopy(model)
    for name, module in list(copy.named_children()):
        if isinstance(module, torch.nn.Linear):
            setattr(copy, name, pack(module))
    return copy


@torch.no_grad()
def predictions(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The class of each image."""
    return torch.cat([model(some).argmax(1) for some in images.split(250)])


def rows_of(
    name: str,
    model: torch.nn.Module,
    dataset: Dataset,
    count: int,
    to_images: Callable[[torch.Tensor], torch.Tensor],
    options: dict[str, object],
) -> list[list[object]]:
    """One network in every arithmetic."""
    model.eval()
    images, labels = to_images(dataset.test_images[:count]), dataset.test_labels[:count]
    calibration = to_images(dataset.train_images[:CALIBRATION])
    plain = predictions(model, images)
    found = {"float32": plain}
    if name == "LeNet-300-100":
        found["packed, fixed16"] = predictions(packed_fixed16(model), images)
    for arithmetic in ARITHMETICS:
        with eie.emulated(model, calibration, arithmetic=arithmetic, **options):
            found[f"EIE, {arithmetic}"] = predictions(model, images)
        print(f"  {name}: {arithmetic} done", flush=True)
    return [
        [
            name,
            count,
            how,
            f"{100 * (classes != labels).double().mean():.2f}",
            int((classes != plain).sum()),
        ]
        for how, classes in found.items()
    ]


def main() -> None:
    """Three networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="of MNIST's test set")
    parser.add_argument("--resnet-images", type=int, default=1000, help="of CIFAR-10's test set")
    parser.add_argument("--only", default="", help="networks that hold this")
    arguments = parser.parse_args()
    wide = {"code_bits": 8, "signed": True}  # there is no ReLU before every layer
    networks = {
        "LeNet-300-100": (lenet300, arguments.images, to_input, {}),
        "LeNet-5": (lenet5, arguments.images, lambda x: to_input(x) * (255 / 256), wide),
        "ResNet-20": (resnet20, arguments.resnet_images, to_cifar, wide),
    }
    rows = []
    for name, (make, count, to_images, options) in networks.items():
        if arguments.only in name:
            rows += rows_of(name, *make(), count, to_images, options)
    columns = ["network", "images", "arithmetic", "error %", "differ"]
    if arguments.only:
        print(columns, *rows, sep="\n")
        return
    title = "Accuracy in EIE's arithmetic (EIE Fig. 10)"
    write_table("eie_precision", title, columns, rows)
    plot(list(networks), rows)


def plot(networks: list[str], rows: list[list[object]]) -> None:
    """A group of bars for each network, beside the JSON; and the same as CSV."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    hows = ["float32", *(f"EIE, {arithmetic}" for arithmetic in ARITHMETICS)]
    errors = {(row[0], row[2]): float(str(row[3])) for row in rows}
    for i, how in enumerate(hows):
        places = [n + (i - 1.5) * 0.2 for n in range(len(networks))]
        axes.bar(places, [errors[n, how] for n in networks], 0.2, label=how)
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("error, %")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    path = RESULTS / f"{datetime.date.today().isoformat()}-eie_precision"
    figure.savefig(path.with_suffix(".png"))
    lines = ["network,arithmetic,error %", *(f'{r[0]},"{r[2]}",{r[3]}' for r in rows)]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
