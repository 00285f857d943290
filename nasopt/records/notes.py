"""The text of a trial's note, in Markdown, as optuna-dashboard shows it.

A note has one line for each encoder layer, so its size is bounded by
the base model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.records.latency import batch_words, runtime_words, source_words

EM_SPACE = "\N{EM SPACE}"


@dataclass(frozen=True)
class TrialFacts:
    """What is known of a trial that has been measured.

    Attributes:
        architecture: what it keeps, and its precision.
        shape: the base model's.
        parameters: number of its weights.
        flops: of one forward pass of the first latency's batch.
        values: the objectives by name, in their order.
        base_values: the base model's; empty for the base model itself.
        metric: what `quality` is.
        latencies: by objective, the measurement with its environment.
        parent: number of the trial whose weights it inherited; None for the base model.
        trained: how it was trained in this trial (``none``, ``finetune``, ``distill``).
        training: what that took; empty if nothing was trained.
        epochs: epochs over the whole line of parents, by kind of training.
        control: what it is, if it is a control.
        memory: of the weights and at its highest in one pass, in MB, and where; whichever of them is the objective.
        device_change: from what device to what other one the study had come, if it had.
        quality_details: what the quality is made of, by name.
    """

    architecture: CandidateArchitecture
    shape: EncoderShape
    parameters: int
    flops: int
    values: Mapping[str, float]
    base_values: Mapping[str, float]
    metric: str
    latencies: Mapping[str, Mapping[str, Any]]
    parent: int | None = None
    trained: str = "none"
    training: Mapping[str, Any] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    control: str | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    device_change: str | None = None
    quality_details: Mapping[str, float | str] = field(default_factory=dict)


def note_text(facts: TrialFacts) -> str:
    """The note of a measured trial, in Markdown."""
    parts = [f"**{in_words(facts)}**", _origin(facts), _values_table(facts)]
    if facts.quality_details:
        shown = {
            name: value if isinstance(value, str) else f"{value:.4f}" for name, value in facts.quality_details.items()
        }
        parts.append(_table(list(shown), [list(shown.values())]))
    if facts.device_change is not None:
        parts.append(f"**The device has changed:** {facts.device_change}")
    if facts.memory:
        weights, peak, device = (facts.memory[name] for name in ("weights_mb", "peak_mb", "device"))
        parts.append(f"Memory: {weights:.2f} MB of weights, {peak:.2f} MB at most in one pass (on {device}).")
    parts += ["**Part by part**", _table(*facts.architecture.table(facts.shape))]
    parts += ["**Latency**", _latency_table(facts)]
    return "\n\n".join(parts)


def failure_text(reason: str, parent: int | None) -> str:
    """The note of a failed trial, in Markdown."""
    # As code, so that nothing in an error message is taken for Markdown.
    shown = reason.replace("`", "'")
    origin = "" if parent is None else f"\n\nChild of trial {parent}."
    return f"**Failed:** `{shown}`{origin}"


def in_words(facts: TrialFacts) -> str:
    """The architecture on one line."""
    architecture = facts.architecture
    counts = f"{facts.parameters:,} parameters, {facts.flops / 1e9:.3g} GFLOPs a batch"
    return f"{architecture.in_words(facts.shape)}, {architecture.precision}, {counts}"


def _origin(facts: TrialFacts) -> str:
    """Where the weights came from, and how they were trained."""
    line = ", ".join(f"{count} of {kind}" for kind, count in facts.epochs.items() if count)
    if facts.control is not None:
        return f"Control `{facts.control}`, made without a search. Epochs since the base model: {line or 'none'}."
    if facts.parent is None:
        return "The base model."
    how = {"none": "not trained", "finetune": "fine-tuned", "distill": "distilled from the base model"}
    text = f"Child of trial {facts.parent}; {how.get(facts.trained, facts.trained)} in this trial"
    if facts.training:
        text += (
            f" ({facts.training['seconds']:.1f} s, {facts.training['steps']} steps, loss {facts.training['loss']:.4f})"
        )
    return f"{text}. Epochs since the base model: {line or 'none'}."


def _values_table(facts: TrialFacts) -> str:
    rows = [_value_row(facts, name, value) for name, value in facts.values.items()]
    heading = ["objective", "value", "base model", "ratio to base (95 % interval)"]
    return _table(heading, rows)


def _value_row(facts: TrialFacts, name: str, value: float) -> list[str]:
    latency = facts.latencies.get(name)
    if latency is not None:
        label, digits, unit = f"`{name}`", 3, " ms"
    elif name == "memory_mb":
        label, digits, unit = "`memory_mb`", 2, " MB"
    else:
        label, digits, unit = f"`{name}` ({facts.metric})", 4, ""
    base = facts.base_values.get(name)
    ratio = "-"
    if latency is not None and latency["source"] == "predicted":
        unit += f" ({source_words(latency)})"
        ratio = f"{latency['ratio']:.3f}"
    elif latency is not None:
        ratio = f"{latency['ratio']:.3f} ({latency['ratio_low']:.3f} to {latency['ratio_high']:.3f})"
    elif base:
        ratio = f"{value / base:.3f}"
    return [label, f"{value:.{digits}f}{unit}", "-" if base is None else f"{base:.{digits}f}{unit}", ratio]


def _latency_table(facts: TrialFacts) -> str:
    """How and where each latency was obtained; a column for each."""
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "source": source_words,
        "device": lambda item: item["device"] + (f", driver {item['driver']}" if item.get("driver") else ""),
        "runtime": runtime_words,
        "threads": lambda item: str(item.get("threads", "-")),
        "torch": lambda item: item.get("torch_version", "-"),
        "precision": lambda item: item["dtype"],
        "batch": batch_words,
        "median (p10 to p90)": _spread,
        "base model, in turns": lambda item: f"{item['base_median_ms']:.3f} ms",
        "repetitions": lambda item: str(item.get("repetitions", "-")),
    }
    items = facts.latencies.values()
    return _table(["", *facts.latencies], [[label, *map(show, items)] for label, show in rows.items()])


def _spread(item: Mapping[str, Any]) -> str:
    if item["source"] == "predicted":
        return f"{item['median_ms']:.3f} ms (interval {item['low_ms']:.3f} to {item['high_ms']:.3f})"
    return f"{item['median_ms']:.3f} ms ({item['p10_ms']:.3f} to {item['p90_ms']:.3f})"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    # An em space ends each cell: the dashboard's tables leave nothing between columns.
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell + EM_SPACE for cell in cells)} |"

    return "\n".join([line(heading), "|---" * len(heading) + "|", *map(line, rows)])
