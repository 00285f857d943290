"""Checkpoints: content addressing, damage, collection."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from payload import malicious
from safetensors.torch import save_file

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.errors import ArtifactFolderError, CheckpointError
from nasopt.host.files import partial_name, remove_partial_files, write_atomically
from nasopt.storage.checkpoints import CheckpointStore

ARCHITECTURE = Architecture.full(EncoderShape(num_layers=2, num_heads=2, ffn_size=64, hidden_size=8))


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.arange(5)}


@pytest.mark.parametrize("key", ["../victim", "victim", "/{folder}/victim", "a" * 63 + "/", "", "A" * 64])
def test_no_other_text_than_a_key_becomes_a_path(tmp_path: Path, key: str) -> None:
    """The database names keys, and anybody who can write to it can write anything."""
    folder = tmp_path / "checkpoints"
    store, key = CheckpointStore(folder), key.format(folder=tmp_path)
    store.write(weights(), ARCHITECTURE)
    for place in (tmp_path / "victim.safetensors", folder / "victim.safetensors"):
        save_file(weights(), place, {"architecture": ARCHITECTURE.to_json()})
    assert key not in store
    for action in (store.read, store.architecture):
        with pytest.raises(CheckpointError, match="is not the name of a checkpoint"):
            action(key)
    assert store.collect([key], keep=set()) == 0
    assert (tmp_path / "victim.safetensors").is_file()
    assert (folder / "victim.safetensors").is_file()


def test_a_checkpoint_is_never_unpickled(tmp_path: Path) -> None:
    content = malicious(tmp_path / "marker")
    heading = json.dumps({"__metadata__": {"architecture": ARCHITECTURE.to_json()}, "a": {"dtype": "no"}}).encode()
    whole = len(heading).to_bytes(8, "little") + heading + content
    store = CheckpointStore(tmp_path)
    for damaged in (content, whole):
        key = hashlib.sha256(damaged).hexdigest()  # its checksum is the right one
        (tmp_path / f"{key}.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            store.read(key)
    assert not (tmp_path / "marker").exists()


def test_read_returns_what_was_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "new" / "folder")
    key = store.write(weights(), ARCHITECTURE)
    tensors, architecture = store.read(key)
    assert architecture == ARCHITECTURE
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {n: t.tolist() for n, t in weights().items()}


def test_the_architecture_is_read_without_the_weights(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    key = store.write(weights(), ARCHITECTURE)
    assert store.architecture(key) == ARCHITECTURE
    (tmp_path / f"{key}.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged"):
        store.architecture(key)
    with pytest.raises(CheckpointError, match="not there"):
        store.architecture("0" * 64)


def test_equal_weights_are_stored_once_whatever_the_precision(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    key = store.write(weights(), ARCHITECTURE)
    assert store.write(weights(), ARCHITECTURE.with_precision("int8")) == key
    assert store.write(weights(1), ARCHITECTURE) != key
    assert len(list(tmp_path.iterdir())) == 2


def test_shared_storage_can_be_written(tmp_path: Path) -> None:
    tied = torch.ones(2, 2)
    store = CheckpointStore(tmp_path)
    tensors, _ = store.read(store.write({"a": tied, "b": tied}, ARCHITECTURE))
    assert tensors["b"].tolist() == tied.tolist()


def test_damage_is_seen(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    key = store.write(weights(), ARCHITECTURE)
    path = tmp_path / f"{key}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        store.read(key)
    assert key not in store
    assert store.write(weights(), ARCHITECTURE) == key
    assert key in store
    with pytest.raises(CheckpointError, match="not there"):
        store.read("0" * 64)


def test_collection_deletes_only_named_candidates(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first, second, third = (store.write(weights(seed), ARCHITECTURE) for seed in range(3))
    assert store.collect([first, second], keep={second}) == 1
    assert store.keys() == {second, third}
    assert first not in store


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(AttributeError):
        store.write({"a": "not a tensor"}, ARCHITECTURE)  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def test_partial_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    key = CheckpointStore(tmp_path).write(weights(), ARCHITECTURE)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        abandoned = tmp_path / pool.apply(partial_name)
    live = tmp_path / partial_name()
    elsewhere, forgotten = (tmp_path / f".tmp-1-1.00-{host}-00000000" for host in ("otherhost", "longgone"))
    for path in (abandoned, live, elsewhere, forgotten):
        path.write_bytes(b"half")
    os.utime(forgotten, (0, 0))
    remove_partial_files(tmp_path.parent)
    assert {path.name for path in tmp_path.iterdir()} == {f"{key}.safetensors", live.name, elsewhere.name}


def test_the_key_is_announced_before_the_checkpoint_is_there(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    seen = []
    key = store.write(weights(), ARCHITECTURE, announce=lambda key: seen.append((key, key in store)))
    assert seen == [(key, False)]
    assert key in store


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactFolderError, match="cannot be written"):
        CheckpointStore(tmp_path / "file" / "folder").write(weights(), ARCHITECTURE)
    with pytest.raises(ArtifactFolderError, match="cannot be written"):
        CheckpointStore(tmp_path / "file" / "folder").make_writable()


def test_a_reader_makes_no_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "new" / "folder")
    assert "0" * 64 not in store
    assert store.keys() == set()
    assert store.collect(["0" * 64], keep=set()) == 0
    with pytest.raises(CheckpointError, match="not there"):
        store.read("0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_write_atomically_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "1")
    write_atomically(tmp_path / "a.json", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "2"
