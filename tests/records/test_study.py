"""Records of studies, and the base trial that is fixed once."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from nasopt.records import queries
from nasopt.records.study import StudyRecord, TfidfRecord, fix_base

STORED: dict[str, Any] = {
    "nasopt:data": {"dataset": "abc", "model": None},
    "nasopt:artifacts": "folder",
    "nasopt:config": {"name": "study"},
    "nasopt:base": 0,
    "nasopt:reference_point": [0.0, 1.1],
    "nasopt:tfidf": {"quality": 0.5, "metric": "accuracy", "seconds": 1.0},
    "confirmed:7": {},
    "adabert:supernet": {"checkpoint": "abc"},
    "confirmed:by": "a user's own",
}


@pytest.fixture
def study() -> optuna.Study:
    """A study without trials that maximises one value and minimises another."""
    return optuna.create_study(directions=["maximize", "minimize"])


def test_a_study_is_read_by_its_parts_and_written_back_equal(study: optuna.Study) -> None:
    StudyRecord.of_attributes(STORED).write_to(study)
    assert study.user_attrs == STORED
    record = StudyRecord.of(study)
    assert record.tfidf == TfidfRecord(0.5, "accuracy", 1.0)
    assert record.reference_point == (0.0, 1.1)
    assert list(record.confirmations) == [7]
    assert record.details == {name: STORED[name] for name in ("adabert:supernet", "confirmed:by")}
    assert StudyRecord.stored(study._storage, study._study_id) == record


@pytest.mark.parametrize("tfidf", [None, {"quality": 0.5}, "x"])
def test_an_attribute_of_another_form_stays_as_it_is(tfidf: object) -> None:
    stored = {"nasopt:tfidf": tfidf, "nasopt:base": None}
    record = StudyRecord.of_attributes(stored)
    assert record.tfidf is None
    assert record.to_attributes() == stored


def test_the_base_is_read_without_being_written_and_fixed_once(study: optuna.Study) -> None:
    fix_base(study)
    assert (queries.base_of(study), queries.reference_point(study)) == (None, None)
    study.add_trial(optuna.trial.create_trial(values=[0.5, 10.0], user_attrs={"base": True}))
    base = queries.base_of(study)
    assert base is not None
    assert queries.reference_point(study) == (0.0, 11.0)
    assert study.user_attrs == {}
    fix_base(study)
    assert study.user_attrs == {"nasopt:base": 0, "nasopt:reference_point": [0.0, 11.0]}
    study.add_trial(optuna.trial.create_trial(values=[0.5, 20.0], user_attrs={"base": True}))
    fix_base(study)
    assert (queries.base_of(study), queries.reference_point(study)) == (base, (0.0, 11.0))
