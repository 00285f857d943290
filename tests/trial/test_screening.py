"""Screening: who is compared on which examples, and what becomes of those that are worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from command_line import run

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import ScreeningConfig
from nasopt.measurement.sources import make_sources
from nasopt.records import queries
from nasopt.storage.rdb import parse_url
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.study.opening import open_study
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.candidate import Candidate, Lineage, ScreenedCandidateError
from nasopt.training.context import Context
from nasopt.training.weights import Cut
from nasopt.trial.evaluation import evaluate
from nasopt.trial.objective import Objective
from nasopt.trial.screening import Screening, part_of, screening_of

SETTINGS = ScreeningConfig(min_examples=20)
COSTS = (10.0, 10.0)


@pytest.fixture
def small(context: Context) -> Context:
    """A study whose screening is content with 20 of its 60 validation examples."""
    return replace(context, config=context.config.model_copy(update={"screening": SETTINGS}))


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize", "minimize"])


def provisional(context: Context) -> Candidate:
    candidate = Cut().candidate(Architecture.masked(context.shape, [1, 0, 1]), context)
    candidate.lineage, candidate.is_provisional = Lineage(0), True
    return candidate


def add(study: optuna.Study, context: Context, values: list[float], wrong: torch.Tensor, **marks: object) -> int:
    """A complete trial whose predictions are right but for those at some positions."""
    split = context.splits["validation"]
    labels = split.labels.numpy().astype(np.uint8)
    predicted = labels.copy()
    predicted[wrong.numpy()] = 1 - predicted[wrong.numpy()]
    study.add_trial(optuna.trial.create_trial(values=values, user_attrs=dict(marks)))
    number = len(study.trials) - 1
    PredictionStore(context.folder).write(number, Predictions(predicted, labels, 2, split.fingerprint))
    return number


def made(study: optuna.Study, context: Context) -> Screening:
    found = screening_of(provisional(context), study, context)
    assert found is not None
    return found


def outputs(screening: Screening, wrong: int) -> np.ndarray:
    """Logits on the part of which the first `wrong` are wrong."""
    right = screening.split.labels[screening.part].numpy()
    predicted = np.where(np.arange(len(right)) < wrong, 1 - right, right)
    return np.eye(2, dtype=np.float32)[predicted]


def nothing() -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64)


def test_the_part_is_the_same_for_all_and_holds_each_class_in_its_share(small: Context) -> None:
    split = small.splits["validation"]
    assert isinstance(split, EncodedSplit)
    part = part_of(split, SETTINGS, 0, classes=True)
    assert part is not None
    assert len(part) == 20
    assert torch.equal(part, part_of(split, SETTINGS, 0, classes=True))
    expected = 20 * (split.labels == 1).float().mean()
    assert abs(float((split.labels[part] == 1).sum()) - expected) < 1
    assert len(part_of(split, ScreeningConfig(min_examples=1, share=0.4), 0, classes=True)) == 24
    assert part_of(split, ScreeningConfig(min_examples=31), 0, classes=True) is None  # over half of it


def test_only_provisional_candidates_are_screened(small: Context, context: Context, study: optuna.Study) -> None:
    assert screening_of(provisional(small), study, small) is not None
    assert screening_of(Cut().candidate(Architecture.full(small.shape), small), study, small) is None
    assert screening_of(provisional(context), study, context) is None  # 500 are more than there are
    off = ScreeningConfig(enabled=False, min_examples=20)
    without = replace(small, config=small.config.model_copy(update={"screening": off}))
    assert screening_of(provisional(without), study, without) is None


def test_a_candidate_that_is_worse_is_given_up(small: Context, study: optuna.Study) -> None:
    number = add(study, small, [1.0, 9.0, 10.0], nothing())
    screening = made(study, small)
    reason = (
        f"trial {number} costs no more and is better by 0.7500 \\(99 % interval 0.[0-9]+ to 0.[0-9]+\\) on 20 of 60"
    )
    with pytest.raises(ScreenedCandidateError, match=reason):
        screening.check(COSTS, outputs(screening, 15))
    screening.check(COSTS, outputs(screening, 2))  # may be chance
    screening.check((8.9, 10.0), outputs(screening, 20))  # faster than all
    screening.check((10.0, 9.9), outputs(screening, 20))  # smaller than all


def test_the_interval_has_the_confidence_of_the_study_file(small: Context, study: optuna.Study) -> None:
    add(study, small, [1.0, 9.0, 9.0], nothing())
    screening = made(study, small)
    # With 4 of 20 wrong, no resample difference is below 0, and 0 comes with the probability 0.8^20 = 1.2 %.
    screening.check(COSTS, outputs(screening, 4))
    with pytest.raises(ScreenedCandidateError, match="95 % interval"):
        replace(screening, confidence=0.95).check(COSTS, outputs(screening, 4))


def test_the_member_is_chosen_by_the_other_examples(small: Context, study: optuna.Study) -> None:
    part = made(study, small).part
    rest = made(study, small).rest
    assert sorted([*part.tolist(), *rest.tolist()]) == list(range(60))
    add(study, small, [0.9, 9.0, 10.0], rest[:6])  # right on all of the part
    chosen = add(study, small, [0.8, 10.0, 9.0], part[:12])  # right on all of the rest
    screening = made(study, small)
    screening.check(COSTS, outputs(screening, 14))  # two fewer than the chosen one, whose 12 are wrong, too
    with pytest.raises(ScreenedCandidateError, match="trial 0 costs"):
        screening.check((9.5, 10.0), outputs(screening, 14))
    assert chosen == 1


def test_dominated_trials_are_not_asked_and_provisional_ones_are(small: Context, study: optuna.Study) -> None:
    add(study, small, [0.5, 9.5, 9.5], nothing())
    add(study, small, [0.6, 9.0, 9.0], nothing(), provisional=True)
    assert [member.number for member in made(study, small).members] == [1]


def test_predictions_of_another_split_or_none_compare_with_nothing(small: Context, study: optuna.Study) -> None:
    add(study, small, [1.0, 9.0, 9.0], nothing())
    screening = made(study, small)
    store = PredictionStore(small.folder)
    found = store.read(0)
    assert found is not None
    store.write(0, replace(found, split="another"))
    screening.check(COSTS, outputs(screening, 20))
    store.collect([0], set())
    screening.check(COSTS, outputs(screening, 20))


def test_numbers_are_compared_by_their_correlation(small: Context, study: optuna.Study) -> None:
    """The same data, read as numbers."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, generator=generator)
    split = replace(small.splits["validation"], labels=scores)
    small.splits = {**small.splits, "validation": split}

    class Numbers:
        config = small.config.task.model_copy(update={"metric": "spearmanr"})
        is_classification, positive_class = False, 1

    add(study, small, [0.9, 9.0, 9.0], nothing())
    store = PredictionStore(small.folder)
    exact = scores.numpy()
    store.write(0, Predictions(exact, exact, 0, split.fingerprint))
    part = part_of(split, SETTINGS, 0, classes=False)
    assert part is not None
    screening = Screening(part, split, study.trials, store, Numbers(), 0.99)  # type: ignore[arg-type]
    noise = np.random.default_rng(0).permutation(exact[part.numpy()])[:, None]
    with pytest.raises(ScreenedCandidateError):
        screening.check(COSTS, noise)
    screening.check(COSTS, exact[part.numpy()][:, None])


@pytest.mark.integration
def test_a_candidate_that_passes_has_the_value_of_the_whole_split(small: Context, study: optuna.Study) -> None:
    sources, candidate = make_sources(small.config), provisional(small)
    phases: list[str] = []
    small.on_phase = lambda phase, done, total: phases.append(phase)
    found = evaluate(candidate, small, sources, None, made(study, small))
    assert phases == ["evaluating", "measuring", "evaluating"]
    whole = evaluate(candidate, small, sources, None)
    assert found.evaluation.quality == whole.evaluation.quality
    assert found.evaluation.outputs is not None
    assert np.allclose(found.evaluation.outputs, whole.evaluation.outputs, atol=1e-5)
    assert (found.memory.weights_mb, found.flops) == (whole.memory.weights_mb, whole.flops)


@pytest.mark.integration
def test_a_study_with_an_elastic_base(write_study: Callable[..., Path], study_folder: Path) -> None:
    """Its slices are provisional, exported only by number, and given up where another trial is better."""
    options = 'weights = "elastic"\nelastic_epochs = 1\nrandom_prefixes = 0\nladder = 2\nlowest_share = 0.3\n'
    options += 'cost = "flops"\ncriteria = ["fisher"]\nexamples = 64\n'
    file = write_study(method="fisher", options=options, extra="[screening]\nmin_examples = 20\n")
    assert run("study", "create", file).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", "1").code == 0
    opened = open_study(parse_url("sqlite:///nasopt.db"), "tiny")
    base, rung = opened.study.trials
    assert (queries.is_provisional(base), queries.is_provisional(rung)) == (False, True)
    assert [trial.number for trial in queries.pareto_front(opened.study)] == [0]
    shown = run("study", "pareto", "tiny", "--all", "-f", "json").out
    assert {record["number"]: record["provisional"] for record in json.loads(shown)}[1] is True

    refused = run("study", "export", "tiny", "--best", f"memory_mb<={rung.values[2]}", "--to", "best")
    assert refused.code != 0
    assert "provisional ones do not count" in refused.err
    assert run("study", "export", "tiny", "--trial", "1", "--to", "exported").code == 0
    assert "**Provisional:**" in (study_folder / "exported" / "README.md").read_text()
    refused = run("study", "controls", "tiny")
    assert refused.code != 0
    assert "has found nothing yet" in refused.err

    objective = Objective(opened.config)
    context = objective.prepare(opened.study)
    winner = add(opened.study, context, [1.0, 1e-6, 1e-6], nothing())
    opened.study.enqueue_trial({**rung.params, "latency_share": 0.4})
    result = run("study", "optimize", "tiny", "--n-trials", "1")
    assert result.code == 0
    screened = opened.study.trials[-1]
    assert screened.state.name == "PRUNED", screened.user_attrs
    reason = queries.screening_of(screened)
    assert reason is not None
    assert reason.startswith(f"trial {winner} costs no more")
    assert f"trial {screened.number} screened: {reason}" in result.err
    assert screened in queries.finished_trials(opened.study)
    assert reason in run("study", "trials", "tiny", "-f", "json").out
    assert json.loads(run("study", "show", "tiny", "-f", "json").out)["not_trained"]["screened"] == 1
