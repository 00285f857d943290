"""Attachments: small, found in any study's folder, never outside."""

import io
import json
from pathlib import Path
from uuid import uuid4

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.records.latency import latency_from_json
from nasopt.records.notes import TrialView
from nasopt.records.trial import TrialRecord
from nasopt.storage.attachments import AttachmentStore, attach, documents, remove_uploads


def view_of(shape: EncoderShape) -> TrialView:
    every_other = KeptUnits(tuple(range(0, shape.num_heads, 2)), tuple(range(0, shape.ffn_size, 2)))
    times = dict.fromkeys(("value_ms", "median_ms", "p10_ms", "p90_ms", "base_median_ms"), 1.0)
    ratios = dict.fromkeys(("ratio", "ratio_low", "ratio_high"), 1.0)
    place = {"device": "Some CPU", "driver": "", "torch_version": "2.13.0", "dtype": "fp32", "threads": 1}
    sizes = {"batch_size": 8, "sequence_length": 64, "repetitions": 40}
    latency = latency_from_json({**times, **ratios, **place, **sizes, "source": "measured"})
    return TrialView(
        record=TrialRecord(parameters=1000, flops=2000, latencies={"latency_ms": latency}),
        architecture=Architecture((None, *[every_other] * (shape.num_layers - 1))),
        shape=shape,
        values={},
        base_values={},
        metric="accuracy",
    )


def attached(folder: Path, files: dict[str, object]) -> tuple[optuna.Study, dict[str, str]]:
    """A study whose only trial has these files; their ids by name."""
    study = optuna.create_study()
    trial = study.ask()
    folder.mkdir(parents=True)
    attach(trial, folder, files)
    return study, {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(trial)}


def test_documents_say_what_the_candidate_is() -> None:
    made = documents(view_of(EncoderShape(num_layers=2, num_heads=4, ffn_size=128, hidden_size=8)))
    assert made["architecture.json"]["layers"] == [None, {"heads": [0, 2], "ffn": 64}]
    assert made["latency.json"]["latency_ms"]["device"] == "Some CPU"


def test_attachments_of_a_large_model_are_small(tmp_path: Path) -> None:
    large = view_of(EncoderShape(num_layers=24, num_heads=16, ffn_size=4096, hidden_size=1024))
    attached(tmp_path / "study", documents(large))
    sizes = [path.stat().st_size for path in (tmp_path / "study" / "attachments").iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) < 8_000


def test_artifacts_of_every_study_are_found(tmp_path: Path) -> None:
    _, first = attached(tmp_path / "here" / "a", {"x.json": {"x": 1}})
    _, second = attached(tmp_path / "there" / "b", {"y.json": {"y": 2}})
    store = AttachmentStore(lambda: [tmp_path / "here", tmp_path / "there", tmp_path / "missing"])
    with store.open_reader(first["x.json"]) as file:
        assert json.load(file) == {"x": 1}
    with store.open_reader(second["y.json"]) as file:
        assert json.load(file) == {"y": 2}
    store.remove(first["x.json"])
    with pytest.raises(ArtifactNotFound):
        store.open_reader(first["x.json"])
    store.remove(first["x.json"])


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "*", ""])
def test_an_id_is_never_a_path(tmp_path: Path, name: str) -> None:
    store = AttachmentStore(lambda: [tmp_path])
    for action in (store.open_reader, store.remove, lambda name: store.write(name, io.BytesIO(b"x"))):
        with pytest.raises(ValueError, match="hexadecimal"):
            action(name)


def test_uploads_of_a_study_go_with_it(tmp_path: Path) -> None:
    study = optuna.create_study()
    other = optuna.create_study()
    store = AttachmentStore(lambda: [tmp_path])
    for owner in (study, other):
        identifier = str(uuid4())
        meta = {"artifact_id": identifier, "filename": "a", "mimetype": "text/plain", "encoding": None}
        owner._storage.set_study_system_attr(owner._study_id, f"artifacts:{identifier}", json.dumps(meta))
        store.write(identifier, io.BytesIO(b"hello"))
    assert len(list((tmp_path / ".uploads").iterdir())) == 2
    remove_uploads(study, [tmp_path, tmp_path / "missing"])
    (left,) = (tmp_path / ".uploads").iterdir()
    assert left.name == identifier
