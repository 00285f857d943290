"""Predictions from profiles of either kind: a datasheet with fitted constants, or a look-up table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from nasopt.architecture.base import Precision
from nasopt.errors import LookupTableError, choices
from nasopt.measurement.lookup.table import CONFIDENCE, LookupTable, is_lookup_table
from nasopt.measurement.predicted.cell_cost import CellWorkload
from nasopt.measurement.predicted.device_profiles import find_profile
from nasopt.measurement.predicted.model import AnyWorkload, Case, Prediction, make_case, predict_many
from nasopt.measurement.predicted.software import DEFAULT_PRECISION, DEFAULT_RUNTIME, RuntimeNotKnownError
from nasopt.measurement.predicted.transformer_cost import Workload


@dataclass(frozen=True)
class LookupCase:
    """One pass whose latency is looked up in a table."""

    table: LookupTable
    precision: Precision
    workload: Workload


AnyCase: TypeAlias = Case | LookupCase


def any_case(
    profile: str, runtime: str | None, precision: str | None, workload: AnyWorkload, source: str = ""
) -> AnyCase:
    """A case that can be predicted.

    Args:
        profile: A profile's name or alias, or a JSON file with a profile or a look-up table.
        runtime: None (or empty) for the profile's default: TensorRT, or what the table was measured in.
        precision: None (or empty) for fp16; with a table, for fp32 if it has that, else for its first.
        workload: The pass.
        source: See :func:`nasopt.measurement.predicted.model.make_case`.

    Raises:
        NasoptError: there is no such profile, or it does not cover the runtime, the precision or the size of the heads.
    """
    table = _table(profile)
    if table is None:
        chosen = (runtime or DEFAULT_RUNTIME, precision or DEFAULT_PRECISION)
        return make_case(find_profile(profile), *chosen, workload, source)
    if isinstance(workload, CellWorkload):
        raise LookupTableError(f"{profile}: a look-up table of encoders of layers, not of chains of cells")
    if runtime and runtime != table.runtime:
        raise RuntimeNotKnownError(f"{profile}: a look-up table of the runtime {table.runtime}, not of {runtime!r}")
    if wrong := {layer.head_size for layer in workload.layers if layer.heads} - {table.head_size}:
        raise LookupTableError(
            f"{profile}: a look-up table of heads of size {table.head_size}, not of {choices(sorted(wrong))}"
        )
    return LookupCase(table, table.known_precision(precision or None), workload)


def predict_any(cases: Sequence[AnyCase]) -> list[Prediction]:
    """The latencies of many cases, in their order."""
    cases_of_profiles = [case for case in cases if isinstance(case, Case)]
    analytic = iter(predict_many(cases_of_profiles) if cases_of_profiles else ())
    return [next(analytic) if isinstance(case, Case) else _looked_up(case) for case in cases]


def _looked_up(case: LookupCase) -> Prediction:
    table, workload = case.table, case.workload
    found = table.predict(
        [(layer.heads, layer.ffn_size) for layer in workload.layers],
        hidden_size=workload.hidden_size,
        batch_size=workload.batch_size,
        sequence_length=workload.sequence_length,
        precision=case.precision,
    )
    note = f"predicted, {table.identity}, +-{found.interval_percent:.0f} %"
    if found.beyond:
        note += f", extrapolated ({found.beyond})"
    return Prediction(
        latency_ms=found.latency_ms,
        low=found.low,
        high=found.high,
        source="predicted",
        profile=table.identity,
        runtime=table.runtime,
        software=f"torch {table.torch_version}",
        precision=case.precision,
        interval_percent=found.interval_percent,
        coverage=CONFIDENCE,
        extrapolated=bool(found.beyond),
        beyond=found.beyond,
        note=note,
    )


@lru_cache
def _table(profile: str) -> LookupTable | None:
    """The look-up table in a file; None if `profile` names anything else (also a file that cannot be read)."""
    if not profile.endswith(".json") and "/" not in profile:
        return None
    try:
        document = json.loads(Path(profile).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return LookupTable.of_document(document, profile) if is_lookup_table(document) else None
