"""Look-up tables of round numbers, so that sums can be worked out by hand."""

from __future__ import annotations

from typing import Any

PLACE = {"hidden_size": 64, "batch_size": 2, "sequence_length": 16, "precision": "fp32"}

Document = dict[str, Any]


def entry(block: str, size: int, latency: float, **place: Any) -> Document:
    interval = {"latency_ms": latency, "low_ms": latency * 0.9, "high_ms": latency * 1.1}
    return {**PLACE, **place, "block": block, "size": size, **interval, "pairs": 10}


def entries(scale: float = 1.0, **place: Any) -> list[Document]:
    """Embedding 1, pooler 0.5, head 0.25, layer 0.1; attention 1 -> 2, 4 -> 5; FFN 64 -> 3, 128 -> 5 (ms)."""
    sizes = [("embedding", 0, 1.0), ("pooler", 0, 0.5), ("head", 0, 0.25), ("layer", 0, 0.1)]
    sizes += [("attention", 1, 2.0), ("attention", 4, 5.0), ("ffn", 64, 3.0), ("ffn", 128, 5.0)]
    return [entry(block, size, latency * scale, **place) for block, size, latency in sizes]


def document(*groups: list[Document]) -> Document:
    """A table of BERT models with heads of size 16 at :data:`PLACE`, or of the entries given."""
    check = {**PLACE, "layers": [[1, 64]], "measured_ms": 6.85}
    return {
        "kind": "lookup-table",
        "schema_version": 1,
        "device": "a test",
        "driver": "",
        "threads": 1,
        "torch_version": "2.13.0",
        "runtime": "eager",
        "created": "2026-11-21",
        "model_type": "bert",
        "head_size": 16,
        "chain_layers": 4,
        "reference_ms": 2.0,
        "entries": [item for group in groups or (entries(),) for item in group],
        "checks": [check, check],
    }
