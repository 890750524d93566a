"""The command pomona."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import pomona
from pomona.cli import main


@pytest.fixture
def file(tmp_path):
    weight = torch.where(torch.rand(30, 40) < 0.1, torch.tensor(0.5), torch.tensor(0.0))
    path = tmp_path / "net.pomona"
    pomona.save({"fc.weight": weight, "fc.bias": torch.randn(30), "steps": torch.tensor(3)}, path)
    return path


def test_inspect_shows_a_row_for_each_tensor_and_the_whole_file(file, capsys):
    assert main(["inspect", str(file)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["fc.weight", "fc.bias", "steps"]
    assert lines[1].split()[1:3] == ["30x40", "float32"]
    assert str(file.stat().st_size) in lines[5]
    assert lines[-1].startswith("3 tensors in ")
    assert lines[-1].endswith("every checksum is right")
    assert err == ""


def test_inspect_as_json_has_every_number(file, capsys):
    assert main(["inspect", "--json", str(file)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == file.stat().st_size
    assert facts["fp32_bytes"] == 30 * 40 * 4 + 30 * 4 + 8
    assert facts["ratio"] == facts["fp32_bytes"] / facts["bytes"]
    weight = facts["tensors"][0]
    assert (weight["name"], weight["shape"], weight["centroids"]) == ("fc.weight", [30, 40], 1)


@pytest.mark.parametrize("at", [20, -10])
def test_a_damaged_file_is_one_line_on_stderr_and_exit_code_1(file, capsys, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert main(["inspect", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"pomona: {file}: ")
    assert " at byte " in err


def test_a_missing_file_is_one_line_on_stderr_and_exit_code_1(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"pomona: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["paint", "x"], ["inspect", "a", "--xml"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: pomona" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pomona {pomona.__version__}\n"


def test_python_m_pomona_is_the_command(file):
    run = [sys.executable, "-m", "pomona", "inspect", str(file)]
    assert "fc.weight" in subprocess.run(run, check=True, capture_output=True, text=True).stdout


def test_a_reader_that_stops_early_is_no_error(file):
    command = f"'{sys.executable}' -m pomona inspect '{file}' | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True)
    assert done.stderr == b""
