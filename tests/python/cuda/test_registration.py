"""Every operator has a CUDA kernel: in the sources, and in a library built with nvcc."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pomona import _C

ROOT = Path(__file__).resolve().parents[3]
OPERATORS = re.findall(r'm\.def\(\s*"(\w+)\(', (ROOT / "csrc/schema.cpp").read_text())


def test_every_operator_is_implemented_in_a_cuda_file():
    sources = "".join(path.read_text() for path in (ROOT / "cuda").rglob("*.cu"))
    registered = re.findall(r'm\.impl\("(\w+)"', sources)
    assert sorted(registered) == sorted(OPERATORS)


@pytest.mark.skipif(not _C.with_cuda, reason="Pomona was built without CUDA")
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_of_a_cuda_build_has_a_cuda_kernel(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pomona::{name}", "CUDA")
