"""One objective on two studies, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

import nasopt
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration
FULL = {f"{part}_{layer}": size for layer in range(3) for part, size in (("layer", 1), ("heads", 4), ("ffn", 128))}
BASE = {**FULL, "precision": "fp32", "training": "none"}
FIRST = {**BASE, "layer_0": 0, "training": "finetune"}
SECOND = {**BASE, "heads_0": 2, "training": "finetune"}


@pytest.fixture
def objective(write_study: Callable[..., Path]) -> Objective:
    return nasopt.Objective(nasopt.StudyConfig.from_toml(write_study()))


def new_study(objective: Objective, folder: Path) -> optuna.Study:
    folder.mkdir()
    storage = open_storage(parse_url(f"sqlite:///{folder}/nasopt.db"))
    return optuna.create_study(
        study_name="tiny", storage=storage, directions=objective.directions, sampler=objective.sampler()
    )


def run(study: optuna.Study, objective: Objective, params: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A trial of these parameters, which does not inherit."""
    study.enqueue_trial(params)
    study.optimize(objective, n_trials=1)
    trial = study.trials[-1]
    assert trial.state.name == "COMPLETE", trial.user_attrs
    return trial


def check_two_studies(objective: Objective, folder: Path) -> None:
    """Each study repeats its own trials, and keeps its own files."""
    one, two = new_study(objective, folder / "one"), new_study(objective, folder / "two")
    run(one, objective, BASE)
    run(one, objective, FIRST)
    assert run(one, objective, FIRST).user_attrs.get("repeats") == 1
    run(two, objective, BASE)
    run(two, objective, SECOND)
    new = run(two, objective, FIRST)  # trial 1 of the other study, but new here
    assert "repeats" not in new.user_attrs
    assert new.user_attrs["architecture"].startswith("2 layers")
    assert run(two, objective, SECOND).user_attrs.get("repeats") == 1
    assert "repeats" not in run(one, objective, SECOND).user_attrs
    assert run(one, objective, FIRST).user_attrs.get("repeats") == 1
    for name, study in (("one", one), ("two", two)):
        files = folder / name / "nasopt.db.artifacts" / "tiny"
        context = objective.prepare(study)
        assert context.folder == files
        assert context.base is not None
        assert context.base.values == tuple(study.trials[0].values)
        front = study.trials[0].user_attrs["checkpoint"], study.trials[1].user_attrs["checkpoint"]
        assert {path.stem for path in (files / "checkpoints").iterdir()} >= set(front)
        for trial in study.trials:
            if "repeats" not in trial.user_attrs:
                ratio = trial.user_attrs["latency"]["latency_ms"]["ratio"]
                assert trial.number == 0 or trial.values[1] == pytest.approx(ratio * study.trials[0].values[1])


def test_each_of_two_studies_is_prepared_and_repeated_for_itself(objective: Objective, tmp_path: Path) -> None:
    check_two_studies(objective, tmp_path)


def test_an_objective_that_shared_what_it_knows_would_be_found_out(
    objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, known = Objective._of, []

    def of_the_first(self: Objective, study: optuna.Study) -> Any:
        if not known:
            known.append(of(self, study))
        return known[0]

    monkeypatch.setattr(Objective, "_of", of_the_first)
    with pytest.raises(AssertionError, match="repeats"):
        check_two_studies(objective, tmp_path)


def test_a_study_is_prepared_once(objective: Objective, tmp_path: Path) -> None:
    study = new_study(objective, tmp_path / "one")
    assert objective.prepare(study) is objective.prepare(study)
