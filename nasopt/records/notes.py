"""The text of a trial's note, in Markdown, as optuna-dashboard shows it.

A note has one line for each encoder layer, so its size is bounded by the base model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.records.latency import Latencies, LatencyRecord, MeasuredLatency
from nasopt.records.outside import OutsideRecipe
from nasopt.records.trial import TrialRecord

PROVISIONAL = (
    "**Provisional:** its weights are a slice of a network trained for many candidates, and not healed; it is on no "
    "front that `nasopt study pareto` shows without `--all`."
)

EM_SPACE = "\N{EM SPACE}"


@dataclass(frozen=True)
class TrialView:
    """A measured trial as its note and attachments show it, with the base model's shape and values to compare with.

    Attributes:
        record: the trial's record.
        architecture: the candidate's shape and precision.
        shape: the base model's shape.
        values: the objectives by name, in their order.
        base_values: the base model's values; empty for the base model itself.
        metric: the name of the metric that `quality` is.
        trained: how it was trained in this trial (``none``, ``finetune``, ``distill``).
    """

    record: TrialRecord
    architecture: CandidateArchitecture
    shape: EncoderShape
    values: Mapping[str, float]
    base_values: Mapping[str, float]
    metric: str
    trained: str = "none"

    @property
    def latencies(self) -> Latencies:
        """The latencies by objective; empty where nothing was measured or predicted."""
        return self.record.latencies or {}


def note_text(view: TrialView) -> str:
    """The note of a measured trial, in Markdown."""
    record = view.record
    parts = [
        f"**{in_words(view)}**",
        *([PROVISIONAL] if record.provisional else []),
        _origin(view),
        _values_table(view),
    ]
    if record.quality_details:
        shown = {
            name: value if isinstance(value, str) else f"{value:.4f}" for name, value in record.quality_details.items()
        }
        parts.append(table(list(shown), [list(shown.values())]))
    if record.quality_by_dimension:
        cut = {name: f"{value:.4f}" for name, value in record.quality_by_dimension.items()}
        parts.append(table(["first entries of a vector", *cut], [[f"`quality` ({view.metric})", *cut.values()]]))
    if record.device_change is not None:
        parts.append(f"**The device has changed:** {record.device_change}")
    if record.memory is not None:
        weights, peak = f"{record.memory.weights_mb:.2f} MB of weights", f"{record.memory.peak_mb:.2f} MB"
        parts.append(f"Memory: {weights}, {peak} at most in one pass (on {record.memory.device}).")
    parts += ["**Part by part**", table(*view.architecture.table(view.shape))]
    parts += ["**Latency**", _latency_table(view.latencies)]
    return "\n\n".join(parts)


def screening_text(reason: str) -> str:
    """The note of a candidate that was given up on a part of the validation split, in Markdown."""
    return f"**Screened:** {reason}."


def failure_text(reason: str, parent: int | None) -> str:
    """The note of a failed trial, in Markdown."""
    # The reason is shown as code, so that nothing in an error message is taken for Markdown.
    shown = reason.replace("`", "'")
    origin = "" if parent is None else f"\n\nChild of trial {parent}."
    return f"**Failed:** `{shown}`{origin}"


def in_words(view: TrialView) -> str:
    """The architecture on one line."""
    architecture, record = view.architecture, view.record
    counts = f"{record.parameters or 0:,} parameters, {(record.flops or 0) / 1e9:.3g} GFLOPs a batch"
    return f"{architecture.in_words(view.shape)}, {architecture.precision}, {counts}"


def _origin(view: TrialView) -> str:
    """Says where the weights came from, and how they were trained."""
    record = view.record
    epochs = {
        "fine-tuning": record.finetune_epochs,
        "distillation": record.distill_epochs,
        "search": record.search_epochs,
    }
    line = ", ".join(f"{count} of {kind}" for kind, count in epochs.items() if count)
    if record.control is not None and OutsideRecipe.of(record.control.recipe) is not None:
        return (
            f"`{record.control.label}`, a model from outside the study. Epochs on the study's data: {line or 'none'}."
        )
    if record.control is not None:
        made = f"Control `{record.control.label}`, made without a search"
        return f"{made}. Epochs since the base model: {line or 'none'}."
    if record.parent is None:
        return "The base model."
    how = {"none": "not trained", "finetune": "fine-tuned", "distill": "distilled from the base model"}
    text = f"Child of trial {record.parent}; {how.get(view.trained, view.trained)} in this trial"
    if record.training_result:
        taken = record.training_result
        text += f" ({taken['seconds']:.1f} s, {taken['steps']} steps, loss {taken['loss']:.4f})"
    return f"{text}. Epochs since the base model: {line or 'none'}."


def _values_table(view: TrialView) -> str:
    rows = [_value_row(view, name, value) for name, value in view.values.items()]
    heading = ["objective", "value", "base model", "ratio to base (95 % interval)"]
    return table(heading, rows)


def _value_row(view: TrialView, name: str, value: float) -> list[str]:
    latency = view.latencies.get(name)
    if latency is not None:
        label, digits, unit = f"`{name}`", 3, " ms"
    elif name == "memory_mb":
        label, digits, unit = "`memory_mb`", 2, " MB"
    else:
        label, digits, unit = f"`{name}` ({view.metric})", 4, ""
    base = view.base_values.get(name)
    ratio = "-"
    if latency is not None:
        unit += latency.caveat
        ratio = latency.ratio_words
    elif base:
        ratio = f"{value / base:.3f}"
    return [label, f"{value:.{digits}f}{unit}", "-" if base is None else f"{base:.{digits}f}{unit}", ratio]


def _latency_table(latencies: Latencies) -> str:
    """A table that says how and where each latency was obtained, with a column for each."""
    rows: dict[str, Callable[[LatencyRecord], str]] = {
        "source": lambda item: item.source_words,
        "device": lambda item: item.device_words,
        "runtime": lambda item: item.runtime_words,
        "threads": lambda item: "-" if item.threads is None else str(item.threads),
        "torch": lambda item: item.torch_version if isinstance(item, MeasuredLatency) else "-",
        "precision": lambda item: item.dtype,
        "batch": lambda item: item.batch_words,
        "median (p10 to p90)": lambda item: item.spread_words,
        "base model, in turns": lambda item: f"{item.base_median_ms:.3f} ms",
        "repetitions": lambda item: str(item.repetitions) if isinstance(item, MeasuredLatency) else "-",
    }
    items = latencies.values()
    return table(["", *latencies], [[label, *map(show, items)] for label, show in rows.items()])


def table(heading: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown that optuna-dashboard shows well."""

    # An em space ends each cell: the dashboard's tables leave nothing between columns.
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell + EM_SPACE for cell in cells)} |"

    return "\n".join([line(heading), "|---" * len(heading) + "|", *map(line, rows)])
