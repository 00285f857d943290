"""Training budgets: a member's controls get what the member got, counted at the one training loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import mostly_slow
from study_text import study_text
from transformers import AutoTokenizer, BertForSequenceClassification

from nasopt.config.study import StudyConfig
from nasopt.execution.controls import member_of, members_of, run_controls
from nasopt.execution.search import run_base, run_trials
from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.storage.rdb import parse_url
from nasopt.study.creation import create, read_study_file
from nasopt.study.opening import open_study
from nasopt.training import loop
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration

ONCE = "once per study"
TRIALS = 4


class Ledger:
    """A count of examples times passes, by the trial under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: Counter[int | str] = Counter()
        self.key: Callable[[], int | str] = lambda: ONCE
        ledger = self

        class Counted(loop._Run):
            def _step(self, optimizers: object, batches: list[torch.Tensor], watch: object) -> None:
                ledger.passes[ledger.key()] += sum(map(len, batches))
                super()._step(optimizers, batches, watch)

        monkeypatch.setattr(loop, "_Run", Counted)


@pytest.fixture
def trained_bert(tmp_path: Path, tiny_bert: Path) -> Path:
    """A classifier that needs no training, so that the posterior is collected by training a copy of it."""
    folder = tmp_path / "trained"
    labels = {0: "negative", 1: "positive"}
    names = {label: index for index, label in labels.items()}
    BertForSequenceClassification.from_pretrained(tiny_bert, id2label=labels, label2id=names).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


BAYESIAN = 'sampler = "random"\nposterior_rank = 2\nposterior_collections = 4\nposterior_epochs = 3\n'
ADABERT = "trials = 4\nhidden_size = 16\ncells = 2\nlayer_pairs = [[0, 0], [1, 2]]\nsearch_epochs = 3\n"
GENETIC = 'population_size = 3\ngenerations = 2\nmutations = ["remove_any_layer", "remove_ffn", "restore"]'
OPTIONS = {
    "genetic": f'start = "base"\n{GENETIC}',
    "genetic, ladder": f'ladder = 2\ncost = "flops"\n{GENETIC}',
    "fisher": 'trials = 4\nladder = 2\nlowest_share = 0.3\ncost = "flops"\nexamples = 32',
    "fisher, elastic": 'trials = 4\nladder = 3\nlowest_share = 0.3\ncost = "flops"\nexamples = 32\nweights = "elastic"',
    "alphanas": "population_size = 2\ngenerations = 2\nmin_quality = 0",
    "adabert": ADABERT,
    "adabert, split": f"{ADABERT}architecture_split = 0.25\nwarmup_epochs = 1",
    "taylor": 'trials = 4\nsampler = "random"\nheads = [0.25, 0.75]\nffn = [0.34, 0.67]\nsaliency_examples = 32',
    "bayesian": f'{BAYESIAN}objectives = ["ce", "map", "hinton"]',
    "bayesian, untrained": f'{BAYESIAN}objectives = ["ce", "map"]',
}


def _config(case: str, folder: Path, model: Path, data: Path) -> StudyConfig:
    text = study_text(model, data, OPTIONS[case], base_epochs=2)
    file = folder / "study.toml"
    file.write_text(text.replace('"genetic"', f'"{case.partition(",")[0]}"'))
    return read_study_file(file)


@pytest.mark.parametrize("case", mostly_slow(OPTIONS, ("taylor", "alphanas")))
def test_controls_are_trained_as_much_as_their_members(
    case: str,
    tmp_path: Path,
    tiny_bert: Path,
    trained_bert: Path,
    sentiment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger(monkeypatch)
    config = _config(case, tmp_path, trained_bert if case == "bayesian" else tiny_bert, sentiment)
    create(config, parse_url(f"sqlite:///{tmp_path}/study.db"))
    opened = open_study(parse_url(f"sqlite:///{tmp_path}/study.db"), config.name)
    objective = Objective(opened.config, opened.artifacts)
    run_base(opened, objective)
    ledger.passes.clear()
    context = objective.prepare(opened.study)
    ledger.key = lambda: objective.trial_number
    tickets = iter(range(TRIALS))
    run_trials(opened, objective, lambda: next(tickets, None) is not None, lambda trial: None)
    family = objective.method.controls
    assert family is not None

    def behind(number: int) -> int:
        """Passes that went into a trial's weights, those of its line and those once per study included."""
        found, at = ledger.passes[ONCE], number
        while at != 0:
            found += ledger.passes[at]
            parent = TrialRecord.of(opened.study.trials[at]).parent
            at = 0 if parent is None else parent
        return found

    compared = 0
    for trial in members_of(opened)[:2]:  # others have no checkpoint to make controls of
        member = member_of(trial, context.checkpoints)
        wanted = family.propose([member], context.shape, 1, config.seed, context.epoch_cost)
        run_controls(opened, objective, wanted, lambda trial: None)
        keys = {queries.recipe_key(control.recipe) for control in wanted}
        for control in opened.study.trials:
            if queries.recipe_key(queries.recipe_of(control) or {}) not in keys:
                continue
            assert control.state.name == "COMPLETE", control.user_attrs
            # What the supernet taught is in its random cells, too; no other control has what was made once.
            shared = ledger.passes[ONCE] if control.user_attrs["control"].startswith("random-cells") else 0
            assert ledger.passes[control.number] + shared >= behind(trial.number), control.user_attrs["control"]
            if "adabert" not in case:  # whose controls have next to no FLOPs
                mine, its = trial.user_attrs["training_budget"], control.user_attrs["training_budget"]
                assert its >= 0.98 * mine
            compared += 1
    assert compared
    assert (ledger.passes[ONCE] > 0) == (case in ("bayesian", "fisher, elastic") or "adabert" in case)
