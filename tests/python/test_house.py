"""The rules of the house: who may include whom, what knows no torch, what every operator has.

The table RULES is the whole include rule; the tests below only read it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import pomona

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = "csrc/include/pomona"

# The folder of a file, and the folders of ours that its files may include besides their own.
# Public headers are the contract of their chapter: including one counts as including the chapter.
CHAPTERS = {
    "base": (),
    "format": ("base",),
    "encode": ("base", "format"),
    "prune": ("base", "format"),
    "quantize": ("base", "format"),
    "infer": ("base", "format"),
    "eie": ("base", "format"),
    "dsd": ("base", "format", "prune"),
    "nn": ("base", "format", "encode", "prune", "quantize", "infer", "dsd", "eie"),
}

# The chapter of each public header, and whether it is torch-free.
HEADERS = {
    "export.h": ("base", True),
    "error.h": ("base", True),
    "rules.h": ("base", True),
    "patterns.h": ("base", True),
    "parallel.h": ("base", True),
    "live.h": ("base", False),  # an aggregate of tensors for one call; it includes nothing of ours
    "mask.h": ("format", True),
    "interleaved.h": ("format", True),
    "packed_bits.h": ("format", True),
    "weight.h": ("format", True),
    "dropout.h": ("prune", True),
    "prune_rule.h": ("prune", True),
    "selection.h": ("prune", True),
    "prune.h": ("prune", False),
    "dead_plan.h": ("prune", False),
    "dsd.h": ("dsd", False),
    "codebook.h": ("quantize", True),
    "quantize.h": ("quantize", False),
    "encode.h": ("encode", True),
    "eie.h": ("eie", True),
    "file.h": ("encode", True),
    "packed.h": ("infer", True),
    "packing.h": ("nn", True),
    "infer.h": ("infer", False),
    "fisher.h": ("nn", False),
    "io.h": ("nn", False),
    "nn.h": ("nn", False),
    "cached_tensors.h": ("nn", False),
    "load_packed.h": ("nn", False),
    "optim.h": ("nn", False),
    "packed_attention.h": ("nn", False),
    "packed_rnn.h": ("nn", False),
    "projections.h": ("nn", False),
    "dead.h": ("nn", False),
    "retrain.h": ("nn", False),
    "scan.h": ("nn", True),
    "sensitivity.h": ("nn", False),
}

# Folders of csrc whose every source is in pomona_core; elsewhere that holds for what a
# `*_kernel.*` file is, and for the sources of TORCH_FREE.
CORE_FOLDERS = ("base", "format", "encode", "eie")
TORCH = re.compile(r"(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
CPP_SUFFIXES = (".h", ".cpp", ".cu", ".cuh")


def files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in CPP_SUFFIXES)


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def includes(name: str) -> list[str]:
    return [match[1] for match in INCLUDE.findall((ROOT / name).read_text())]


def chapter_of_include(included: str) -> str | None:
    """The chapter that an include line names; None for what is not ours."""
    head, _, rest = included.partition("/")
    if head == "pomona":
        return HEADERS.get(rest, ("a header that is not in the table", False))[0]
    if head == "cuda":
        return "cuda"
    if head == "bindings" or included == "Python.h" or head == "pybind11":
        return "python"
    return head if head in CHAPTERS else None


def core_sources() -> set[str]:
    """Every source that CMake puts into pomona_core."""
    found = set()
    for lists in (ROOT / "csrc").rglob("CMakeLists.txt"):
        calls = re.findall(r"target_sources\(pomona_core PRIVATE([^)]*)\)", lists.read_text())
        for source in " ".join(calls).split():
            found.add((lists.parent / source).relative_to(ROOT).as_posix())
    return found


def is_torch_free(name: str) -> bool:
    path = Path(name)
    if name.startswith(PUBLIC):
        return HEADERS.get(path.name, ("", False))[1]
    if name.startswith("csrc/") and path.parts[1] in CORE_FOLDERS:
        return True
    return "_kernel." in path.name or name in core_sources()


ALL = names(files("csrc", "cuda"))
CHAPTER_FILES = [name for name in ALL if Path(name).parts[1] in CHAPTERS]
PUBLIC_FILES = names(files(PUBLIC))


def test_every_public_header_stands_in_the_table():
    assert {Path(name).name for name in PUBLIC_FILES} == set(HEADERS)


def test_every_folder_of_csrc_stands_in_the_table():
    folders = {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    assert folders - {"include"} <= set(CHAPTERS)


@pytest.mark.parametrize("name", CHAPTER_FILES)
def test_chapter_includes_only_what_the_table_allows(name):
    tree, own = Path(name).parts[:2]
    allowed = {own, *CHAPTERS[own], *({"cuda"} if tree == "cuda" else ())}
    used = {included: chapter_of_include(included) for included in includes(name)}
    assert {i: c for i, c in used.items() if c is not None and c not in allowed} == {}


def test_cmake_installs_every_public_header():
    listed = re.findall(r"\w+\.h\b", (ROOT / "csrc/CMakeLists.txt").read_text())
    assert sorted(listed) == sorted(HEADERS)


@pytest.mark.parametrize("name", [n for n in PUBLIC_FILES if Path(n).name in HEADERS])
def test_public_header_includes_only_public_headers_the_table_allows(name):
    own = HEADERS[Path(name).name][0]
    ours = [i for i in includes(name) if chapter_of_include(i) is not None]
    assert [i for i in ours if not i.startswith("pomona/")] == []
    assert {chapter_of_include(i) for i in ours} <= {own, *CHAPTERS[own]}


@pytest.mark.parametrize("name", [name for name in ALL if is_torch_free(name)])
def test_torch_free_file_includes_no_torch_directly_or_through_ours(name):
    seen, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for included in includes(current):
            assert not TORCH.match(included), f"{current} includes {included}"
            for root in ("csrc", "csrc/include", "cuda", str(Path(current).parent)):
                found = (ROOT / root / included).resolve()
                if found.is_file() and found.relative_to(ROOT).as_posix() not in seen:
                    waiting.append(found.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("name", names(files("python/bindings")))
def test_bindings_include_public_headers_only(name):
    ours = [i for i in includes(name) if (ROOT / "csrc" / i).is_file() or i.startswith("cuda/")]
    assert ours == []


@pytest.mark.parametrize("name", names(files("csrc", "python/bindings", "examples", "tests/cpp")))
def test_cpu_and_cuda_meet_only_in_the_dispatcher(name):
    # The bindings tell the build's facts, as values and not as conditions.
    conditions = re.findall(r"^\s*#\s*(?:el)?if.*\b\w*CUDA\w*.*$", (ROOT / name).read_text(), re.M)
    assert conditions == []


def test_cmake_never_globs():
    lists = [*ROOT.glob("CMakeLists.txt"), *ROOT.glob("cmake/*")]
    for folder in ("csrc", "cuda", "python", "tests", "examples", "benchmarks"):
        lists += (ROOT / folder).rglob("CMakeLists.txt")
    globbing = [path for path in lists if re.search(r"\bGLOB(_RECURSE)?\b", path.read_text())]
    assert names(globbing) == []


@pytest.mark.parametrize("name", [n for n in ALL if n.endswith((".cpp", ".cu"))])
def test_every_source_is_in_a_cmake_list(name):
    path = ROOT / name
    assert path.name in re.findall(r"[\w.]+", (path.parent / "CMakeLists.txt").read_text())


def operators() -> list[str]:
    text = (ROOT / "csrc/schema.cpp").read_text()
    return re.findall(r'm\.def\(\s*"(\w+)\(', text)


def test_schema_lists_operators():
    assert "apply_masks_" in operators()


@pytest.mark.parametrize("key", ["CPU", "Meta", *(["CUDA"] if pomona._C.with_cuda else [])])
@pytest.mark.parametrize("operator", operators())
def test_every_operator_has_a_kernel_for_each_device(operator, key):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pomona::{operator}", key)


def names_in_stub() -> dict[str, set[str]]:
    """Each name that `_C.pyi` declares, with the members that it gives a class."""
    body = ast.parse((ROOT / "python/pomona/_C.pyi").read_text()).body
    declared = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            members = node.body if isinstance(node, ast.ClassDef) else []
            declared[node.name] = {m.name for m in members if isinstance(m, ast.FunctionDef)}
        elif isinstance(node, ast.AnnAssign):
            declared[node.target.id] = set()
    return declared


def is_public(name: str) -> bool:
    return not name.startswith("_")


def test_stub_declares_what_the_bindings_have():
    assert set(names_in_stub()) == set(filter(is_public, dir(pomona._C)))


@pytest.mark.parametrize("name", [n for n, members in names_in_stub().items() if members])
def test_stub_declares_the_members_of_each_class(name):
    bound = set(filter(is_public, dir(getattr(pomona._C, name))))
    assert set(filter(is_public, names_in_stub()[name])) == bound
