"""README's programs do what they say: the Python runs, the C++ compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

CPP_FRAME = """
#include <torch/nn/module.h>
#include <torch/optim/sgd.h>
{includes}
void program(std::shared_ptr<torch::nn::Module> model, torch::optim::SGD& optimizer) {{
{body}
}}
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def test_python_of_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = {"conv": nn.Conv2d(1, 4, 3), "flat": nn.Flatten(), "fc": nn.Linear(144, 10)}
    model = nn.Sequential(OrderedDict(layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(4, 1, 8, 8)
    epochs = []

    def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        epochs.append(model(x).square().mean())
        optimizer.zero_grad()
        epochs[-1].backward()
        optimizer.step()

    names = {"model": model, "optimizer": optimizer, "x": x, "train_one_epoch": train_one_epoch}
    exec(block("python"), names)
    assert len(epochs) == 60
    assert (tmp_path / "net.pomona").stat().st_size < 4 * 1500


@pytest.mark.slow
def test_cpp_of_readme_compiles(tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    lines = block("cpp").splitlines()
    includes = "\n".join(line for line in lines if line.startswith("#include"))
    body = "\n".join(line for line in lines if not line.startswith("#include"))
    source = tmp_path / "readme.cpp"
    source.write_text(CPP_FRAME.format(includes=includes, body=body))
    torch_headers = Path(torch.__file__).parent / "include"
    folders = [torch_headers, torch_headers / "torch/csrc/api/include"]
    command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{ROOT / 'csrc/include'}"]
    command += [f"-isystem{folder}" for folder in folders]
    result = subprocess.run([*command, source], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:4000]
