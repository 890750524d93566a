"""The command ``pomona``: compressed files without writing a program."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import _C, convert, eie
from .io import CODINGS, File, load, save
from .report import entries_table, fp32_bytes, percent, ratio, shape_text, size, text_table
from .rules import Prune, Rules, Share, rules_from_json

_FIELDS = (
    "name",
    "dtype",
    "shape",
    "numel",
    "kept",
    "centroids",
    "group",
    "positions",
    "position_coder",
    "code_coder",
    "gap_bits",
    "fillers",
    "chunk",
    "offset",
    "codebook_bytes",
    "position_bytes",
    "code_bytes",
    "value_bytes",
    "chunk_bytes",
    "bytes",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a file that cannot be read or written (and
    for files that differ), 2 for usage."""
    parsed = _parser().parse_args(arguments)
    try:
        text, code = parsed.run(parsed)
    except (_C.CorruptFile, _C.InvalidArgument) as error:
        return _fail(f"{parsed.file}: {error}")
    except OSError as error:
        name = error.filename or parsed.file
        return _fail(f"{name}: {os.strerror(error.errno) if error.errno else error}")
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written")
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


Run = Callable[[argparse.Namespace], tuple[str, int]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pomona",
        description="Compressed model files.",
        epilog="Exit codes: 0, 1 for a file that cannot be read or written or that differs, "
        "2 for usage. Nothing is written when a command fails.",
    )
    parser.add_argument("--version", action="version", version=f"pomona {_C.version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, words: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=f"{words.capitalize()}. {more}")
        added.set_defaults(run=run)
        return added

    inspect = command("inspect", _inspect, "check a file and show where its bytes go")
    inspect.add_argument("file", metavar="FILE", help="a .pomona file")
    inspect.add_argument("--json", action="store_true", help="the same as JSON")

    compress = command(
        "compress",
        _compress,
        "prune, share and code the tensors of a checkpoint in one step, without training",
        "Tensors only: no pickled code is run.",
    )
    compress.add_argument("file", metavar="IN", help=".safetensors, .pt, .pth, .bin or .pomona")
    compress.add_argument("out", metavar="OUT", help="the .pomona file to write")
    compress.add_argument(
        "--rules",
        metavar="JSON",
        help='what to prune and share: {"prune": {"fc*": 0.9}, "share": {"fc*": 5}}, or a file '
        "with that",
    )
    _add_coding(compress)

    expand = command("expand", _expand, "write the tensors of a file dense again")
    expand.add_argument("file", metavar="FILE", help="a .pomona file")
    expand.add_argument("out", metavar="OUT", help=".safetensors, .pt or .pth")
    expand.add_argument(
        "--shared",
        action="store_true",
        help="codebooks and codes of shared tensors instead of their values (safetensors only)",
    )

    verify = command("verify", _verify, "decode everything in a file and check every checksum")
    verify.add_argument("file", metavar="FILE", help="a .pomona file")

    diff = command("diff", _diff, "compare the tensors of two files")
    diff.add_argument("file", metavar="A", help=".pomona, .safetensors, .pt or .pth")
    diff.add_argument("other", metavar="B", help="the same")

    recode = command("recode", _recode, "write a file anew with another coding, without loss")
    recode.add_argument("file", metavar="FILE", help="a .pomona file")
    recode.add_argument("out", metavar="OUT", nargs="?", help="another file; FILE if left out")
    _add_coding(recode)

    han = command(
        "import-han",
        _import_han,
        "read a .net file of the authors of Deep Compression",
        "The file has no shapes: they are given apart.",
    )
    han.add_argument("file", metavar="NET", help="the .net file")
    han.add_argument("out", metavar="OUT", help="the .pomona file to write")
    han.add_argument(
        "--shapes",
        metavar="JSON",
        required=True,
        help='names and weight shapes in order: {"conv1": [96, 3, 11, 11], "fc6": [4096, 9216]}, '
        "or a file with that",
    )
    _add_coding(han)
    _add_eie(command)
    return parser


def _add_eie(command: Callable[..., argparse.ArgumentParser]) -> None:
    machine = command(
        "eie",
        _eie,
        "run the matrices of a file on EIE, cycle by cycle",
        "Weights must be shared. `pomona eie sweep FILE` compares machines.",
    )
    machine.add_argument("file", metavar="[sweep] FILE", nargs="+", help="a .pomona file")
    machine.add_argument("--pes", default="64", metavar="N", help="of a sweep: 16,64,256")
    machine.add_argument("--fifo", default="8", metavar="N", help="queue slots; of a sweep: 2,8,32")
    machine.add_argument("--sram-width", type=int, default=64, metavar="BITS", help="32 to 512")
    machine.add_argument("--code-bits", type=int, default=4, metavar="N")
    machine.add_argument("--gap-bits", type=int, default=4, metavar="N")
    machine.add_argument(
        "--arithmetic", default="fixed16", choices=("fixed8", "fixed16", "fixed32", "float32")
    )
    machine.add_argument("--technology", default="45nm", choices=("45nm", "28nm"))
    machine.add_argument("--signed", action="store_true", help="pass on activations below zero too")
    machine.add_argument(
        "--activations",
        metavar="IN",
        help="a .safetensors, .pt or .pth with the input of the first layer, or of each by its "
        "name; left out: drawn at random",
    )
    machine.add_argument("--density", type=float, default=0.35, help="of random activations")
    machine.add_argument("--samples", type=int, default=1, metavar="N", help="inputs to simulate")
    machine.add_argument("--trace", metavar="A:B", help="these cycles as text, a row for each PE")
    machine.add_argument("--plot", metavar="OUT.png", help="cycles and energy as a picture")
    machine.add_argument("--json", action="store_true", help="the same as JSON")


def _add_coding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--coding", choices=CODINGS, default="smallest", help="default: %(default)s"
    )
    parser.add_argument(
        "--gap-bits", type=int, default=0, metavar="N", help="2 to 16; 0: the best of each tensor"
    )


def _inspect(parsed: argparse.Namespace) -> tuple[str, int]:
    file = File(parsed.file)
    file.verify(progress=True)
    return (_json(parsed.file, file) if parsed.json else _text(file)), 0


def _compress(parsed: argparse.Namespace) -> tuple[str, int]:
    tensors = convert.read_tensors(parsed.file)
    prune, share = _rules(parsed.rules)
    small = convert.compress(tensors, prune=prune, share=share)
    return _saved(small, parsed), 0


def _expand(parsed: argparse.Namespace) -> tuple[str, int]:
    suffix = Path(parsed.out).suffix.lower()
    if suffix == ".safetensors":
        write = convert.to_shared_safetensors if parsed.shared else convert.to_safetensors
    elif suffix in (".pt", ".pth") and not parsed.shared:
        write = convert.to_state_dict
    else:
        raise _C.InvalidArgument(
            f"expand: expected OUT to end in .safetensors{'' if parsed.shared else ', .pt or .pth'}"
            f", got {parsed.out!r}."
        )
    write(parsed.file, parsed.out)
    return f"{parsed.out}: {size(Path(parsed.out).stat().st_size)}", 0


def _verify(parsed: argparse.Namespace) -> tuple[str, int]:
    file = File(parsed.file)
    file.verify(progress=True)
    return f"{parsed.file}: {len(file)} tensors, {size(file.size)}; every checksum is right", 0


def _diff(parsed: argparse.Namespace) -> tuple[str, int]:
    a, b = convert.read_tensors(parsed.file), convert.read_tensors(parsed.other)
    rows = [row for name in [*a, *(n for n in b if n not in a)] if (row := _compare(name, a, b))]
    if not rows:
        return f"the same {len(a)} tensors, bit for bit", 0
    return text_table(["tensor", "what", "differ", "largest difference"], rows), 1


def _compare(name: str, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str] | None:
    """One row of a diff; nothing for tensors that are the same."""
    if name not in a or name not in b:
        return [name, f"only in {'A' if name in a else 'B'}", "", ""]
    one, other = a[name], b[name]
    if one.shape != other.shape or one.dtype != other.dtype:
        return [name, f"{_kind(one)} and {_kind(other)}", "", ""]
    differ = int((_bytes(one) != _bytes(other)).any(dim=1).sum()) if one.numel() else 0
    if not differ:
        return None
    largest = (one.double() - other.double()).abs().max().item()
    return [name, "values", f"{differ} ({percent(differ, one.numel())})", f"{largest:.3g}"]


def _kind(tensor: torch.Tensor) -> str:
    return f"{shape_text(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of each element, a row each."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).reshape(tensor.numel(), -1)


def _recode(parsed: argparse.Namespace) -> tuple[str, int]:
    before = File(parsed.file)
    metadata = before.metadata
    old = before.size
    parsed.out = parsed.out or parsed.file
    text = _saved(load(parsed.file), parsed, metadata)
    return f"{text}\nbefore: {size(old)}", 0


def _import_han(parsed: argparse.Namespace) -> tuple[str, int]:
    shapes = _json_argument(parsed.shapes, "shapes")
    if not isinstance(shapes, dict) or not all(
        isinstance(s, list) and all(isinstance(n, int) for n in s) for s in shapes.values()
    ):
        raise _C.InvalidArgument(
            f"import-han: expected --shapes {{name: [out, in, ...], ...}}, got {parsed.shapes!r}."
        )
    tensors = convert.read_han(parsed.file, list(shapes.items()))
    return _saved(tensors, parsed), 0


def _eie(parsed: argparse.Namespace) -> tuple[str, int]:
    is_sweep = parsed.file[0] == "sweep" and len(parsed.file) > 1
    files, parsed.file = parsed.file[is_sweep:], parsed.file[-1]
    if len(files) != 1:
        raise _C.InvalidArgument(f"eie: expected one FILE, got {' '.join(files)}.")
    options = {
        "sram_width": parsed.sram_width,
        "code_bits": parsed.code_bits,
        "gap_bits": parsed.gap_bits,
        "arithmetic": parsed.arithmetic,
        "technology": parsed.technology,
        "signed": parsed.signed,
        "samples": parsed.samples,
        "density": parsed.density,
    }
    x = _activations(parsed.activations)
    pes, fifo = _numbers("pes", parsed.pes), _numbers("fifo", parsed.fifo)
    if is_sweep:
        results = eie.sweep(parsed.file, x, pes=pes, fifo=fifo, **options)
        if parsed.json:
            return f"[{', '.join(result.to_json() for result in results)}]", 0
        return eie.sweep_table(results), 0
    if len(pes) != 1 or len(fifo) != 1:
        raise _C.InvalidArgument("eie: expected one machine, got several. Use `pomona eie sweep`.")
    window = None if parsed.trace is None else _window(parsed.trace)
    result = eie.simulate(parsed.file, x, pes=pes[0], fifo=fifo[0], trace=window, **options)
    if parsed.plot:
        result.plot(parsed.plot)
    if parsed.json:
        return result.to_json(), 0
    traces = [f"{x.name}, {x.trace}" for x in result.layers if x.trace]
    return "\n".join([str(result), *traces]).rstrip("\n"), 0


def _activations(path: str | None) -> Any:
    """One tensor, or several by name."""
    if path is None:
        return None
    tensors = convert.read_tensors(path)
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def _numbers(what: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise _C.InvalidArgument(f"eie: expected --{what} to be numbers, got {text!r}.") from None


def _window(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit()):
        raise _C.InvalidArgument(f"eie: expected --trace FIRST:LAST, got {text!r}.")
    return int(first), int(last)


def _saved(
    tensors: dict[str, torch.Tensor], parsed: argparse.Namespace, metadata: Any = None
) -> str:
    report = save(
        tensors,
        parsed.out,
        coding=parsed.coding,
        gap_bits=parsed.gap_bits,
        metadata=metadata,
        progress=True,
    )
    return str(report)


def _rules(text: str | None) -> tuple[Rules | None, Rules | None]:
    """(rules of pruning, rules of sharing) from ``--rules``."""
    if text is None:
        return None, None
    rules = _json_argument(text, "rules")
    if not isinstance(rules, dict) or not rules or set(rules) - {"prune", "share"}:
        raise _C.InvalidArgument(
            'compress: expected --rules {"prune": {pattern: rule}, "share": {pattern: rule}}, '
            f"got {text!r}."
        )
    return _parse(rules.get("prune"), Prune), _parse(rules.get("share"), Share)


def _parse(rules: Any, kind: type) -> Rules | None:
    """Numbers, and dicts of members, by pattern."""
    if rules is None:
        return None
    if not isinstance(rules, dict):
        raise _C.InvalidArgument(f"compress: expected rules by pattern, got {rules!r}.")
    key = "sparsity" if kind is Prune else "bits"
    rows = [
        [pattern, {key: rule} if isinstance(rule, int | float) else rule]
        for pattern, rule in rules.items()
    ]
    return rules_from_json(json.dumps(rows), kind)


def _json_argument(text: str, what: str) -> Any:
    """JSON, or a file with JSON."""
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text()
    try:
        return json.loads(text)
    except ValueError as error:
        raise _C.InvalidArgument(f"--{what}: expected JSON, got {text!r} ({error}).") from error


def _text(file: File) -> str:
    entries = file.entries
    dense = fp32_bytes(entries)
    return (
        f"{entries_table(entries, file.size)}\n"
        f"{len(entries)} tensors in {size(file.size)}, {size(dense)} as fp32"
        f" ({ratio(dense, file.size)} smaller); every checksum is right"
    )


def _json(name: str, file: File) -> str:
    dense = fp32_bytes(file.entries)
    facts = {
        "file": name,
        "bytes": file.size,
        "fp32_bytes": dense,
        "ratio": dense / file.size,
        "metadata": file.metadata,
        "tensors": [{field: getattr(entry, field) for field in _FIELDS} for entry in file.entries],
    }
    return json.dumps(facts, indent=2)


def _fail(message: str) -> int:
    print(f"pomona: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
