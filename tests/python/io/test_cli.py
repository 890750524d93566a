"""The command pomona."""

from __future__ import annotations

import json
import random
import struct
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


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "fc1.weight": torch.randn(30, 40),
        "fc1.bias": torch.randn(30),
        "fc2.weight": torch.randn(10, 30),
        "steps": torch.tensor(3),
    }
    path = tmp_path / "net.pt"
    torch.save(tensors, path)
    return path


RULES = '{"prune": {"fc1*": 0.9}, "share": {"fc1*": {"bits": 4, "fit": "linear"}, "fc2*": 3}}'


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_compress_prunes_shares_and_codes_a_checkpoint(checkpoint, tmp_path, capsys):
    out = tmp_path / "net.pomona"
    assert run("compress", checkpoint, out, "--rules", RULES) == 0
    assert "whole file" in capsys.readouterr().out
    file = pomona.File(out)
    assert file["fc1.weight"].count_nonzero() == 120
    assert file["fc1.weight"].unique().numel() <= 16
    assert file["fc2.weight"].unique().numel() <= 8
    assert torch.equal(file["steps"], torch.tensor(3))


def test_compress_takes_rules_from_a_file_and_a_checkpoint_under_state_dict(tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"prune": {"*": 0.5}}')
    torch.save({"state_dict": {"w": torch.randn(10, 10)}, "epoch": 3}, tmp_path / "a.pth")
    assert run("compress", tmp_path / "a.pth", tmp_path / "a.pomona", "--rules", rules) == 0
    assert pomona.load(tmp_path / "a.pomona")["w"].count_nonzero() == 50


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_expand_and_compress_come_back_bit_for_bit(file, tmp_path, suffix, capsys):
    pytest.importorskip("safetensors")
    dense, again = tmp_path / f"dense{suffix}", tmp_path / "again.pomona"
    assert run("expand", file, dense) == 0
    assert run("compress", dense, again) == 0
    assert run("diff", file, again) == 0
    assert capsys.readouterr().out.endswith("the same 3 tensors, bit for bit\n")


def test_expand_as_codes_and_codebooks(file, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    out = tmp_path / "codes.safetensors"
    assert run("expand", "--shared", file, out) == 0
    tensors = safetensors.load_file(out)
    weight = torch.cat((torch.zeros(1), tensors["fc.weight.codebook"][0]))
    assert torch.equal(weight[tensors["fc.weight.codes"].long()], pomona.load(file)["fc.weight"])


def test_verify_says_that_a_file_is_whole(file, capsys):
    assert run("verify", file) == 0
    assert capsys.readouterr().out.endswith("every checksum is right\n")


def test_diff_lists_what_differs_and_exits_with_1(file, tmp_path, capsys):
    tensors = pomona.load(file)
    tensors["fc.bias"][3] += 1
    tensors["new"] = tensors.pop("steps")
    pomona.save(tensors, tmp_path / "b.pomona")
    assert run("diff", file, tmp_path / "b.pomona") == 1
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["fc.bias", "values", "1", "(3.3", "%)", "1"]
    assert out[2].split() == ["steps", "only", "in", "A"]
    assert out[3].split() == ["new", "only", "in", "B"]


@pytest.mark.parametrize("coding", ["smallest", "fast", "huffman", "rans", "context"])
def test_recode_loses_nothing(file, tmp_path, coding):
    pomona.save(pomona.load(file), file, metadata={"epoch": 3})
    out = tmp_path / "b.pomona"
    assert run("recode", file, out, "--coding", coding) == 0
    assert run("diff", file, out) == 0
    assert pomona.File(out).metadata == {"epoch": 3}


def test_recode_in_place(file):
    before = pomona.load(file)
    assert run("recode", file, "--coding", "huffman", "--gap-bits", "5") == 0
    after = pomona.load(file)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_import_han_reads_a_published_file_and_recode_makes_it_smaller(tmp_path):
    data = han_file()
    (tmp_path / "a.net").write_bytes(data)
    shapes = '{"conv1": [4, 3, 5, 5], "fc6": [20, 50]}'
    out = tmp_path / "a.pomona"
    assert (
        run("import-han", tmp_path / "a.net", out, "--shapes", shapes, "--coding", "huffman") == 0
    )
    huffman = out.stat().st_size
    before = pomona.load(out)
    assert run("recode", out) == 0
    assert out.stat().st_size < huffman < len(data)
    assert all(torch.equal(before[name], tensor) for name, tensor in pomona.load(out).items())


def han_file():
    """Two layers as papers describe them: counts, then codebook, bias, codes, gaps of each."""
    generator = random.Random(0)
    counts, body = [], b""
    for out, numel, entries in ((4, 300, 256), (20, 1000, 16)):
        codebook = [0.0] + [generator.uniform(-1, 1) for _ in range(entries - 1)]
        bias = [generator.uniform(-1, 1) for _ in range(out)]
        gaps, codes, at = [], [], -1
        while (gap := generator.choice([0, 1, 1, 2, 3, 15])) + at + 1 < numel:
            at += gap + 1
            gaps.append(gap)
            codes.append(0 if gap == 15 else int(generator.triangular(1, entries - 1, entries / 2)))
        counts.append(len(codes))
        body += struct.pack(f"<{entries}f{out}f", *codebook, *bias)
        body += bytes(codes) if entries == 256 else nibbles(codes)
        body += nibbles(gaps)
    return struct.pack(f"<{len(counts)}I", *counts) + body


def nibbles(numbers):
    padded = [*numbers, 0] if len(numbers) % 2 else numbers
    return bytes(low | high << 4 for low, high in zip(padded[::2], padded[1::2], strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compress", "{net}", "{out}", "--rules", "{}"), "expected --rules"),
        (("compress", "{net}", "{out}", "--rules", '{"paint": {}}'), "expected --rules"),
        (("compress", "{net}", "{out}", "--rules", "{x"), "expected JSON"),
        (("compress", "{net}", "{out}", "--rules", '{"prune": 3}'), "rules by pattern"),
        (("compress", "{net}", "{out}", "--rules", '{"prune": {"no": 0.5}}'), "got no match among"),
        (("compress", "{net}", "{out}", "--gap-bits", "1"), "gap_bits"),
        (("compress", "{file}.txt", "{out}"), "to end in .safetensors"),
        (("expand", "{file}", "{out}.txt"), "OUT to end in"),
        (("expand", "--shared", "{file}", "{out}.pt"), "OUT to end in .safetensors"),
        (("import-han", "{net}", "{out}", "--shapes", "{}"), "after the last layer"),
        (("import-han", "{net}", "{out}", "--shapes", '{"a": 3}'), "expected --shapes"),
        (("import-han", "{net}", "{out}", "--shapes", '{"a": [3]}'), "2 or 4 dimensions"),
        (("import-han", "{net}", "{out}", "--shapes", '{"a": [900, 900]}'), "end of the file"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    checkpoint, file, tmp_path, capsys, arguments, message
):
    names = {"{net}": str(checkpoint), "{out}": str(tmp_path / "out.pomona"), "{file}": str(file)}
    for name, path in names.items():
        arguments = [a.replace(name, path) if a != "{}" else a for a in arguments]
    before = sorted(tmp_path.iterdir())
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_pickled_object_is_not_run(tmp_path, capsys):
    torch.save({"w": print}, tmp_path / "evil.pt")
    assert run("compress", tmp_path / "evil.pt", tmp_path / "out.pomona") == 1
    assert "expected tensors in" in capsys.readouterr().err
