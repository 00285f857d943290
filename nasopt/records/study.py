"""A frozen record of everything that a study stores beside its trials, by which it is written and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nasopt.records import names, queries
from nasopt.records.latency import Confirmation, confirmations_from_json
from nasopt.records.trial import HasAttributes, TakesAttributes, read_as

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage


@dataclass(frozen=True)
class TfidfRecord:
    """The result of TF-IDF and a linear model on the study's data.

    Attributes:
        quality: the quality on the validation split.
        metric: the metric that the quality is.
        seconds: how long the fit took.
    """

    quality: float
    metric: str
    seconds: float

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> TfidfRecord:
        """The record that `to_json` gave."""
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        return {"quality": self.quality, "metric": self.metric, "seconds": self.seconds}


@dataclass(frozen=True)
class StudyRecord:
    """Everything that a study stores beside its trials. A field that it has not (yet) stored is None.

    Attributes:
        creator: the process that created the study (see :func:`nasopt.host.identity.worker_identity`).
        id: random text that the study's artifact folder names, too.
        configuration: the study file with all defaults, as JSON.
        artifacts: the folder that holds the study's own folder; a relative one starts from the SQLite file's folder.
        folder: name of the study's own folder, where that is not the configuration's name.
        data: content hashes of the local data and models, by kind; None for those that are not local.
        base: number of the base trial.
        reference_point: the hypervolume's reference point, in the units of the objectives, quality first.
        tfidf: the result of TF-IDF and a linear model.
        confirmations: by number of the trial, its latencies by objective, measured where they had been looked up.
        details: the method's own attributes, and all others whose name or form is not known.
    """

    creator: Mapping[str, Any] | None = None
    id: str | None = None
    configuration: Mapping[str, Any] | None = None
    artifacts: str | None = None
    folder: str | None = None
    data: Mapping[str, str | None] | None = None
    base: int | None = None
    reference_point: tuple[float, ...] | None = None
    tfidf: TfidfRecord | None = None
    confirmations: Mapping[int, Mapping[str, Confirmation]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, study: HasAttributes) -> StudyRecord:
        """The record of a study, or of its summary."""
        return cls.of_attributes(study.user_attrs)

    @classmethod
    def stored(cls, storage: BaseStorage, study_id: int) -> StudyRecord:
        """The record of a study in a database, by its id there.

        Raises:
            KeyError: there is no such study.
        """
        return cls.of_attributes(storage.get_study_user_attrs(study_id))

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any]) -> StudyRecord:
        """The record of a study's user attributes; writing it gives the same ones again."""
        values: dict[str, Any] = {}
        confirmations: dict[int, Mapping[str, Confirmation]] = {}
        details: dict[str, Any] = {}
        for key, value in attributes.items():
            if key in _FIELDS and value is not None:
                values[_FIELDS[key]] = value
            elif (confirmed := _confirmation(key, value)) is not None:
                confirmations[confirmed[0]] = confirmed[1]
            else:
                details[key] = value
        if "reference_point" in values:
            values["reference_point"] = tuple(values["reference_point"])
        if "tfidf" in values and (tfidf := read_as(TfidfRecord.of, values.pop("tfidf"))) is not None:
            values["tfidf"] = tfidf
        elif names.TFIDF in attributes:
            details[names.TFIDF] = attributes[names.TFIDF]
        return cls(**values, confirmations=confirmations, details=details)

    def to_attributes(self) -> dict[str, Any]:
        """The user attributes."""
        return dict(self._items())

    def write_to(self, study: TakesAttributes) -> None:
        """Stores the record; the study's other attributes stay as they are."""
        for name, value in self._items():
            study.set_user_attr(name, value)

    def _items(self) -> Iterator[tuple[str, Any]]:
        # The configuration comes last of the attributes of a new study: a study that has one is whole.
        plain = {
            names.CREATOR: self.creator,
            names.ID: self.id,
            names.DATA: self.data,
            names.ARTIFACTS: self.artifacts,
            names.FOLDER: self.folder,
            names.CONFIG: self.configuration,
        }
        yield from ((name, value) for name, value in plain.items() if value is not None)
        if self.reference_point is not None:
            yield names.REFERENCE_POINT, list(self.reference_point)
        if self.base is not None:
            yield names.BASE, self.base
        if self.tfidf is not None:
            yield names.TFIDF, self.tfidf.to_json()
        yield from (
            (f"{names.CONFIRMED}{number}", {name: item.to_json() for name, item in found.items()})
            for number, found in self.confirmations.items()
        )
        yield from self.details.items()


_FIELDS = {
    names.CREATOR: "creator",
    names.ID: "id",
    names.FOLDER: "folder",
    names.CONFIG: "configuration",
    names.ARTIFACTS: "artifacts",
    names.DATA: "data",
    names.BASE: "base",
    names.REFERENCE_POINT: "reference_point",
    names.TFIDF: "tfidf",
}
"""Fields by attribute."""


def _confirmation(key: str, value: Any) -> tuple[int, Mapping[str, Confirmation]] | None:
    """A trial's number and its confirmations; None for an attribute of another kind."""
    number = key.removeprefix(names.CONFIRMED)
    if number == key or not number.isdecimal() or str(int(number)) != number:
        return None
    found = read_as(confirmations_from_json, value)
    return None if found is None else (int(number), found)


def fix_base(study: Study) -> None:
    """Fixes, once, the base trial and the hypervolume's reference point, which later trials are compared with.

    Call it when the base trial is complete; before that, and once both are fixed, it does nothing.
    """
    if StudyRecord.of(study).base is not None:
        return
    base = queries.base_of(study)
    if base is not None:
        StudyRecord(base=base.number, reference_point=queries.reference_of(base)).write_to(study)


def store_details(study: Study, details: Mapping[str, Any]) -> None:
    """Stores a method's own attributes with a study; those that it has already are not written again."""
    stored = study.user_attrs
    changed = {name: value for name, value in details.items() if name not in stored or stored[name] != value}
    StudyRecord(details=changed).write_to(study)
