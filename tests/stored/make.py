"""Makes the stored studies: small ones of every method, run by the code at hand, as text and files to be committed.

Run once for a version, from the repository's root (see README.md beside this file):

    PYTHONPATH=.:tests OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python tests/stored/make.py
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from command_line import read, run
from conftest import word_tokenizer, write_sentiment_csv
from lookup_tables import document, entry
from processes import MEASURING_SECONDS
from stored_studies import ARTIFACTS, DATABASE, EXPECTED, PLACEHOLDER, SQL, STORED
from study_text import study_text

SIZES = {"train": 60, "validation": 40, "test": 20}
FULL = {"layer_0": 1, "heads_0": 2, "ffn_0": 128, "layer_1": 1, "heads_1": 2, "ffn_1": 128}
FIRST_LAYER = {**FULL, "layer_1": 0, "heads_1": 0, "ffn_1": 0}
REPORTS = ("show", "trials", "pareto")

LATENCY = """[latency]
batch_size = 2
sequence_length = 16
threads = 1
"""
PREDICTED = """[latency]
device = "a100"
batch_size = 8
sequence_length = 16
"""
TWO_LATENCIES = """[[latency]]
name = "online"
batch_size = 1
sequence_length = 8
threads = 1
[[latency]]
name = "table"
batch_size = 2
sequence_length = 16
threads = 1
mode = "lut"
lut = "{folder}/device.json"
confirm = true
"""

GENETIC = """population_size = 4
generations = 4
mutations = ["remove_any_layer", "remove_any_heads", "remove_ffn", "restore"]
precisions = ["fp32", "bf16", "int8", "int4"]
"""
ALPHANAS = """population_size = 4
generations = 4
min_quality = 0.0
max_parameters = 10000
"""
ADABERT = """trials = 4
hidden_size = 16
cells = 2
layer_pairs = [[0, 0], [1, 1], [2, 2]]
efficiency_weight = 0.1
search_epochs = 4
warmup_epochs = 1
search_batch_size = 16
search_learning_rate = 1e-2
architecture_learning_rate = 0.1
"""
TAYLOR = """trials = 4
sampler = "tpe"
population_size = 2
heads = [0.5, 1.0]
ffn = [0.5, 1.0]
learning_rate = [1e-4, 1e-3]
saliency_examples = 32
vocabulary = ["full", "cut"]
vocabulary_texts = ["{folder}/words.txt"]
"""
BAYESIAN = """trials = 4
population_size = 2
posteriors = ["diagonal", "low_rank"]
posterior_rank = 2
posterior_collections = 8
objectives = ["map", "elbo", "hinton"]
learning_rate = [1e-4, 1e-2]
"""
LOOKED_UP = """population_size = 2
generations = 4
mutations = ["remove_any_layer", "remove_any_heads", "remove_ffn", "restore"]
precisions = ["fp32", "bf16"]
"""


def main() -> None:
    """Makes the studies in a temporary folder and stores them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, default=STORED, help="A folder that does not exist yet.")
    target: Path = parser.parse_args().to.resolve()
    if target.exists():
        parser.error(f"{target} is there already, and what is stored is never made again by a newer version")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        os.chdir(folder)
        os.environ.pop("NASOPT_STORAGE", None)
        _prepare()
        make_inputs(folder)
        for make in (genetic, alphanas, adabert, taylor, bayesian, looked_up):
            print(make.__name__, flush=True)
            make(folder)
        store(folder, target)


def _prepare() -> None:
    """Measures shortly, shows no progress, and names no host in what is committed."""
    from nasopt.host import identity
    from nasopt.measurement.measured.latency import measure_latency

    measure_latency.__kwdefaults__["time_budget_s"] = MEASURING_SECONDS
    identity.host = lambda: "somewhere"  # type: ignore[assignment]


def make_inputs(folder: Path) -> None:
    """The data, two base models (with few and wide, and with many and narrow layers), a table and some texts."""
    import torch
    from transformers import BertConfig, BertModel

    from nasopt.measurement.device import device_name

    write_sentiment_csv(folder / "data", SIZES)
    (folder / "words.txt").write_text("a sad story\n")
    tokenizer = word_tokenizer()
    for name, layers, width in (("model", 2, 128), ("deep-model", 4, 64)):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=width,
            max_position_embeddings=24,
            initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id,
        )
        BertModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    table = document(*(_entries(precision) for precision in ("fp32", "bf16")))
    place = {"hidden_size": 16, "batch_size": 2, "sequence_length": 16, "precision": "fp32"}
    check = {**place, "layers": [[2, 128], [1, 64]], "measured_ms": 0.9}
    table |= {"device": device_name(torch.device("cpu")), "head_size": 8, "checks": [check, check]}
    (folder / "device.json").write_text(json.dumps(table, indent=1) + "\n")


def _entries(precision: str) -> list[dict[str, Any]]:
    sizes = [("embedding", 0, 0.1), ("pooler", 0, 0.05), ("head", 0, 0.02), ("layer", 0, 0.1)]
    sizes += [("attention", 1, 0.1), ("attention", 2, 0.15), ("ffn", 64, 0.05), ("ffn", 128, 0.1)]
    return [entry(*item, hidden_size=16, precision=precision) for item in sizes]


def create(folder: Path, name: str, method: str, options: str, latency: str = LATENCY, model: str = "model") -> None:
    """Writes a study file and creates its study."""
    file = folder / f"{name}.toml"
    text = study_text(
        folder / model,
        folder / "data",
        options.format(folder=folder),
        name=name,
        method=method,
        base_epochs=15,
        task='metric = "accuracy"\nmax_length = 16',
        latency=latency.format(folder=folder),
    )
    text = text.replace("learning_rate = 1e-3", "learning_rate = 3e-3")
    file.write_text(text.replace("epochs = 15\nbatch_size = 16", "epochs = 15\nbatch_size = 4"))
    nasopt("create", file)
    file.unlink()


def nasopt(*arguments: object, code: int = 0) -> None:
    """`nasopt study ARGUMENTS`, which must end with that exit code."""
    result = run("study", *arguments, "--quiet")
    if result.code != code:
        raise RuntimeError(f"{arguments}: exit code {result.code}: {result.err}")


def optimize(name: str, trials: int = 1, code: int = 0) -> None:
    """Runs `trials` more trials."""
    nasopt("optimize", name, "--n-trials", trials, code=code)


def measure_base(name: str) -> None:
    """Runs trial 0 alone."""
    nasopt("optimize", name, "--timeout", 0)


def enqueue(folder: Path, name: str, params: Mapping[str, object], parent: int | None = None) -> None:
    """Queues a trial, as an Optuna program would."""
    from nasopt.storage.rdb import parse_url
    from nasopt.study import open_study

    opened = open_study(parse_url(f"sqlite:///{folder / DATABASE}"), name)
    opened.study.enqueue_trial(dict(params), user_attrs={} if parent is None else {"parent": parent})


def genetic(folder: Path) -> None:
    """All precisions and trainings, a repeated trial, a failed one, an interrupted one and its retry, controls."""
    name = "genetic"
    create(folder, name, "genetic", GENETIC)
    optimize(name, 2)
    pruned = {**FULL, "heads_0": 1, "ffn_1": 64, "precision": "int8", "training": "finetune"}
    distilled = {**FIRST_LAYER, "ffn_0": 64, "precision": "bf16", "training": "distill"}
    for params, parent in (
        (pruned, 0),
        (distilled, 3),
        (distilled, 3),
        ({**distilled, "precision": "int4", "training": "none"}, 4),
    ):
        enqueue(folder, name, params, parent)
        optimize(name)
    enqueue(folder, name, {**FULL, "ffn_0": 64, "precision": "fp32", "training": "finetune"}, 0)
    with losing():
        optimize(name, code=1)
    enqueue(folder, name, {**FULL, "heads_1": 1, "precision": "fp32", "training": "distill"}, 0)
    with interrupting("training"):
        optimize(name, code=130)
    optimize(name)
    nasopt("controls", name, "--random-masks", 1)


def alphanas(folder: Path) -> None:
    """Predicted latency; the base model is larger than allowed, and so is a mask that is not trained."""
    create(folder, "alphanas", "alphanas", ALPHANAS, PREDICTED, "deep-model")
    optimize("alphanas", 2)
    enqueue(folder, "alphanas", {"layer_0": 1, "layer_1": 1, "layer_2": 1, "layer_3": 0})
    enqueue(folder, "alphanas", {"layer_0": 0, "layer_1": 1, "layer_2": 0, "layer_3": 0})
    optimize("alphanas")


def adabert(folder: Path) -> None:
    """Students drawn from a supernet, and controls."""
    create(folder, "adabert", "adabert", ADABERT)
    optimize("adabert", 2)
    nasopt("controls", "adabert", "--random-masks", 1)


def taylor(folder: Path) -> None:
    """Students cut by saliency, one of them with a smaller vocabulary, and controls."""
    create(folder, "taylor", "taylor", TAYLOR)
    measure_base("taylor")
    for vocabulary in ("full", "cut"):
        enqueue(folder, "taylor", {"vocabulary": vocabulary})
        optimize("taylor")
    nasopt("controls", "taylor", "--random-masks", 1)


def bayesian(folder: Path) -> None:
    """Students that start from a posterior, and controls."""
    create(folder, "bayesian", "bayesian", BAYESIAN)
    measure_base("bayesian")
    for structure, layer in (("low_rank", 0), ("diagonal", 1)):
        enqueue(folder, "bayesian", {"layer_0": 1 - layer, "layer_1": layer, "posterior": structure})
        optimize("bayesian")
    nasopt("controls", "bayesian", "--random-masks", 1)


def looked_up(folder: Path) -> None:
    """Two latencies: one measured, one from a table and confirmed by measuring."""
    create(folder, "looked-up", "genetic", LOOKED_UP, TWO_LATENCIES)
    optimize("looked-up", 2)


@contextmanager
def losing() -> Iterator[None]:
    """Trains with a loss that is not a number, as a learning rate that is too large gives."""
    from nasopt.methods.genetic import method

    before = method.task_loss
    method.task_loss = lambda *inputs: before(*inputs) * float("nan")
    try:
        yield
    finally:
        method.task_loss = before


@contextmanager
def interrupting(phase: str) -> Iterator[None]:
    """Presses Ctrl-C in that phase of a trial."""
    from nasopt.execution.progress import QuietView

    before = QuietView.phase
    pressed: list[int] = []

    def watch(self: QuietView, number: int, current: str, done: int, total: int) -> None:
        if current == phase and not pressed:
            pressed.append(number)
            os.kill(os.getpid(), signal.SIGINT)

    QuietView.phase = watch  # type: ignore[method-assign]
    try:
        yield
    finally:
        QuietView.phase = before  # type: ignore[method-assign]


def store(folder: Path, target: Path) -> None:
    """Writes the studies into the target: their database as text without the folder's name, their files, what
    nasopt prints of them."""
    expected = {
        name: {report: read("study", report, name) for report in REPORTS}
        for name in (record["name"] for record in read("study", "list"))
    }
    for name in ("data", "model", "deep-model"):
        shutil.copytree(folder / name, target / name)
    for name in ("words.txt", "device.json"):
        shutil.copy(folder / name, target)
    shutil.copytree(folder / ARTIFACTS, target / "artifacts", ignore=_recreated)
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        (target / SQL).write_text(_without_folder("\n".join(connection.iterdump()) + "\n", folder))
    (target / EXPECTED).write_text(_without_folder(json.dumps(expected, indent=1) + "\n", folder))
    for file in target.rglob("*"):
        if file.is_file() and str(folder).encode() in file.read_bytes():
            raise RuntimeError(f"{file} holds the name of the folder in which it was made")


def _recreated(folder: str, names: list[str]) -> set[str]:
    """Lock files, and tokenised data: those are made again from the texts where they are missing."""
    return {name for name in names if re.fullmatch(r"\..*lock", name) or (name == "data" and "/" in folder)}


def _without_folder(text: str, folder: Path) -> str:
    return text.replace(str(folder), PLACEHOLDER)


if __name__ == "__main__":
    main()
