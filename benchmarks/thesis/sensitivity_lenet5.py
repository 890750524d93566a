"""The thesis's sensitivity curves of LeNet-5 on all 10,000 test images of MNIST (thesis §3.2).

    python benchmarks/thesis/sensitivity_lenet5.py [--seconds 150]

Writes a table, a CSV and a PNG to benchmarks/results/. The scan is that of
examples/04_sensitivity.py.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "examples")]

from _measure import RESULTS, write_table  # noqa: E402
from data import load  # noqa: E402
from training_loop import error_percent  # noqa: E402

import pomona  # noqa: E402
from pomona._model_state import bits  # noqa: E402

SHOWN = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
TOLERANCE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150.0, help="of training, where it trains")
    seconds = parser.parse_args().seconds
    example = importlib.import_module("04_sensitivity")
    dataset = load("mnist")
    model = example.trained_lenet5(dataset, seconds, 0, Path(example.__file__).parent / "out")
    evaluate = partial(error_percent, dataset=dataset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scan = pomona.sensitivity(model, evaluate, sparsities=example.SPARSITIES)
    after = model.state_dict()
    if not all(bits(after[name]).equal(bits(value)) for name, value in before.items()):
        raise SystemExit("the scan changed the model")
    RESULTS.mkdir(exist_ok=True)
    stem = f"{datetime.date.today().isoformat()}-sensitivity_lenet5"
    scan.to_csv(RESULTS / f"{stem}.csv")
    scan.to_png(RESULTS / f"{stem}.png", title="LeNet-5 on MNIST: sensitivity to pruning")
    write(scan)


def write(scan: pomona.Sensitivity) -> None:
    """A row for each layer, at a few of the sparsities."""
    error = {(p.layer, p.sparsity): f"{p.metric:.2f}" for p in scan.rows}
    rules = scan.rules(TOLERANCE)
    rows = []
    for layer in scan.layers:
        best = f"{100 * rules[layer].sparsity:.0f} %" if rules[layer] else "none"
        dense = f"{scan.dense:.2f}"
        rows.append([layer, scan.sizes[layer], dense, *[error[layer, s] for s in SHOWN], best])
    title = "LeNet-5 on MNIST: error % with one layer pruned, not retrained (10,000 test images)"
    columns = ["layer", "weights", "dense", *[f"{100 * s:.0f} %" for s in SHOWN]]
    write_table("sensitivity_lenet5", title, [*columns, f"up to +{TOLERANCE} points"], rows)


if __name__ == "__main__":
    main()
