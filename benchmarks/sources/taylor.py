"""The Taylor source's choice of units: heads alone, as published, and heads with neurons, against random ones.

Each student keeps a share of the base model's units, is distilled for an epoch, and is compared with students that keep
as many random units of each layer and are distilled as long, on the same validation phrases: what `nasopt study
controls` does. The two kinds of students are not equally fast, so that each is compared with its own controls only.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from benchmarks.front.figures import markdown, packed, paired_difference, unpacked
from benchmarks.front.ground import ratio_of
from benchmarks.front.results import Results, Row
from benchmarks.sources.methods import load, surroundings
from benchmarks.sources.setting import Competitor, Setting
from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.storage.validation_predictions import PredictionStore

PIECE = "taylor-units"
RANDOM = 2
"""Random choices of units for each student."""
SETTINGS: Mapping[str, dict[str, Any]] = {
    "a quarter of the heads": {"heads": (0.25, 0.25), "ffn": (1.0, 1.0)},
    "half of heads and neurons": {"heads": (0.5, 0.5), "ffn": (0.5, 0.5)},
}
"""What is kept, over all layers together."""
FEW = {"saliency_examples": 64}


def run(setting: Setting, results: Results, seed: int) -> None:
    """One student of each setting with its controls, unless they are there."""
    for name, options in SETTINGS.items():
        key = {"piece": PIECE, "seed": seed, "kept": name}
        if results.has(**key):
            continue
        before = surroundings()
        chosen = {"trials": 1, "sampler": "random", **options, **(FEW if setting.tiny else {})}
        folder = f"{PIECE}-{name.replace(' ', '-')}"
        opened = setting.with_controls(Competitor("taylor", chosen), seed, folder, RANDOM)
        store = PredictionStore(opened.folder)
        trials = opened.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        students = {_name(trial): _facts(trial, store) for trial in trials}
        results.add(**key, **before, load_after=load(), students=students)


def _name(trial: FrozenTrial) -> str:
    """The base model, the student, or the control that a trial is."""
    control = TrialRecord.of(trial).control
    if control is not None:
        return control.label
    return "base" if queries.is_base(trial) else "taylor"


def _facts(trial: FrozenTrial, store: PredictionStore) -> Row:
    stored = store.read(trial.number)
    assert stored is not None
    correct = stored.values == stored.labels
    return {"quality": trial.values[0], "examples": len(correct), "correct": packed(correct), **ratio_of(trial)}


def table(results: Results) -> str:
    """Each setting over its seeds: the student, its random controls, and the difference."""
    heading = ["kept", "seeds", "accuracy", "random units", "difference in points (95 % interval)", "latency / base"]
    lines = []
    rows = sorted(results.rows(piece=PIECE), key=lambda row: list(SETTINGS).index(row["kept"]))
    for kept, group in groupby(rows, key=lambda row: str(row["kept"])):
        seeds, pairs, ours, theirs, ratios = [], [], [], [], []
        for row in group:
            seeds.append(str(row["seed"]))
            student = row["students"]["taylor"]
            ours.append(student["quality"])
            ratios.append(student["ratio"])
            for name, other in row["students"].items():
                if name.startswith("random"):
                    theirs.append(other["quality"])
                    pairs.append((_bits(student), _bits(other)))
        lines.append(
            [kept, " ".join(seeds), _span(ours), _span(theirs), paired_difference(pairs).in_points(), _span(ratios)]
        )
    return markdown(heading, lines)


def _bits(student: Row) -> Any:
    return unpacked(student["correct"], student["examples"])


def _span(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"
