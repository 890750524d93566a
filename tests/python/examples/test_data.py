"""The examples' data loader, on tiny files of its own: no network, no real data set."""

import gzip
import hashlib
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import data
import data_files
import download
import pytest
import torch

FILES = {
    "train-images-idx3-ubyte": ((5, 4, 3), 0),
    "train-labels-idx1-ubyte": ((5,), 60),
    "t10k-images-idx3-ubyte": ((2, 4, 3), 70),
    "t10k-labels-idx1-ubyte": ((2,), 94),
}


def idx(shape: tuple[int, ...], first: int) -> bytes:
    """An IDX file that counts upwards from ``first``."""
    numel = int(torch.tensor(shape).prod())
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + bytes((first + i) % 256 for i in range(numel))


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of this machine is looked at, and "mnist" is the tiny set above."""
    for folder in ("SHARED", "DEBIAN", "CACHE"):
        monkeypatch.setattr(data, folder, tmp_path / folder.lower())
    digests = {file: hashlib.sha256(idx(*of)).hexdigest() for file, of in FILES.items()}
    monkeypatch.setitem(data_files.DIGESTS, "mnist", digests)
    monkeypatch.setattr(data, "MIRRORS", {name: [] for name in data.MIRRORS})


def write_mnist(folder: Path, *, compress: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, of in FILES.items():
        if compress:
            (folder / f"{file}.gz").write_bytes(gzip.compress(idx(*of)))
        else:
            (folder / file).write_bytes(idx(*of))
    return folder


def test_load_gives_images_and_labels_as_published(tmp_path):
    dataset = data.load("mnist", write_mnist(tmp_path / "mine"))
    assert dataset.train_images.shape == (5, 1, 4, 3)
    assert dataset.train_images.dtype == torch.uint8
    assert dataset.train_images.flatten().tolist() == list(range(60))
    assert dataset.train_labels.dtype == torch.int64
    assert dataset.train_labels.tolist() == [60, 61, 62, 63, 64]
    assert dataset.test_images.shape == (2, 1, 4, 3)
    assert dataset.test_labels.tolist() == [94, 95]


def test_load_reads_uncompressed_files(tmp_path):
    dataset = data.load("mnist", write_mnist(tmp_path / "mine", compress=False))
    assert dataset.train_images.flatten().tolist() == list(range(60))


def test_load_finds_a_folder_of_the_name_inside_the_folder(tmp_path):
    write_mnist(tmp_path / "mine" / "mnist")
    assert data.load("mnist", tmp_path / "mine").source == str(tmp_path / "mine" / "mnist")


def test_load_takes_the_named_folder_before_the_shared_one(tmp_path):
    write_mnist(tmp_path / "shared" / "mnist")
    write_mnist(tmp_path / "mine")
    assert data.load("mnist", tmp_path / "mine").source == str(tmp_path / "mine")


@pytest.mark.parametrize("place", ["shared", "debian", "cache"])
def test_load_finds_the_usual_places(tmp_path, place):
    folder = write_mnist(tmp_path / place / "mnist")
    assert data.load("mnist").source == str(folder)


def test_load_passes_over_a_folder_that_lacks_a_file(tmp_path):
    (write_mnist(tmp_path / "shared" / "mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    folder = write_mnist(tmp_path / "cache" / "mnist")
    assert data.load("mnist").source == str(folder)


def test_load_passes_over_the_files_of_another_set_with_the_same_names(tmp_path, monkeypatch):
    folder = write_mnist(tmp_path / "mine")
    other = {file: hashlib.sha256(b"").hexdigest() for file in FILES}
    monkeypatch.setitem(data_files.DIGESTS, "fashion-mnist", other)
    with pytest.raises(data.DataError, match=r"mine: holds mnist") as caught:
        data.load("fashion-mnist", folder)
    assert not isinstance(caught.value, data.DamagedFile)


@pytest.mark.parametrize("position", [0, 12, 40])
def test_load_refuses_a_damaged_file(tmp_path, position):
    file = write_mnist(tmp_path / "mine", compress=False) / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(data.DamagedFile, match=r"train-images-idx3-ubyte: expected the SHA-256"):
        data.load("mnist", tmp_path / "mine")


def test_load_refuses_a_gzip_file_that_is_cut_short(tmp_path):
    file = write_mnist(tmp_path / "mine") / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(data.DamagedFile, match=r"t10k-images-idx3-ubyte.gz: expected whole gzip"):
        data.load("mnist", tmp_path / "mine")


def test_load_refuses_an_unknown_name():
    with pytest.raises(data.DataError, match=r"expected `name` to be one of mnist.*got 'imagenet'"):
        data.load("imagenet")


def test_load_refuses_a_folder_that_is_none(tmp_path):
    with pytest.raises(data.DataError, match=r"expected `data_dir` to be a folder, got '.*no'"):
        data.load("mnist", tmp_path / "no")


def test_load_lists_every_place_and_every_way_when_nothing_works(tmp_path):
    with pytest.raises(data.DataError) as caught:
        data.load("fashion-mnist", tmp_path)
    text = str(caught.value)
    for part in ("shared", "debian", "cache", "download", "--data", "apt-get", "scikit-learn"):
        assert part in text


def test_first_of_takes_the_first_that_is_there_and_says_so(tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert data.first_of(["mnist", "digits"]).name == "digits"
    assert "data: digits from scikit-learn" in capsys.readouterr().out


def test_first_of_stops_at_a_damaged_file(tmp_path):
    file = write_mnist(tmp_path / "mine") / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(b"no gzip")
    with pytest.raises(data.DamagedFile):
        data.first_of(["mnist", "digits"], tmp_path / "mine")


def test_first_of_lists_the_failures_of_all_names():
    with pytest.raises(data.DataError, match=r"(?s)mnist: expected.*fashion-mnist: expected"):
        data.first_of(["mnist", "fashion-mnist"])


def test_digits_are_28_by_28_and_split_four_to_one():
    pytest.importorskip("sklearn")
    dataset = data.load("digits")
    assert dataset.train_images.shape == (1438, 1, 28, 28)
    assert dataset.test_images.shape == (359, 1, 28, 28)
    assert dataset.train_images.max() == 255
    assert set(dataset.train_labels.tolist()) == set(range(10))


def test_cifar10_mosaic_gives_the_published_records(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (10_000, 3, 32, 1), dtype=torch.uint8, generator=generator)
    tiles = colours.expand(-1, -1, -1, 32)
    labels = torch.randint(0, 10, (10_000, 1), dtype=torch.uint8, generator=generator)
    records = torch.cat([labels, tiles.reshape(10_000, -1)], 1).numpy().tobytes()
    mosaic = tiles.reshape(100, 100, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(3200, 3200, 3)
    image.fromarray(mosaic.contiguous().numpy()).save(
        tmp_path / "one.webp", lossless=True, method=0
    )
    (tmp_path / "one.labels").write_bytes(labels.numpy().tobytes())
    digests = {"one.bin": hashlib.sha256(records).hexdigest()}
    monkeypatch.setitem(data_files.DIGESTS, "cifar10", digests)
    content = data_files.read_file("cifar10", "one.bin", tmp_path)
    assert content.numpy().tobytes() == records


# downloads, from files and from a server of this process


def test_load_downloads_into_the_cache_and_finds_it_there_again(tmp_path, monkeypatch):
    mirror = write_mnist(tmp_path / "mirror")
    monkeypatch.setitem(data.MIRRORS, "mnist", [mirror.as_uri()])
    assert data.load("mnist").source.startswith(mirror.as_uri())
    monkeypatch.setitem(data.MIRRORS, "mnist", [])
    assert data.load("mnist").source == str(tmp_path / "cache" / "mnist")


def test_load_does_not_download_when_told_not_to(tmp_path, monkeypatch):
    monkeypatch.setitem(data.MIRRORS, "mnist", [write_mnist(tmp_path / "mirror").as_uri()])
    with pytest.raises(data.DataError):
        data.load("mnist", download=False)
    assert not (tmp_path / "cache").exists()


def test_load_goes_to_the_next_mirror_when_one_serves_damaged_files(tmp_path, monkeypatch):
    bad = write_mnist(tmp_path / "bad")
    (bad / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"not what it says"))
    good = write_mnist(tmp_path / "good")
    monkeypatch.setitem(data.MIRRORS, "mnist", [bad.as_uri(), good.as_uri()])
    assert data.load("mnist").source.startswith(good.as_uri())


def test_a_damaged_download_leaves_no_file_behind(tmp_path, monkeypatch):
    bad = write_mnist(tmp_path / "bad")
    (bad / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    monkeypatch.setitem(data.MIRRORS, "mnist", [bad.as_uri()])
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte.gz arrived damaged"):
        data.load("mnist")
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


class _CutShort(BaseHTTPRequestHandler):
    """Promises 1,000 bytes and closes the connection after ten."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def cut_short(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), _CutShort)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()


def test_fetch_leaves_nothing_when_the_connection_ends_early(tmp_path, cut_short):
    with pytest.raises(download.DownloadError, match=r"file: "):
        download.fetch(cut_short, tmp_path / "file", lambda content: None)
    assert list(tmp_path.iterdir()) == []


def test_fetch_gives_up_when_it_takes_too_long(tmp_path):
    source = tmp_path / "large"
    source.write_bytes(bytes(1 << 20))
    with pytest.raises(download.DownloadError, match=r"gave up after 0 s"):
        download.fetch(source.as_uri(), tmp_path / "copy", lambda content: None, seconds=0)
    assert not (tmp_path / "copy").exists()


def test_reachable_gives_up_in_time_and_keeps_the_order(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    answer = download.urllib.request.urlopen

    def slow(request, **settings):
        if request.full_url.endswith("slow"):
            time.sleep(5)
        return answer(request, **settings)

    monkeypatch.setattr(download.urllib.request, "urlopen", slow)
    urls = [(tmp_path / name).as_uri() for name in ("b", "slow", "none", "a")]
    began = time.monotonic()
    assert download.reachable(urls, seconds=0.5) == [urls[0], urls[3]]
    assert time.monotonic() - began < 3
