"""Where a latency came from, in words: a value for a device that was not there is never shown without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Latencies = Mapping[str, Mapping[str, Any]]
"""By objective, what is stored of a trial's latency."""


def source_words(record: Mapping[str, Any]) -> str:
    """`measured`, or `predicted, a100-40gb, +-12 %`: and what is beyond the calibration."""
    if record["source"] != "predicted":
        return str(record["source"])
    parts = ["predicted", record["profile"], f"+-{record['interval_percent']:.0f} %"]
    if record["beyond"]:
        parts.append(f"extrapolated ({', '.join(record['beyond'])})")
    return ", ".join(parts)


def predicted_words(latencies: Latencies) -> str | None:
    """Which of a trial's latencies are predicted, for what and how well; None if none is."""
    found = {name: source_words(item) for name, item in latencies.items() if item["source"] == "predicted"}
    if len(latencies) == 1:
        return next(iter(found.values()), None)
    return "; ".join(f"{name}: {words}" for name, words in found.items()) or None


def source_of(latencies: Latencies) -> str | None:
    """`predicted` if any of a trial's latencies is; None if it has none."""
    sources = [item["source"] for item in latencies.values()]
    return "predicted" if "predicted" in sources else next(iter(sources), None)


def batch_words(record: Mapping[str, Any]) -> str:
    """The shape, `32 x 128 tokens`, or what stands in its place."""
    size = f"{record['batch_size']} x "
    if record.get("lengths") == "validation":
        return f"{size}texts of the validation split, at most {record['sequence_length']} tokens"
    return f"{size}{record['sequence_length']} tokens"


def runtime_words(record: Mapping[str, Any]) -> str:
    """What ran the model; `eager` in studies that are older than the choice."""
    name = " ".join(filter(None, (record.get("runtime", "eager"), record.get("runtime_version"))))
    used = [words for key, words in (("tf32", "TF32"), ("cuda_graph", "CUDA graph")) if record.get(key)]
    return ", ".join([name, *used])
