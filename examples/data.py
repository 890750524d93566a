"""Real images by name: mnist, fashion-mnist, cifar10, digits; found or downloaded, always checked.

    dataset = load("mnist")                                    # or load("mnist", "some/folder")
    dataset = first_of(["mnist", "fashion-mnist", "digits"])
    dataset.train_images                                       # uint8 [60000, 1, 28, 28]

It looks, in this order, in the folder you name; in ``../shared/data`` beside this repository; where
Debian's package ``dataset-fashion-mnist`` puts its files; in ``data/`` of this repository, where
downloads are kept; on public mirrors. ``digits`` are the 1,797 images that scikit-learn carries.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from data_files import (
    DIGESTS,
    Absent,
    DamagedFile,
    DataError,
    check,
    decompress,
    parse_idx,
    read_file,
    to_tensor,
)
from download import DownloadError, fetch, reachable

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
DEBIAN = Path("/usr/share/datasets")
CACHE = ROOT / "data"

MIRRORS: dict[str, list[str]] = {
    "mnist": [
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ],
    "fashion-mnist": [
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ],
    "cifar10": ["https://www.cs.toronto.edu/~kriz"],
}
CIFAR_ARCHIVE, CIFAR_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [n, channels, height, width], labels int64 [n], and where they came from."""

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    source: str


def load(name: str, data_dir: str | Path | None = None, *, download: bool = True) -> Dataset:
    """One data set by name.

    Args:
        name: mnist, fashion-mnist, cifar10 or digits.
        data_dir: looked at first; holds the files, or a folder of the set's name with them.
        download: whether mirrors may be asked when no folder has the files.

    Raises:
        DataError: an unknown name, a ``data_dir`` that is no folder, or all ways failed.
        DamagedFile: a file was found whose content is not what was published.
    """
    if name not in DIGESTS:
        raise DataError(f"load: expected `name` to be one of {', '.join(DIGESTS)}, got {name!r}.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise DataError(f"load: expected `data_dir` to be a folder, got {str(data_dir)!r}.")
    if name == "digits":
        return _digits()
    tried = []
    for folder in _folders(name, data_dir):
        try:
            return _from_folder(name, folder)
        except Absent as reason:
            tried.append(f"{folder}: {reason}")
    if not download:
        raise DataError(_nothing_worked(name, tried))
    try:
        return _from_mirrors(name)
    except DownloadError as reason:
        raise DataError(_nothing_worked(name, [*tried, f"download: {reason}"])) from None


def first_of(
    names: Sequence[str], data_dir: str | Path | None = None, *, download: bool = True
) -> Dataset:
    """The first of ``names`` that ``load`` finds; prints which it took and what it passed over.

    Raises:
        DataError: none of them was found; the message holds what was tried for each.
        DamagedFile: as load.
    """
    failures: list[str] = []
    for name in names:
        try:
            dataset = load(name, data_dir, download=download)
        except DamagedFile:
            raise
        except DataError as error:
            failures.append(str(error))
        else:
            passed = f" (not found: {', '.join(names[: len(failures)])})" if failures else ""
            print(f"data: {dataset.name} from {dataset.source}{passed}", flush=True)
            return dataset
    raise DataError("\n".join(failures))


def _folders(name: str, data_dir: str | Path | None) -> list[Path]:
    named = [] if data_dir is None else [Path(data_dir) / name, Path(data_dir)]
    folders = [*named, SHARED / name, DEBIAN / name, CACHE / name]
    if name == "cifar10":  # the published archive unpacks into a folder of its own
        folders = [path for folder in folders for path in (folder, folder / CIFAR_FOLDER)]
    return folders


def _from_folder(name: str, folder: Path, source: str = "") -> Dataset:
    files = [read_file(name, file, folder) for file in DIGESTS[name]]
    if name == "cifar10":
        records = [file.view(-1, 3073) for file in files]  # 1 label, then 3 x 1024 colours
        images = [record[:, 1:].reshape(-1, 3, 32, 32) for record in records]
        labels = [record[:, 0].long() for record in records]
        train, test = (torch.cat(images[:-1]), torch.cat(labels[:-1])), (images[-1], labels[-1])
    else:
        arrays = [parse_idx(file) for file in files]
        train = arrays[0].unsqueeze(1), arrays[1].long()
        test = arrays[2].unsqueeze(1), arrays[3].long()
    return Dataset(name, *train, *test, source or str(folder))


def _from_mirrors(name: str) -> Dataset:
    files = [CIFAR_ARCHIVE] if name == "cifar10" else [f"{file}.gz" for file in DIGESTS[name]]
    # the smallest file of each mirror: is anybody there?
    answers = reachable([f"{mirror}/{files[-1]}" for mirror in MIRRORS[name]])
    if not answers:
        raise DownloadError(f"no answer from {', '.join(MIRRORS[name])}")
    failures = []
    for mirror in (url.rpartition("/")[0] for url in answers):
        try:
            for file in files:
                if not (CACHE / name / file).is_file():
                    fetch(f"{mirror}/{file}", CACHE / name / file, _content_check(name, file))
            if name == "cifar10":
                _unpack_cifar(CACHE / name)
            return _from_folder(name, CACHE / name, f"{mirror}, kept in {CACHE / name}")
        except DownloadError as error:
            failures.append(str(error))
    raise DownloadError("\n    ".join(failures))


def _content_check(name: str, file: str) -> Callable[[bytes], None]:
    """What ``fetch`` asks before it names a file; an archive's members are checked later."""

    def check_content(content: bytes) -> None:
        try:
            if file == CIFAR_ARCHIVE:
                zlib.decompressobj(wbits=31).decompress(content)
            else:
                check(name, file.removesuffix(".gz"), decompress(content, Path(file)), Path(file))
        except (DamagedFile, Absent, zlib.error) as error:
            raise DownloadError(f"{file} arrived damaged: {error}") from None

    return check_content


def _unpack_cifar(folder: Path) -> None:
    archive = folder / CIFAR_ARCHIVE
    try:
        with tarfile.open(archive) as members:
            for file in DIGESTS["cifar10"]:
                stream = members.extractfile(f"{CIFAR_FOLDER}/{file}") or io.BytesIO()
                content = stream.read()
                check("cifar10", file, content, archive)
                (folder / file).write_bytes(content)
    except (tarfile.TarError, KeyError, EOFError, zlib.error, DamagedFile) as error:
        raise DownloadError(f"{archive.name} arrived damaged: {error}") from None
    finally:
        archive.unlink()


def _digits() -> Dataset:
    """8 x 8 enlarged to 24 x 24 inside 28 x 28, as LeNet-5 wants; every fifth one is a test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(_nothing_worked("digits", ["scikit-learn: not installed"])) from None
    bunch = load_digits()
    small, labels = bunch.images.astype("uint8"), bunch.target.astype("uint8")
    check("digits", "digits", small.tobytes() + labels.tobytes(), Path("sklearn.datasets"))
    gray = to_tensor(small.tobytes()).view(-1, 1, 8, 8) * (255 / 16)
    large = torch.nn.functional.interpolate(gray, size=(24, 24), mode="bilinear")
    images = torch.nn.functional.pad(large.round().to(torch.uint8), (2, 2, 2, 2))
    numbers = to_tensor(labels.tobytes()).long()
    is_test = torch.arange(len(numbers)) % 5 == 4
    train, test = (images[~is_test], numbers[~is_test]), (images[is_test], numbers[is_test])
    return Dataset("digits", *train, *test, "scikit-learn (1,797 images of 8 x 8, enlarged)")


def _nothing_worked(name: str, tried: Sequence[str]) -> str:
    ways = [
        "name a folder that holds the files: --data DIR",
        f"put them into {SHARED / name} or {CACHE / name}",
        "be online: they are downloaded then",
        "use the images that scikit-learn carries: `pip install scikit-learn`, data set `digits`",
    ]
    if name == "fashion-mnist":
        ways.insert(2, "install Debian's package: `apt-get install dataset-fashion-mnist`")
    lines = [f"{name}: expected the data in one of these places, got none:"]
    lines += [f"  {line}" for line in tried]
    lines += ["Ways to get it:"]
    lines += [f"  {way}" for way in ways]
    return "\n".join(lines)
