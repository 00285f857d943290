"""Stored predictions: small, whole or not there, collected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from payload import Payload, malicious

from nasopt.host.files import remove_partial_files
from nasopt.storage.validation_predictions import REPLICATES, Predictions, PredictionStore


def some(size: int = 5) -> Predictions:
    outputs = np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)
    return Predictions.of_outputs(outputs, np.arange(size) % 3, "split", classes=True)


def test_classes_take_the_smallest_type() -> None:
    outputs = np.array([[0.1, 0.9], [0.8, 0.2]], dtype=np.float32)
    found = Predictions.of_outputs(outputs, np.array([1, 1]), "s", classes=True)
    assert found.values.tolist() == [1, 0]
    assert (found.values.dtype, found.labels.dtype, found.classes) == (np.uint8, np.uint8, 2)
    wide = np.zeros((1, 257), dtype=np.float32)
    assert Predictions.of_outputs(wide, np.array([256]), "s", classes=True).values.dtype == np.uint16


def test_numbers_are_kept_as_they_are() -> None:
    outputs = np.array([[0.25], [1.5]], dtype=np.float32)
    found = Predictions.of_outputs(outputs, np.array([0.0, 2.0], dtype=np.float32), "s", classes=False)
    assert found.values.tolist() == [0.25, 1.5]
    assert (found.values.dtype, found.classes) == (np.float32, 0)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store, written = PredictionStore(tmp_path), some()
    store.write(3, written)
    found = store.read(3)
    assert found is not None
    assert (found.classes, found.split) == (3, "split")
    for mine, its in ((found.values, written.values), (found.labels, written.labels)):
        assert mine.dtype == its.dtype
        assert np.array_equal(mine, its)
    assert [path.name for path in store.folder.iterdir()] == ["3.npz"]


def test_the_positive_class_is_the_second_one_where_an_older_file_names_none(tmp_path: Path) -> None:
    store, labels = PredictionStore(tmp_path), np.array([0, 1])
    outputs = np.eye(2, dtype=np.float32)
    store.write(0, Predictions.of_outputs(outputs, labels, "split", classes=True, positive=0))
    assert store.read(0).positive == 0
    np.savez_compressed(store.folder / "1.npz", values=labels, labels=labels, classes=np.array(2), split=np.array("s"))
    assert store.read(1).positive == 1


def test_a_file_is_small(tmp_path: Path) -> None:
    store, rng = PredictionStore(tmp_path), np.random.default_rng(0)
    labels = rng.integers(2, size=40_000)
    store.write(0, Predictions.of_outputs(np.eye(2, dtype=np.float32)[labels], labels, "0" * 64, classes=True))
    assert (store.folder / "0.npz").stat().st_size < 40_000 * 2 / 4  # both columns: 1 bit in 8, with some overhead


def test_none_where_nothing_is_stored_or_it_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PredictionStore(tmp_path)
    assert store.read(0) is None
    store.write(0, some())
    path = store.folder / "0.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"not an archive", whole.replace(b"labels", b"lables")):
        path.write_bytes(damaged)
        assert store.read(0) is None
    assert "0.npz: cannot be read" in caplog.text


def test_a_repeated_trial_gets_a_copy(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path)
    store.copy(0, 1)  # they may have been collected
    assert store.read(1) is None
    store.write(0, some())
    store.copy(0, 1)
    store.collect([0], set())
    assert store.read(0) is None
    assert store.read(1) is not None


def test_collection_spares_what_is_kept_unfinished_or_no_trial(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path)
    for name in (0, 1, 2, 3, "tfidf"):
        store.write(name, some())
    assert store.collect([0, 1, 2, 9], {0, 9}) == 2
    assert sorted(path.stem for path in store.folder.iterdir()) == ["0", "3", "tfidf"]


def test_predictions_are_never_unpickled(tmp_path: Path) -> None:
    store, marker = PredictionStore(tmp_path), tmp_path / "marker"
    malicious(marker)
    store.write(0, some())
    arrays = dict(np.load(tmp_path / "predictions" / "0.npz"))
    np.savez(tmp_path / "predictions" / "0.npz", **{**arrays, "values": np.array([Payload(marker)], dtype=object)})
    assert store.read(0) is None
    assert not marker.exists()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    PredictionStore(tmp_path).write(0, some())
    left = tmp_path / "predictions" / ".tmp-4194305-1.00-nowhere-00000000"
    left.write_bytes(b"half")
    import os

    os.utime(left, (0, 0))
    remove_partial_files(tmp_path)
    assert [path.name for path in left.parent.iterdir()] == ["0.npz"]


@pytest.mark.parametrize(
    ("values", "classes", "are_constant"),
    [([1, 1, 1], 2, True), ([1, 0, 1], 2, False), ([0.5, 0.5], 0, True), ([1], 2, False), ([1, 1], REPLICATES, False)],
)
def test_whether_a_model_says_the_same_of_every_example(values: list[float], classes: int, are_constant: bool) -> None:
    assert Predictions(np.array(values), np.zeros(len(values)), classes, "split").are_constant == are_constant
