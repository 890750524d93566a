"""What the person at the terminal sees: one line per step, and the log's tail when one fails.

The details of every step are in build/logs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
TAIL_LINES = 40
ANNOUNCE_AFTER = 1.0  # seconds
PROGRESS_EVERY = 20.0  # seconds


class Stop(Exception):
    """Ends the command; its message is all that the user sees."""


def say(text: str) -> None:
    """Print a line now, also into a pipe."""
    print(f"pomona: {text}", flush=True)


def show(command: Sequence[object], env: Mapping[str, str] | None = None) -> None:
    """Run a command that speaks for itself (a test runner, the demo).

    Raises:
        Stop: it failed.
    """
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        raise Stop(f"`{' '.join(words)}` ended with {result.returncode}.")


def step(
    title: str,
    command: Sequence[object],
    *,
    log: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 3600,
) -> str:
    """Run a command quietly: a line when it takes a while, its progress, the seconds it took.

    Returns:
        What the command printed.

    Raises:
        Stop: it failed or took longer than `timeout` seconds; the message ends with the log's tail.
    """
    words = [str(word) for word in command]
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{log}.log"
    begin = time.monotonic()
    announce = threading.Timer(ANNOUNCE_AFTER, say, [f"{title} ..."])
    announce.daemon = True
    announce.start()
    with path.open("w", errors="replace") as file:
        file.write(f"$ {' '.join(words)}\n")
        file.flush()
        code = _run_logged(words, file, env, timeout, title)
    announce.cancel()
    seconds = time.monotonic() - begin
    if code == 0:
        if seconds > ANNOUNCE_AFTER:
            say(f"{title}: done in {seconds:.0f} s")
        return path.read_text(errors="replace")
    how = f"took longer than {timeout:.0f} s" if code is None else f"failed after {seconds:.0f} s"
    lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    tail = "\n".join(f"    {line}" for line in lines)
    raise Stop(f"{title} {how}. The end of {path.relative_to(ROOT)}:\n{tail}")


def _run_logged(
    words: list[str],
    file: IO[str],
    env: Mapping[str, str] | None,
    timeout: float,
    title: str,
) -> int | None:
    """The exit status; None when the time was up."""
    try:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that a time-out ends the compilers too
        )
    except FileNotFoundError as error:
        file.write(f"{error}\n")
        return 127
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        os.killpg(process.pid, signal.SIGTERM)

    timer = threading.Timer(timeout, end)
    timer.start()
    try:
        _copy(process.stdout, file, title)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    finally:
        timer.cancel()
    return None if is_late.is_set() else code


def _copy(source: IO[str] | None, file: IO[str], title: str) -> None:
    assert source is not None
    said = time.monotonic()
    for line in source:
        file.write(line)
        progress = re.match(r"\[(\d+/\d+)\]", line)  # ninja's
        if progress and time.monotonic() - said > PROGRESS_EVERY:
            said = time.monotonic()
            file.flush()
            say(f"{title}: {progress[1]}")


def output(command: Sequence[object], timeout: float = 60) -> str | None:
    """What a short command prints, or None when it fails or is not there."""
    words = [str(word) for word in command]
    try:
        result = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def fail(stop: Stop) -> int:
    """Print why a command ended early; the exit status."""
    print(f"pomona: {stop}", file=sys.stderr, flush=True)
    return 1
