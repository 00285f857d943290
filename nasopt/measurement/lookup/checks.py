"""Checks that a look-up table fits a study: its precisions, threads and model, and the machine that confirms it."""

from __future__ import annotations

from collections.abc import Sequence

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.outside import OutsideArchitecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import LookupTableError, choices
from nasopt.measurement.device import device_name, resolve_device
from nasopt.measurement.lookup.table import LookupTable


def open_table(latency: LatencyConfig, precisions: Sequence[str]) -> LookupTable:
    """The table of a latency objective.

    Args:
        latency: the objective, with a `lut`.
        precisions: the precisions in which the search stores models, as far as they are known beforehand.

    Raises:
        LookupTableError: the file is wrong, or fits neither the objective nor the machine that is to confirm it.
        DeviceNotFoundError: the device that is to confirm it is not here.
    """
    path = latency.lut
    assert path is not None
    table = LookupTable.read(path)
    if latency.threads not in (None, table.threads) and not table.driver:
        raise LookupTableError(
            f"{path}: measured with threads = {table.threads}, but [latency] says {latency.threads}; change one of them"
        )
    missing = [name for name in dict.fromkeys(("fp32", *precisions)) if name not in table.precisions]
    if missing:
        raise LookupTableError(
            f"{path}: has no {choices(missing)}, which the study needs; make it again with a --precision for each "
            "(`nasopt device profile`)"
        )
    if latency.confirm and (here := device_name(resolve_device(latency.device))) != table.device:
        raise LookupTableError(
            f"{path}: measured on {table.device!r}, but this machine has {here!r}, so that nothing could be confirmed; "
            "set `confirm = false` under [latency], or run there"
        )
    return table


def check_model(table: LookupTable, model_type: str, shape: EncoderShape) -> None:
    """Makes sure that a table was made for candidates of a base model.

    Raises:
        LookupTableError: it was made for another family, or for heads of another size.
    """
    cure = "`nasopt device profile --model PATH` makes the model's own"
    if model_type != table.model_type:
        raise LookupTableError(
            f"the look-up table is of {table.model_type!r} models, but the model is of the type {model_type!r}; {cure}"
        )
    if shape.head_size != table.head_size:
        raise LookupTableError(
            f"the look-up table is of heads of size {table.head_size}, but the model's are of size {shape.head_size}; "
            f"{cure}"
        )


def check_outside(table: LookupTable, architecture: OutsideArchitecture) -> None:
    """Makes sure that a table tells the latency of a model that was made elsewhere.

    Raises:
        LookupTableError: it was made for another family, for heads of another size, or for other widths.
    """
    widths = sorted({entry.hidden_size for entry in table.entries})
    pairs = {
        "type": (table.model_type, architecture.model_type),
        "head size": (table.head_size, architecture.head_size),
    }
    wrong = [f"{name} {its}, not {own}" for name, (own, its) in pairs.items() if own != its]
    if not widths[0] <= architecture.hidden_size <= widths[-1]:
        wrong.append(f"hidden size {architecture.hidden_size}, not {choices(widths)}")
    if wrong:
        raise LookupTableError(
            f"model {architecture.model.source!r}: this study's latencies are looked up in a table of other models "
            f"(it is of {'; of '.join(wrong)}); compare it in a study whose latencies are measured"
        )
