"""The examples' training loop: it repeats itself, and keeps to its budget."""

import measure
import pytest
import torch
import training_loop
from data import Dataset


@pytest.fixture
def dataset() -> Dataset:
    """300 images of 8 x 8 whose class is the brighter half."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (300, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 2, (300,), generator=generator)
    images[labels == 1, :, 4:] += 100
    return Dataset("halves", images, labels, images[:100], labels[:100], "made up")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))


def fit(dataset: Dataset, **settings) -> tuple[torch.nn.Module, int, list[training_loop.Epoch]]:
    model, epochs = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    settings = {"epochs": 4, "lr": 0.5, "shift": 1, "on_epoch": epochs.append} | settings
    return model, training_loop.fit(model, optimizer, dataset, **settings), epochs


def test_fit_learns(dataset):
    model, _, epochs = fit(dataset, epochs=10)
    assert epochs[-1].loss < epochs[0].loss
    assert training_loop.error_percent(model, dataset) < 10


def test_fit_shows_all_images_in_every_epoch_when_there_is_time(dataset):
    _, shown, epochs = fit(dataset, seconds=600)
    assert shown == 4 * 300
    assert [epoch.images for epoch in epochs] == [300] * 4


def test_fit_shows_fewer_images_when_there_is_no_time_but_keeps_all_epochs(dataset):
    _, shown, epochs = fit(dataset, seconds=0)
    assert len(epochs) == 4
    assert shown == 4 * training_loop.BATCH


def test_fit_repeats_itself(dataset):
    first, second = fit(dataset, seconds=600)[0], fit(dataset, seconds=600)[0]
    assert torch.equal(first[1].weight, second[1].weight)


def test_fit_takes_other_images_with_another_seed(dataset):
    first, second = fit(dataset)[0], fit(dataset, seed=1)[0]
    assert not torch.equal(first[1].weight, second[1].weight)


def test_batches_show_every_image_once(dataset):
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat(
        [labels for _, labels in training_loop.batches(dataset, generator=generator)]
    )
    assert labels.bincount().tolist() == dataset.train_labels.bincount().tolist()


def test_batches_without_shift_leave_the_images_as_they_are(dataset):
    generator = torch.Generator().manual_seed(0)
    inputs, _ = next(training_loop.batches(dataset, generator=generator))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    expected = dataset.train_images[order[: training_loop.BATCH]].float() / 255
    assert torch.equal(inputs, expected)


def test_batches_with_shift_move_the_images_by_no_more_than_that(dataset):
    generator = torch.Generator().manual_seed(0)
    inputs, _ = next(training_loop.batches(dataset, generator=generator, shift=1))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(dataset.train_images[order], [1] * 4).float() / 255
    for image, source in zip(inputs[:20], padded, strict=False):
        windows = [source[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
        assert any(torch.equal(image, window) for window in windows)


def test_error_percent_leaves_the_mode_as_it_was(dataset):
    model = network().train()
    training_loop.error_percent(model, dataset)
    assert model.training


def test_nonzeros_counts_weights_and_not_biases():
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]))
    assert measure.nonzeros(model) == 3


def test_dense_bytes_counts_every_tensor():
    assert measure.dense_bytes(torch.nn.Linear(30, 20))["raw"] == 4 * (30 * 20 + 20)


def test_dense_bytes_says_nothing_of_zstd_where_there_is_none(monkeypatch):
    def nothing(name):
        raise ImportError(name)

    monkeypatch.setattr(measure.importlib, "import_module", nothing)
    monkeypatch.setattr(measure.shutil, "which", lambda program: None)
    assert measure.dense_bytes(torch.nn.Linear(3, 2))["zstd -19"] is None


def test_digests_do_not_depend_on_the_memory_format():
    model = torch.nn.Conv2d(3, 4, 5)
    before = measure.digests(model)
    assert measure.digests(model.to(memory_format=torch.channels_last)) == before


def test_table_aligns_columns():
    text = measure.table(["stage", "bytes"], [["trained", 1726640], ["read back", None]])
    assert text.splitlines() == [
        "stage          bytes",
        "---------  ---------",
        "trained    1,726,640",
        "read back          -",
    ]
