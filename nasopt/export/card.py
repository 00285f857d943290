"""The model card of an exported model: what it is, its numbers beside the base model's, and how it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.study.opening import OpenStudy

if TYPE_CHECKING:
    from nasopt.tasks.base import Evaluation, Task


PROVISIONAL = """**Provisional:** the weights are a slice of a network that was trained for many candidates at once. A
training of its own would make this model better."""

WHOLE = "all"
LOADING = """import nasopt

model, tokenizer = nasopt.load("this folder")
"""


def model_card(
    opened: OpenStudy,
    task: Task,
    trial: FrozenTrial,
    tested: tuple[Evaluation | None, Evaluation | None],
    use: str | None = None,
    *,
    needs_code: bool = False,
) -> str:
    """README.md of an exported model: its origin, its numbers beside the base model's, where they were measured, and
    how to `use` it (by the task's own code if None).

    `tested` are its evaluation and the base model's on the test split, if known; `needs_code` says whether the folder
    brings a modelling file along.
    """
    settings = opened.config.task
    base = queries.base_of(opened.study)
    base_values = base.values if base else [None] * len(trial.values)
    record = TrialRecord.of(trial)
    latencies = record.latencies or {}
    caveats = {name: item.caveat for name, item in latencies.items()}
    rows = [
        f"| {name}{caveats.get(name, '')} | {number(mine)} | {number(its)} |"
        for name, mine, its in zip(opened.config.metric_names, trial.values, base_values, strict=True)
    ]
    if tested[0] is not None:
        rows.insert(1, f"| {task.quality_name} on the test split | {' | '.join(map(quality_of, tested))} |")
    outside = queries.outside_of(trial)
    source = settings.model if outside is None else outside.model.source
    origin = f"nasopt's {opened.config.method} search"
    if outside is not None:
        origin = f"{outside.epochs} epochs of training, for comparison with nasopt's {opened.config.method} search"
    licence = _licence(source)
    front = f"---\nbase_model: {Path(source).name}\nlibrary_name: transformers\npipeline_tag: {settings.type}\n"
    front += f"license: {licence}\n" if licence else ""
    standing = f"{chr(10)}{PROVISIONAL}{chr(10)}" if record.provisional else ""
    if use is None:
        use = f"\n```python\n{LOADING}{task.usage}```\n" + task.other_use(queries.precision_of(trial), needs_code)
        use += f"\n{longest_text(task)}\n"
    environments = "\n".join(f"* {name}: {item.summary}" for name, item in latencies.items())
    return f"""{front}---
# {opened.name}, trial {trial.number}

Made from `{Path(source).name}` by {origin}, for {settings.type} on
`{Path(settings.dataset.path).name}`. Precision {queries.precision_of(trial)},
{record.parameters or 0:,} parameters.
{standing}
| | this model | base model |
|---|---|---|
{chr(10).join(rows)}

`quality` is {task.quality_name} on {task.judged_on}, which the search has seen.
{_of_cut_vectors(task, trial, base, tested)}
Latency is one forward pass of one batch, in alternation with the base model where it is measured:

{environments}
{use}
Licence of the base model: {licence or "unknown"}.
"""


def _of_cut_vectors(
    task: Task, trial: FrozenTrial, base: FrozenTrial | None, tested: tuple[Evaluation | None, Evaluation | None]
) -> str:
    """A table of the quality of vectors that are cut to their first entries; empty where none was evaluated."""
    columns = {"this model": _by_dimension(trial), "base model": _by_dimension(base)}
    if tested[0] is not None:
        columns |= dict(zip(("this model, test split", "base model, test split"), map(_tested, tested), strict=True))
    sizes = [size for size in columns["this model"] if size != WHOLE]
    if not sizes:
        return ""
    rows = [" | ".join([size, *(number(its.get(size)) for its in columns.values())]) for size in (WHOLE, *sizes)]
    kept = task.embedding and task.embedding.dimension
    told = f" This folder's vectors have the first {kept} entries alone." if kept else ""
    return f"""
Vectors that are cut to their first entries, by {task.quality_name}.{told}

| entries | {" | ".join(columns)} |
{"|---" * (len(columns) + 1)}|
{chr(10).join(f"| {row} |" for row in rows)}
"""


def _by_dimension(trial: FrozenTrial | None) -> dict[str, float]:
    return {} if trial is None else {WHOLE: trial.values[0], **(TrialRecord.of(trial).quality_by_dimension or {})}


def _tested(evaluation: Evaluation | None) -> dict[str, float]:
    if evaluation is None:
        return {}
    return {WHOLE: evaluation.quality, **{str(size): value for size, value in evaluation.by_dimension.items()}}


def longest_text(task: Task) -> str:
    """The longest text that a model reads, which has a table of that many positions, and the study's own limit."""
    limit, most = min(task.config.max_length, task.max_positions), task.max_positions
    own = "" if limit == most else f" It was trained and evaluated with {limit} at most."
    cure = f"cut longer ones (`truncation=True, max_length={limit}`)"
    if task.window_overlap is not None or task.tags_tokens:
        cure = "longer ones are read in windows"
    return f"The model reads at most {most} tokens of a text, special ones among them: {cure}.{own}"


def quality_of(evaluation: Evaluation | None) -> str:
    """A quality for the card; a dash for none."""
    return number(None if evaluation is None else evaluation.quality)


def number(value: float | None) -> str:
    """A number with four digits for the card; a dash for none."""
    return "-" if value is None else f"{value:.4g}"


def _licence(model: str) -> str | None:
    """The licence that a local base model's own card states."""
    card = Path(model) / "README.md"
    if not card.is_file():
        return None
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
        if line.startswith("license:"):
            return line.partition(":")[2].strip()
    return None
