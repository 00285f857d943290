"""A frozen record of everything that a trial stores, by which it is written and read.

A trial's user attributes come one after another while it runs, so a record may be partial: a trial that failed half way
has an architecture and no latency. An attribute that is not there is None in the record, and is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from nasopt.errors import StorageError
from nasopt.records import names
from nasopt.records.latency import Latencies, latencies_from_json, latencies_to_json

T = TypeVar("T")


class HasAttributes(Protocol):
    """An object of Optuna's with user attributes: a trial, running or frozen, a study or its summary."""

    @property
    def user_attrs(self) -> dict[str, Any]: ...


class TakesAttributes(Protocol):
    """An object of Optuna's that takes user attributes: a running trial, or a study."""

    def set_user_attr(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class MemoryRecord:
    """A model's memory in MB (10^6 bytes), whichever of the two is the objective.

    Attributes:
        weights_mb: the size of the weights as they are stored for inference.
        peak_mb: the highest use of memory in one forward pass.
        device: the device on which that pass ran.
        form: `onnx` where the weights are an ONNX file's; None where they are torch's tensors.
    """

    weights_mb: float
    peak_mb: float
    device: str
    form: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> MemoryRecord:
        """The record that `to_json` gave.

        Raises:
            TypeError: the document has other parts.
        """
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        form = {} if self.form is None else {"form": self.form}
        return {"weights_mb": self.weights_mb, "peak_mb": self.peak_mb, "device": self.device, **form}


@dataclass(frozen=True)
class ControlRecord:
    """A control: a trial without parameters that the search is compared with.

    Attributes:
        label: its kind, in a word.
        recipe: the data that it is made from, as JSON; equal recipes make the same control.
        depth: the number of layers that it keeps; None for one without layers.
    """

    label: str
    recipe: Mapping[str, Any] | None = None
    depth: int | None = None


@dataclass(frozen=True)
class TrialRecord:
    """Everything that a trial stores beside its parameters and values. A field that it has not (yet) stored is None.

    Attributes:
        checkpoint: key of the fp32 weights.
        architecture: the candidate's shape in a few words.
        precision: the one in which the model is measured and exported.
        parent: number of the trial whose weights were inherited.
        finetune_epochs: epochs on the task's loss, over the whole line of parents.
        distill_epochs: epochs of distillation, over the whole line of parents.
        search_epochs: epochs of the network of many candidates that the weights come from.
        training_budget: examples times passes behind the weights, each weighted by its share of the base's FLOPs; None
            in trials of older versions.
        training_result: steps, tokens, seconds and loss of the training in this trial; empty if there was none.
        parameters: number of weights.
        flops: FLOPs of one forward pass of the first latency's batch.
        latencies: the latencies by objective.
        memory: the memory of the weights, and the highest use in one pass.
        quality_details: the parts of the quality, by name.
        quality_by_dimension: the quality of vectors that are cut to their first entries, by their number as text.
        is_base: whether it is the base model.
        control: the control's record, if it is a control.
        failure: the reason why it failed, on one line.
        interrupted: whether it was stopped before it ended, and is to be tried again.
        died: whether its process ended without a word.
        rejected: the reason why the candidate was not built.
        provisional: whether its weights are a slice of a network trained for many candidates, and not healed.
        screened: the reason why it was given up on a part of the validation split.
        repeats: number of the trial whose work it would have done again.
        retry_of: number of the interrupted trial that it tries again.
        worker: the process that ran it (see :func:`nasopt.host.identity.worker_identity`).
        exhausted: whether the sampler had nothing left to propose.
        device_change: the change of device that the user accepted, in words.
        details: the method's own attributes, and all others whose name or form is not known.
        nulls: names of the attributes that are stored as null, such as `parent` in the base model's trial.
    """

    checkpoint: str | None = None
    architecture: str | None = None
    precision: str | None = None
    parent: int | None = None
    finetune_epochs: int | None = None
    distill_epochs: int | None = None
    search_epochs: int | None = None
    training_budget: float | None = None
    training_result: Mapping[str, Any] | None = None
    parameters: int | None = None
    flops: int | None = None
    latencies: Latencies | None = None
    memory: MemoryRecord | None = None
    quality_details: Mapping[str, float | str] | None = None
    quality_by_dimension: Mapping[str, float] | None = None
    is_base: bool | None = None
    control: ControlRecord | None = None
    failure: str | None = None
    interrupted: bool | None = None
    died: bool | None = None
    rejected: str | None = None
    provisional: bool | None = None
    screened: str | None = None
    repeats: int | None = None
    retry_of: int | None = None
    worker: Mapping[str, Any] | None = None
    exhausted: bool | None = None
    device_change: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    nulls: frozenset[str] = frozenset()

    @classmethod
    def of(cls, trial: HasAttributes) -> TrialRecord:
        """The record of a trial; writing it gives the same attributes again, those of former versions included."""
        attributes = trial.user_attrs
        nulls = frozenset(name for name in _KNOWN if name in attributes and attributes[name] is None)
        left = {name: value for name, value in attributes.items() if name not in nulls}
        values: dict[str, Any] = {name: left.pop(key) for name, key in _PLAIN.items() if key in left}
        for name, key, read in _TYPED:
            if (found := read_as(read, left.get(key))) is not None:
                values[name] = found
                del left[key]
        if names.CONTROL in left:
            values["control"] = ControlRecord(*(left.pop(key, None) for key in _CONTROL))
        return cls(**values, details=left, nulls=nulls)

    def as_retry(self, number: int, parent: int | None) -> TrialRecord:
        """The record that a retry stores before it begins: the purpose of the trial of this number, and its parent."""
        nulls = self.nulls & set(names.PURPOSE)
        marks = TrialRecord(retry_of=number, is_base=self.is_base, control=self.control, **with_parent(parent))
        return replace(marks, nulls=marks.nulls | nulls)

    def to_attributes(self) -> dict[str, Any]:
        """The user attributes, as `Study.enqueue_trial` takes them too."""
        return dict(self._items())

    def write_to(self, trial: TakesAttributes) -> None:
        """Stores the record in a running trial; the trial's other attributes stay as they are."""
        self.write_with(trial.set_user_attr)

    def write_with(self, set_attribute: Callable[[str, Any], None]) -> None:
        """Stores the record with a function of an attribute's name and value, for a trial whose process is gone."""
        for name, value in self._items():
            set_attribute(name, value)

    def _items(self) -> Iterator[tuple[str, Any]]:
        for name, key in _PLAIN.items():
            if (value := getattr(self, name)) is not None:
                yield key, value
        if self.memory is not None:
            yield names.MEMORY, self.memory.to_json()
        if self.latencies is not None:
            yield names.LATENCY, latencies_to_json(self.latencies)
        if self.control is not None:
            given = (self.control.label, self.control.recipe, self.control.depth)
            yield from ((key, value) for key, value in zip(_CONTROL, given, strict=True) if value is not None)
        yield from self.details.items()
        yield from ((name, None) for name in sorted(self.nulls))


def control_marks(label: str, recipe: Mapping[str, Any], depth: int | None) -> TrialRecord:
    """The record that a control stores before it begins; a depth that it does not have is stored as null."""
    nulls = frozenset({names.CONTROL_DEPTH}) if depth is None else frozenset()
    return TrialRecord(control=ControlRecord(label, recipe, depth), nulls=nulls)


def with_parent(parent: int | None) -> dict[str, Any]:
    """The fields of a record whose parent is known; None is stored as null."""
    return {"parent": parent, "nulls": frozenset({names.PARENT}) if parent is None else frozenset()}


_PLAIN = {
    "worker": names.WORKER,
    "is_base": names.IS_BASE,
    "retry_of": names.RETRY_OF,
    "device_change": names.DEVICE_CHANGE,
    "quality_details": names.QUALITY_DETAILS,
    "quality_by_dimension": names.QUALITY_BY_DIMENSION,
    "checkpoint": names.CHECKPOINT,
    "architecture": names.ARCHITECTURE,
    "precision": names.PRECISION,
    "parent": names.PARENT,
    "finetune_epochs": names.FINETUNE_EPOCHS,
    "distill_epochs": names.DISTILL_EPOCHS,
    "search_epochs": names.SEARCH_EPOCHS,
    "training_budget": names.TRAINING_BUDGET,
    "training_result": names.TRAINING_RESULT,
    "parameters": names.PARAMETERS,
    "flops": names.FLOPS,
    "interrupted": names.INTERRUPTED,
    "died": names.DIED,
    "failure": names.FAILURE,
    "rejected": names.REJECTED,
    "provisional": names.PROVISIONAL,
    "screened": names.SCREENED,
    "repeats": names.REPEATS,
    "exhausted": names.EXHAUSTED,
}
"""Attributes that are stored as they are, by field."""

_CONTROL = (names.CONTROL, names.CONTROL_RECIPE, names.CONTROL_DEPTH)
"""Attributes of a control, as its record's fields."""


_TYPED: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("memory", names.MEMORY, MemoryRecord.of),
    ("latencies", names.LATENCY, latencies_from_json),
)

_KNOWN = (*_PLAIN.values(), *_CONTROL, *(key for _, key, _ in _TYPED))


def read_as(read: Callable[[Any], T], document: Any) -> T | None:
    """The record that `read` makes of a document; None if the document has another form."""
    try:
        return None if document is None else read(document)
    except (AttributeError, KeyError, StorageError, TypeError, ValueError):
        return None
