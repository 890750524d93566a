"""A progress bar on the terminal: by rich where it is installed, else one line of plain text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str], None]


@contextmanager
def progress_bar(title: str, total: int, done: int = 0, *, show: bool = True) -> Iterator[Advance]:
    """Call what it yields after each piece of work, with a few words about the piece.

    Args:
        title: stands before the bar.
        total: how many pieces there are.
        done: how many of them are done already.
        show: False shows nothing; neither is anything shown where stderr is not a terminal.
    """
    if not show or not sys.stderr.isatty():
        yield lambda words: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield from _plain(title, total, done)
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda words: bar.update(task, advance=1, description=f"{title}: {words}")


def _plain(title: str, total: int, done: int) -> Iterator[Advance]:
    def advance(words: str) -> None:
        nonlocal done
        done += 1
        line = f"{title}: {done}/{total}, {words}"
        print(f"\r{line:<79.79}", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        print(file=sys.stderr)
