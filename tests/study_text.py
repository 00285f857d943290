"""The study files of the tests, on models and data that are built in code."""

from __future__ import annotations

from pathlib import Path

GENETIC = """population_size = 4
generations = 2
start = "base"
mutations = ["remove_any_layer", "remove_any_heads", "remove_ffn", "restore"]
"""
"""Options of a small genetic search that has all mutations."""

CLASSIFICATION = """metric = "accuracy"
max_length = 32
"""
SENTIMENT = """text = ["text"]
label = "label"
"""
LATENCY = """[latency]
device = "cpu"
batch_size = 2
sequence_length = 16
threads = 1
"""
PAIRS_LATENCY = """[latency]
batch_size = 2
sequence_length = 8
threads = 1
"""


def study_text(
    model: Path | str,
    data: Path | str,
    options: str = GENETIC,
    *,
    name: str = "tiny",
    method: str = "genetic",
    base_epochs: int = 4,
    task: str = CLASSIFICATION,
    columns: str = SENTIMENT,
    latency: str = LATENCY,
    tables: str = "",
) -> str:
    """The text of a study file.

    Args:
        model: Folder of the model, or what names it.
        data: Folder with a file for each of the splits train, validation and test.
        options: Lines of `[method_options]`.
        name: The study's name.
        method: The method's name.
        base_epochs: How long the base model is trained.
        task: Further lines of `[task]`.
        columns: Lines of `[task.dataset]` that name columns.
        latency: The table `[latency]`, or several of them.
        tables: Whole further tables.
    """
    return f"""
name = "{name}"
method = "{method}"
seed = 1
[task]
model = "{model}"
{task}
[task.dataset]
path = "{data}"
{columns}
splits = {{ train = "train", validation = "validation", test = "test" }}
[training]
batch_size = 16
learning_rate = 1e-3
[base_training]
epochs = {base_epochs}
batch_size = 16
learning_rate = 3e-3
{latency}
{tables}
[method_options]
{options}
"""


def pairs_text(
    model: Path | str, data: Path | str, options: str, *, task: str, method: str, tables: str = "", latency: str = ""
) -> str:
    """The text of a study file on pairs of short texts (see `conftest.write_pairs`); the arguments are the same.

    Args:
        latency: Further lines of `[latency]`.
    """
    text = study_text(
        model,
        data,
        options,
        method=method,
        base_epochs=2,
        task=f"{task}\nmax_length = 16",
        columns='text = ["first", "second"]',
        latency=f"{PAIRS_LATENCY}{latency}",
        tables=tables,
    )
    return text.replace("learning_rate = 1e-3", "learning_rate = 3e-3")
