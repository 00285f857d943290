"""AdaBERT on data that run here: the effect of each cure on the collapse, and the worth of a study's members.

`cures` trains supernets that differ in a few options on the first ROWS rows of a study's training data, and shows what
they chose, and how the winner compares with the bag of embeddings (no cells, the same total epochs). Two of them are
what the source blames for its collapse: the efficiency weight, and 15 epochs where others need 50 to 90. Each is a
line of JSON in the file of results, and is not done again. `table` reads a study that has been run with its controls.
Differences are in points of accuracy, with the 95 % interval of the paired bootstrap over the validation split.

Example:
    python -m benchmarks.adabert cures --study studies/adabert-sst2.toml --rows 8000 --seeds 0 1 2
    nasopt study create studies/adabert-sst2.toml
    nasopt study optimize adabert-sst2
    nasopt study controls adabert-sst2
    python -m benchmarks.adabert table --name adabert-sst2
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial

from benchmarks.front.figures import markdown
from benchmarks.front.results import Results, Row
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
    "published weights, 15 epochs": {"efficiency_weight": 1.5, "search_epochs": 15},
    "l3 = 0.1": {"efficiency_weight": 0.1},
    "l3 = 0": {"efficiency_weight": 0.0},
    "l3 = 0, 15 epochs": {"efficiency_weight": 0.0, "search_epochs": 15},
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
    each.add_argument("--seeds", type=int, nargs="+", default=[0])
    each.add_argument("--results", type=Path, default=Path("benchmarks/results/adabert.jsonl"))
    each.add_argument("--work", type=Path, default=Path("adabert-work"), help="base models")
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
    results = Results(arguments.results)
    for seed in arguments.seeds:
        for name, changes in VARIANTS.items():
            key = {"piece": "cures", "rows": arguments.rows, "seed": seed, "name": name}
            if not results.has(**key):
                options = {**config["method_options"], **BASIC, **changes}
                made = StudyConfig.model_validate({**config, "seed": seed, "method_options": options})
                results.add(**key, date=time.strftime("%Y-%m-%d"), **cured(made, arguments.work / f"{seed}"))
                print(f"seed {seed}: {name}", flush=True)
    print(table_of_cures([row for row in results.rows(piece="cures", rows=arguments.rows)]))


def cured(config: StudyConfig, folder: Path) -> dict[str, Any]:
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
    accuracies = [float(np.mean(output == labels)) for output in outputs]
    return {
        "chosen": chosen,
        "entropy": float(np.mean(record["entropy"][-1])),
        **dict(zip(("winner", "bag"), accuracies, strict=True)),
        "difference": [difference.value, difference.low, difference.high],
        "cpu_seconds": round(seconds),
    }


def table_of_cures(rows: list[Row]) -> str:
    """A line for each variant and seed."""
    heading = ["options", "seed", "chosen", "entropy", "winner", "bag", "minus the bag", "CPU s"]
    lines = [
        [
            *(row["name"], str(row["seed"]), " ".join(row["chosen"]), f"{row['entropy']:.2f}"),
            *(f"{100 * row['winner']:.2f}", f"{100 * row['bag']:.2f}", points(Difference(*row["difference"]))),
            str(row["cpu_seconds"]),
        ]
        for row in sorted(rows, key=lambda row: list(VARIANTS).index(row["name"]))
    ]
    return markdown(heading, lines)


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
