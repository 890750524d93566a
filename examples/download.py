"""Downloads that show progress, never hang, and never leave half a file under its final name."""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path


class DownloadError(RuntimeError):
    """A file could not be downloaded; the message says why."""


def reachable(urls: Sequence[str], *, seconds: float = 6.0) -> list[str]:
    """Those of ``urls`` that answer, in the order given; ``seconds`` at most for all together.

    Asked at once, in threads: a name server that does not answer ignores every socket timeout.
    """
    answered: set[str] = set()

    def ask(url: str) -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                answered.add(url)
        except (OSError, HTTPException, ValueError):
            pass  # URLError and timeouts are OSErrors: this one does not answer

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [url for url in urls if url in answered]


def fetch(url: str, path: Path, check: Callable[[bytes], None], *, seconds: float = 180.0) -> None:
    """Download ``url``, let ``check`` look at the bytes, and only then give the file its name.

    Args:
        url: where from.
        path: where to; its folder is made.
        check: raises when the bytes are not what they should be.
        seconds: gives up after this long.

    Raises:
        DownloadError: no answer, an error answer, too slow, or the disk refuses.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _read(url, path.name, seconds)
        check(content)
        part.write_bytes(content)
        part.replace(path)
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{url}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _read(url: str, label: str, seconds: float) -> bytes:
    chunks: list[bytes] = []
    deadline = time.monotonic() + seconds
    with urllib.request.urlopen(url, timeout=10) as response:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(1 << 18):
            chunks.append(chunk)
            done = sum(map(len, chunks))
            _show(label, done, total)
            if time.monotonic() > deadline:
                raise DownloadError(f"{url}: gave up after {seconds:.0f} s at {done:,} bytes.")
    if total and done != total:
        raise DownloadError(f"{url}: the connection ended at byte {done:,} of {total:,}.")
    _show(label, done, total, end="\n")
    return b"".join(chunks)


def _show(label: str, done: int, total: int, end: str = "\r") -> None:
    """A line that is written over on a terminal; elsewhere only the last one."""
    if end == "\r" and not sys.stderr.isatty():
        return
    share = (
        f"{100 * done / total:3.0f} % of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    )
    print(f"  downloading {label}: {share}", end=end, file=sys.stderr, flush=True)
