"""AdaBERT on data that run here: the effect of each cure on the collapse, and the worth of a study's members.

`cures` trains supernets that differ in a few options on the first ROWS rows of a study's training data, and shows what
they chose, and how the winner compares with the bag of embeddings (no cells, the same total epochs). `table` reads a
study that has been run with its controls. Differences are in points of accuracy, with the 95 % interval of the paired
bootstrap over the validation split.

Example:
    python benchmarks/adabert.py cures --study studies/adabert-sst2.toml --rows 8000
    nasopt study create studies/adabert-sst2.toml
    nasopt study optimize adabert-sst2
    nasopt study controls adabert-sst2
    python benchmarks/adabert.py table --name adabert-sst2
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial

from nasopt import Objective, StudyConfig
from nasopt.measurement.device import device_name
from nasopt.methods.adabert.method import AdaBERTMethod
from nasopt.numerics.comparison import Difference, class_difference
from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.samplers.adabert import SUPERNET
from nasopt.storage.rdb import parse_url, resolve_url
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.study.opening import open_study

CPU = torch.device("cpu")
BASIC = {"search_epochs": 6, "warmup_epochs": 0, "efficiency_warmup": 0, "tau_start": 1.0, "tau_end": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "published weights": {"efficiency_weight": 1.5},
    "l3 = 0.1": {"efficiency_weight": 0.1},
    "l3 = 0": {"efficiency_weight": 0.0},
    "l3 = 0, warm-up of 2 epochs": {"efficiency_weight": 0.0, "warmup_epochs": 2},
    "l3 = 0, warm-up of 2, 20 % of the data for the choice": {
        "efficiency_weight": 0.0,
        "warmup_epochs": 2,
        "architecture_split": 0.2,
    },
    "l3 = 0.05 rising over 2, warm-up of 2, tau 2 to 0.5": {
        "efficiency_weight": 0.05,
        "efficiency_warmup": 2,
        "warmup_epochs": 2,
        "tau_start": 2.0,
        "tau_end": 0.5,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    each = commands.add_parser("cures")
    each.add_argument("--study", required=True)
    each.add_argument("--rows", type=int, default=8000)
    each.set_defaults(run=cures)
    one = commands.add_parser("table")
    one.add_argument("--name", required=True)
    one.add_argument("--storage", default=None)
    one.set_defaults(run=table)
    arguments = parser.parse_args()
    logging.getLogger("nasopt").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{device_name(CPU)}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    arguments.run(arguments)


def cures(arguments: argparse.Namespace) -> None:
    config = StudyConfig.from_toml(arguments.study).model_dump()
    config["task"]["dataset"]["max_samples"]["train"] = arguments.rows
    print("| options | chosen | entropy | winner | bag | difference | CPU s |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in VARIANTS.items():
            options = {**config["method_options"], **BASIC, **changes}
            print(
                row(StudyConfig.model_validate({**config, "method_options": options}), Path(folder), name), flush=True
            )


def row(config: StudyConfig, folder: Path, name: str) -> str:
    """One supernet, its winner and the bag; base model and teacher stay in the folder for the next one."""
    objective = Objective(config, folder)
    method = objective.method
    assert isinstance(method, AdaBERTMethod)
    study = optuna.create_study(directions=objective.directions)
    context = objective.prepare(study)
    started = time.process_time()
    record = method.prepare(context)[SUPERNET]
    seconds = time.process_time() - started
    chosen = record["chosen"][-1]
    params = {f"cell_{index}": cell for index, cell in enumerate(chosen)}
    winner = method.weights(params, context).candidate(method.architecture(params, context), context)
    epochs = config.training.epochs + method.options.search_epochs
    architecture, source = method.controls.make({"kind": "bag", "epochs": epochs}, context)
    bag = source.candidate(architecture, context)
    split = context.splits["validation"]
    outputs = [context.task.evaluate(item.model, split, CPU).outputs.argmax(1) for item in (winner, bag)]
    labels = split.labels.numpy()
    difference = class_difference(labels, *outputs, classes=2, metric="accuracy")
    mine, its = (100 * float(np.mean(output == labels)) for output in outputs)
    entropy = np.mean(record["entropy"][-1])
    shown = [
        name,
        " ".join(chosen),
        f"{entropy:.2f}",
        f"{mine:.2f}",
        f"{its:.2f}",
        points(difference),
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(shown)} |"


def table(arguments: argparse.Namespace) -> None:
    opened = open_study(parse_url(resolve_url(arguments.storage)), arguments.name)
    base = queries.base_of(opened.study)
    controls = queries.complete_controls(opened.study)
    assert base is not None
    assert controls, f"run `nasopt study controls {arguments.name}` first"
    store = PredictionStore(opened.folder)
    bag = next(trial for trial in controls if queries.label_of(trial) == "bag-of-embeddings")
    vocabulary, width = embedding_of(opened)
    options = opened.config.method_options
    print(queries.study_detail(opened.study, SUPERNET)["text"], "\n")
    print("| trial | what | architecture | accuracy | weights outside the embedding | latency : base | minus the bag |")
    print("|---|---|---|---|---|---|---|")
    found = [trial for trial in queries.pareto_front(opened.study) if trial.number != base.number]
    for trial in [base, *found, *controls]:
        record = TrialRecord.of(trial)
        inner = (record.parameters or 0) - vocabulary * (width if trial is base else options["hidden_size"])
        measured = next(iter((record.latencies or {}).values()))
        name = "base model" if trial is base else queries.label_of(trial) or "found"
        ratio = measured.ratio_words
        cells = [str(trial.number), name, record.architecture, f"{100 * trial.values[0]:.2f}"]
        print("| " + " | ".join([*cells, f"{inner:,}", ratio, against(store, trial, bag)]) + " |")


def embedding_of(opened: Any) -> tuple[int, int]:
    """Rows and columns of the base model's word embedding."""
    from nasopt.models.loading import load_config

    config = load_config(opened.config.task.model, None, False)
    return config.vocab_size, config.hidden_size


def against(store: PredictionStore, trial: FrozenTrial, bag: FrozenTrial) -> str:
    mine, its = store.read(trial.number), store.read(bag.number)
    if mine is None or its is None or trial.number == bag.number:
        return "-"
    return points(class_difference(mine.labels, mine.values, its.values, classes=mine.classes, metric="accuracy"))


def points(difference: Difference) -> str:
    return f"{100 * difference.value:+.2f} ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})"


if __name__ == "__main__":
    main()
