"""Artifacts in an object store: a real S3 server, and machines that share nothing but it and a database."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import assert_refused, run, succeed

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.errors import ArtifactFolderError, CheckpointError
from nasopt.host import object_store
from nasopt.host.files import write_atomically
from nasopt.host.object_store import artifacts_root
from nasopt.records import names as attributes
from nasopt.storage.attachments import ATTACHMENTS
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.rdb import parse_url
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.study.opening import open_study

pytestmark = pytest.mark.integration
URL = "s3://models/runs"
ARCHITECTURE = Architecture.full(EncoderShape(num_layers=2, num_heads=2, ffn_size=64, hidden_size=8))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an S3 server without buckets."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'nasopt[s3]'")
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    process = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)  # the server runs in this process
    process.start()
    host, port = process.get_host_and_port()
    yield f"http://{host}:{port}"
    process.stop()
    monkeypatch.undo()


@pytest.fixture
def on_machine(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Goes to a machine, by its name: an empty cache and an empty current folder at first."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key-that-nobody-sees")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def go(name: str) -> Path:
        folder = tmp_path / name
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("NASOPT_CACHE", str(folder / "cache"))
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
        monkeypatch.chdir(folder)
        return folder

    go("first")
    return go


@pytest.fixture
def bucket(on_machine: Callable[[str], Path], endpoint: str) -> Iterator[Any]:
    """The empty bucket of :data:`URL`."""
    import boto3

    made = boto3.resource("s3", endpoint_url=endpoint).create_bucket(Bucket="models")
    yield made
    made.objects.all().delete()
    made.delete()


def keys(bucket: Any) -> set[str]:
    return {item.key.removeprefix("runs/") for item in bucket.objects.all()}


def test_any_machine_goes_on_and_exports(
    bucket: Any,
    on_machine: Callable[[str], Path],
    write_study: Callable[..., Path],
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NASOPT_STORAGE", postgres_url)
    succeed("study", "create", write_study(), "--artifacts", URL)
    assert keys(bucket) == {"tiny/study.json"}
    first = succeed("study", "optimize", "tiny", "--n-trials", 2)
    assert "fine-tuning the base model" in first.err
    on_machine("second")
    before = {item.key: item.e_tag for item in bucket.objects.all()}
    refused = run("study", "optimize", "tiny", "--n-trials", 2)
    assert_refused(refused, f"its files in {URL}, as its database alone says", f"--artifacts {URL}", "--trust-study")
    assert {item.key: item.e_tag for item in bucket.objects.all()} == before
    second = succeed("study", "optimize", "tiny", "--n-trials", 1, "--artifacts", URL)
    assert "fine-tuning" not in second.err
    second = succeed("study", "optimize", "tiny", "--n-trials", 1, "--trust-study")
    assert "fine-tuning" not in second.err
    trials = open_study(parse_url(postgres_url), "tiny").study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5

    stored = keys(bucket)
    checkpoints = {Path(key).stem for key in stored if key.startswith("tiny/checkpoints/")}
    assert checkpoints
    assert checkpoints <= {trial.user_attrs[attributes.CHECKPOINT] for trial in trials}
    kinds = {key.split("/")[1] for key in stored}
    assert kinds <= {"study.json", "base.json", "checkpoints", "predictions", ATTACHMENTS, "sensitivity", "adaptive"}

    third = on_machine("third")
    knee = json.loads(succeed("study", "pareto", "tiny", "-f", "json").out)
    succeed("study", "export", "tiny", "--trial", knee[0]["number"], "--to", third / "model", "--trust-study")
    assert (third / "model" / "model.safetensors").is_file()
    assert len(list(third.rglob("checkpoints/*.safetensors"))) <= 2  # that trial's and the base model's

    on_machine("first")
    succeed("study", "delete", "tiny", "--yes")
    assert keys(bucket) == set()


def test_only_what_is_needed_is_kept(bucket: Any, on_machine: Callable[[str], Path]) -> None:
    root = artifacts_root(URL)
    store = CheckpointStore(root / "tiny" / "checkpoints")
    kept = store.write({"x": torch.ones(3)}, ARCHITECTURE)
    dropped = store.write({"x": torch.zeros(3)}, ARCHITECTURE)
    predictions = PredictionStore(root / "tiny")
    for number in (0, 1):
        predictions.write(number, Predictions.of_replicates(torch.ones(2).double().numpy(), "x"))
    on_machine("second")
    root = artifacts_root(URL)
    elsewhere = CheckpointStore(root / "tiny" / "checkpoints")
    assert elsewhere.keys() == {kept, dropped}
    assert elsewhere.collect([kept, dropped], {kept}) == 1
    assert PredictionStore(root / "tiny").collect([0, 1], {1}) == 1
    assert keys(bucket) == {f"tiny/checkpoints/{kept}.safetensors", "tiny/predictions/1.npz"}
    assert dropped not in elsewhere
    assert elsewhere.read(kept)[0]["x"].tolist() == [1.0] * 3


def test_a_damaged_copy_is_fetched_again(bucket: Any, on_machine: Callable[[str], Path]) -> None:
    store = CheckpointStore(artifacts_root(URL) / "tiny" / "checkpoints")
    key = store.write({"x": torch.ones(3)}, ARCHITECTURE)
    file = store.folder / f"{key}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"!")
    assert store.read(key)[0]["x"].tolist() == [1.0] * 3
    assert file.read_bytes() == whole
    bucket.put_object(Key=f"runs/tiny/checkpoints/{key}.safetensors", Body=whole[:-1] + b"!")
    on_machine("second")
    with pytest.raises(CheckpointError, match="damaged"):
        CheckpointStore(artifacts_root(URL) / "tiny" / "checkpoints").read(key)


def test_a_cache_holds_nothing_of_a_former_study(
    bucket: Any, on_machine: Callable[[str], Path], write_study: Callable[..., Path], postgres_url: str
) -> None:
    options = ("--storage", postgres_url)
    file = write_study()
    succeed("study", "create", file, "--artifacts", URL, *options)
    folder = artifacts_root(URL) / "tiny"
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "old").touch()
    on_machine("second")
    succeed("study", "delete", "tiny", "--yes", *options)
    succeed("study", "create", file, "--artifacts", URL, *options)
    on_machine("first")
    opened = open_study(parse_url(postgres_url), "tiny")
    assert opened.folder == folder
    assert opened.place.standing().is_own
    assert not (folder / "checkpoints").exists()


def test_what_each_machine_makes_itself_is_not_sent(bucket: Any) -> None:
    for kind in ("data", "teacher", "predictions"):
        file = artifacts_root(URL) / "tiny" / kind / "x"
        file.parent.mkdir(parents=True)
        write_atomically(file, "text")
    assert keys(bucket) == {"tiny/predictions/x"}


def test_names_in_the_store_lead_nowhere_else(bucket: Any) -> None:
    root = artifacts_root(URL)
    for name in ("../../evil", "predictions/../../../../evil", "predictions/fine"):
        bucket.put_object(Key=f"runs/tiny/{name}", Body=b"x")
    object_store.fetch_tree(root / "tiny")
    assert [path.name for path in root.parent.rglob("*") if path.is_file()] == [object_store.MARK, "fine"]
    assert not list(root.parents[1].glob("evil"))


@pytest.mark.parametrize("place", ["file:///etc", "s3://", "s3://key:secret@bucket/x", "s3://b/../c", "http://h/x"])
def test_other_urls_are_refused(place: str, on_machine: Callable[[str], Path]) -> None:
    with pytest.raises(ArtifactFolderError) as refused:
        artifacts_root(place)
    assert "secret" not in str(refused.value)
    assert not list(object_store.cache_folder().iterdir())


def test_a_store_that_cannot_be_used_is_one_line(
    on_machine: Callable[[str], Path], write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    created = run("study", "create", write_study(), "--artifacts", "s3://no-such-bucket/x")
    assert (created.code, created.err.count("\n")) == (1, 1)
    assert created.err.startswith("nasopt: s3://no-such-bucket/x: the object store failed: ")
    assert not Path("nasopt.db").exists()
    assert "not the URL of an object store" in run("study", "list", "--artifacts", "ftp://x/y").err
