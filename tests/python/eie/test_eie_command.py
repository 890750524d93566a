"""`pomona eie`: tables, JSON, traces and sweeps of a file."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import pomona
from pomona import cli


@pytest.fixture
def path(tmp_path):
    model = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5))
    pomona.Pruner(model, {"*": 0.5}).step()
    pomona.Sharer(model, {"*": pomona.Share(3)}).step()
    pomona.save(model, tmp_path / "net.pomona")
    torch.save({"x": torch.rand(40)}, tmp_path / "x.pt")
    return tmp_path / "net.pomona"


def run(capsys, *arguments):
    code = cli.main(["eie", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prints_a_table(path, capsys):
    code, out, _ = run(capsys, path, "--pes", 4, "--fifo", 16)
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:3]] == ["0", "2"]
    assert lines[5].startswith("4 PEs, 16 queue slots")
    assert "0: random activations, 35 % of them nonzero" in lines


def test_takes_activations_and_writes_json_and_a_picture(path, capsys):
    pytest.importorskip("matplotlib")
    picture = path.with_name("eie.png")
    options = ["--activations", path.with_name("x.pt"), "--json", "--plot", picture]
    code, out, _ = run(capsys, path, *options)
    facts = json.loads(out)
    assert code == 0
    assert [layer["note"] for layer in facts["layers"]] == ["", ""]
    assert picture.exists()


def test_traces_cycles(path, capsys):
    _, out, _ = run(capsys, path, "--pes", 2, "--trace", "0:9")
    rows = [line for line in out.splitlines() if "|" in line]
    assert len(rows) == 6  # the control and two PEs, twice
    assert all(len(row.split("|")[1]) == 10 for row in rows)


def test_sweeps(path, capsys):
    code, out, _ = run(capsys, "sweep", path, "--pes", "2,4", "--fifo", "2,8")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["2", "2"],
        ["2", "8"],
        ["4", "2"],
        ["4", "8"],
    ]
    _, out, _ = run(capsys, "sweep", path, "--pes", "2,4", "--json")
    assert [result["machine"]["pes"] for result in json.loads(out)] == [2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pes", "0"], "expected `pes` in 1..1024, got 0."),
        (["--pes", "2,4"], "expected one machine, got several. Use `pomona eie sweep`."),
        (["--pes", "many"], "expected --pes to be numbers, got 'many'."),
        (["--trace", "5"], "expected --trace FIRST:LAST, got '5'."),
        (["--code-bits", "2"], "to have at most 3 centroids"),
        (["other.pomona"], "expected one FILE, got"),
    ],
)
def test_says_what_is_wrong(path, capsys, options, message):
    code, out, err = run(capsys, path, *options)
    assert code == 1
    assert out == ""
    assert message in err


def test_a_file_that_is_not_there(path, capsys):
    code, _, err = run(capsys, path.with_name("none.pomona"))
    assert code == 1
    assert "No such file" in err
