"""The commands of the Makefile: `python tools/run.py setup|build|demo|test|bench|...`.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builds
import environment
import machine
import sources
from console import ROOT, Stop, fail, output, say, show, step

FUZZ_SECONDS = 60  # of each fuzzer in `make test`


def setup() -> environment.Environment:
    """A machine and an environment in which everything below works, and the library built."""
    env = _prepare()
    builds.full(env, tests=False)
    return env


def build() -> None:
    """The library, the C++ tests and the examples."""
    builds.full(_prepare(), tests=True)


def demo() -> None:
    """The whole life of one network, with one table at the end."""
    env = setup()
    show([env.python, "-u", "examples/demo.py"], env.variables())


def test() -> None:
    """Every test that needs no GPU: C++ under sanitizers, C++ with torch, Python, doctests."""
    env = _prepare()
    variables = env.variables()
    jobs = machine.jobs()
    core = builds.core(variables)
    _ctest(core, variables)
    _fuzz(variables, FUZZ_SECONDS)
    full = builds.full(env, tests=True)
    _ctest(full, variables)
    variables |= {"POMONA_BUILD_DIR": str(full)}
    parallel = ["-n", jobs, "--dist=loadfile"] if jobs > 1 else []
    pytest = [env.python, "-m", "pytest", "-q", *parallel, "--doctest-modules"]
    show([*pytest, "python/pomona", "tests/python"], variables)


def fuzz() -> None:
    """Each fuzzer for SECONDS (default: an hour); what it finds lies in build/fuzz/found."""
    _fuzz(_prepare().variables(), int(os.environ.get("SECONDS", "3600")))


def _fuzz(variables: dict[str, str], seconds: int) -> None:
    """All fuzzers side by side, from the golden files and from what earlier runs have learned."""
    programs = builds.fuzzers(variables)
    found = ROOT / "build" / "fuzz" / "found"
    found.mkdir(parents=True, exist_ok=True)

    def run(program: Path) -> str:
        corpus = ROOT / "build" / "fuzz" / "corpus" / program.name
        corpus.mkdir(parents=True, exist_ok=True)
        command = [program, f"-max_total_time={seconds}", "-max_len=8000", "-print_final_stats=1"]
        command += [f"-artifact_prefix={found}/{program.name}-", corpus]
        if program.name == "fuzz_file":
            command.append(ROOT / "tests" / "golden")
        log = step(f"{program.name}, {seconds} s", command, log=program.name, env=variables,
                   timeout=2 * seconds + 120)  # fmt: skip
        runs = [line.split()[-1] for line in log.splitlines() if "number_of_executed" in line]
        return f"{program.name}: {' '.join(runs)} inputs, nothing found"

    with ThreadPoolExecutor(len(programs) or 1) as pool:
        for line in pool.map(run, programs):
            say(line)


def _ctest(folder: Path, variables: dict[str, str]) -> None:
    name = folder.relative_to(ROOT)
    command = ["ctest", "--test-dir", folder, "--output-on-failure", "--no-tests=error"]
    text = step(
        f"testing {name}",
        [*command, "-j", machine.jobs()],
        log=f"{folder.name}-ctest",
        env=variables,
    )
    say(f"{name}: {next(line for line in text.splitlines() if 'tests passed' in line)}")


def bench() -> None:
    """Every benchmark, C++ and Python; results/ gets a dated JSON of each."""
    env = _prepare()
    folder = builds.benchmarks(env)
    found = sorted((folder / "benchmarks").glob("bench_*"))
    programs = [path for path in found if path.is_file() and os.access(path, os.X_OK)]
    scripts = sorted((ROOT / "benchmarks").glob("bench_*.py"))
    stems = {script.stem for script in scripts}
    for program in programs:
        if program.name not in stems:
            show([program], env.variables())
    for script in scripts:  # one beside a program runs it and writes its table
        arguments = [program for program in programs if program.name == script.stem]
        show([env.python, "-u", script, *arguments], env.variables())
    if not programs and not scripts:
        say("there is no benchmark yet")


def format_() -> None:
    """Formats what is written by hand, and writes the generated documents anew."""
    env = environment.ready()
    show([_tool(env, "ruff"), "check", "--fix", "--quiet"], env.variables())
    show([_tool(env, "ruff"), "format"], env.variables())
    show([_tool(env, "clang-format"), "-i", *sources.cpp()], env.variables())
    for generator in sources.GENERATORS:
        show([env.python, generator], env.variables())


def lint() -> None:
    """What `format` would change, ruff's rules, generated documents, the rules of the house."""
    env = setup()
    variables = env.variables()
    show([_tool(env, "ruff"), "check"], variables)
    show([_tool(env, "ruff"), "format", "--check"], variables)
    show([_tool(env, "clang-format"), "--dry-run", "-Werror", *sources.cpp()], variables)
    for generator in sources.GENERATORS:
        show([env.python, generator, "--check"], variables)
    show([env.python, "-m", "pytest", "-q", "tests/python/test_house.py"], variables)


def gpu() -> None:
    """The CUDA tests on a machine whose own Python has torch, cmake, ninja and pytest."""
    missing = [name for name in ("cmake", "ninja") if shutil.which(name) is None]
    probe = "import torch, pytest, sys; sys.exit(not torch.cuda.is_available())"
    if missing:
        raise Stop(f"make gpu needs {' and '.join(missing)} on PATH.")
    if output([sys.executable, "-c", probe], timeout=300) is None:
        raise Stop(
            f"make gpu needs torch that sees a GPU, and pytest, in {sys.executable}. "
            "Name another Python: make gpu PYTHON=..."
        )
    nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    if shutil.which("nvcc") is None and (nvcc / "nvcc").exists():
        os.environ["PATH"] = f"{nvcc}{os.pathsep}{os.environ['PATH']}"
    builds.gpu()
    env = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    show([sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/python/cuda"], env)


def clean() -> None:
    """Forgets everything that was built; the environments stay."""
    for path in [ROOT / "build", *(builds.PACKAGE / name for name in ("lib", "include", "share"))]:
        shutil.rmtree(path, ignore_errors=True)
    for module in builds.PACKAGE.glob("_C*.so"):
        module.unlink()


def _prepare() -> environment.Environment:
    machine.compiler()
    machine.add_optional()
    return environment.ready()


def _tool(env: environment.Environment, name: str) -> Path:
    return env.python.parent / name


COMMANDS = {
    "setup": setup,
    "build": build,
    "demo": demo,
    "test": test,
    "bench": bench,
    "fuzz": fuzz,
    "format": format_,
    "lint": lint,
    "gpu": gpu,
    "clean": clean,
}


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        return fail(Stop(f"expected one command of {', '.join(COMMANDS)}, got {arguments}."))
    try:
        COMMANDS[arguments[0]]()
    except Stop as stop:
        return fail(stop)
    except KeyboardInterrupt:
        return fail(Stop("interrupted"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
