"""A look-up table as a source of predictions for a study, with the same call as the analytic model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasopt.errors import LookupTableError, choices
from nasopt.measurement.device import device_name, resolve_device
from nasopt.measurement.lut import LayerSizes, LookupTable
from nasopt.models.architecture import EncoderShape, Precision


class LookupPredictor:
    """Predicts candidates of one base model.

    Args:
        table: where their blocks are looked up.
    """

    def __init__(self, table: LookupTable) -> None:
        self.table = table

    @property
    def profile(self) -> str:
        """What the values are predicted for: the device, and its threads."""
        return self.table.identity

    @property
    def runtime(self) -> str:
        return self.table.runtime

    def predict(
        self,
        layers: Sequence[LayerSizes],
        shape: EncoderShape,
        precision: Precision,
        batch_size: int,
        sequence_length: int,
    ) -> tuple[float, float, float]:
        """Latency in ms, and the ends of its interval.

        Args:
            layers: heads and FFN neurons of each layer that is kept.
            shape: the base model's.
            precision, batch_size, sequence_length: of the batch.

        Raises:
            LookupTableError: the table has other heads than the model, or no such precision.
        """
        self.check_heads(shape)
        found = self.table.predict(
            layers,
            hidden_size=shape.hidden_size,
            batch_size=batch_size,
            sequence_length=sequence_length,
            precision=precision,
        )
        return found.latency_ms, found.low_ms, found.high_ms

    def beyond(
        self, layers: Sequence[LayerSizes], shape: EncoderShape, batch_size: int, sequence_length: int
    ) -> tuple[str, ...]:
        """What of a model lies beyond the table's grid, in words."""
        found = self.table.predict(
            layers,
            hidden_size=shape.hidden_size,
            batch_size=batch_size,
            sequence_length=sequence_length,
            precision=self.table.precisions[0],
        )
        return found.extrapolated

    def check_heads(self, shape: EncoderShape) -> None:
        """Raises LookupTableError where the base model's heads are not of the table's size."""
        if shape.head_size != self.table.head_size:
            raise LookupTableError(
                f"the look-up table is of heads of size {self.table.head_size}, but the model's are of size "
                f"{shape.head_size}; `nasopt device profile --model PATH` makes the model's own"
            )

    def check_model(self, model_type: str, shape: EncoderShape) -> None:
        """Whether the table was made for such a base model.

        Raises:
            LookupTableError: it is of another family, or has other heads.
        """
        if model_type != self.table.model_type:
            raise LookupTableError(
                f"the look-up table is of {self.table.model_type!r} models, but the model is of the type "
                f"{model_type!r}; `nasopt device profile --model PATH` makes the model's own"
            )
        self.check_heads(shape)


def open_lookup(
    path: str | Path, *, threads: int | None, precisions: Sequence[str], confirm_on: str | None
) -> LookupPredictor:
    """The table of a study.

    Args:
        path: the file.
        threads: what the study says of threads; None for the table's.
        precisions: in which the search stores models.
        confirm_on: the device (``cpu``, ``cuda``) on which predictions are going to be confirmed; None if they are not.

    Raises:
        LookupTableError: the file is wrong, or does not fit the study or this machine.
        DeviceNotFoundError: `confirm_on` is not here.
    """
    table = LookupTable.read(path)
    if threads is not None and not table.driver and threads != table.threads:
        raise LookupTableError(
            f"{path}: measured with {table.threads} threads, but [latency] says {threads}; change one of them"
        )
    missing = [precision for precision in ("fp32", *precisions) if precision not in table.precisions]
    if missing:
        raise LookupTableError(
            f"{path}: has no {choices(dict.fromkeys(missing))}, which the study needs; make it again with a "
            "--precision for each (`nasopt device profile`)"
        )
    if confirm_on is not None and (here := device_name(resolve_device(confirm_on))) != table.device:
        raise LookupTableError(
            f"{path}: measured on {table.device!r}, but this machine has {here!r}, so that nothing could be confirmed; "
            "set `confirm = false` under [latency], or run there"
        )
    return LookupPredictor(table)
