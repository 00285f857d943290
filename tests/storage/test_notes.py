"""Notes are stored and read as optuna-dashboard does it."""

import optuna
import pytest

from nasopt.storage.internals import storage_of
from nasopt.storage.notes import PIECE_LENGTH, read_note, save_note


@pytest.mark.parametrize("length", [1, PIECE_LENGTH, PIECE_LENGTH + 1, 3 * PIECE_LENGTH + 7])
def test_optuna_dashboard_reads_what_was_stored(length: int) -> None:
    get_note = pytest.importorskip("optuna_dashboard").get_note
    study = optuna.create_study()
    trials = [study.ask(), study.ask()]
    text = ("ab\n" * length)[:length]
    save_note(trials[0], text)
    save_note(trials[1], "other")
    assert get_note(trials[0]) == text
    assert get_note(trials[1]) == "other"


def test_what_was_stored_is_read_back() -> None:
    study = optuna.create_study()
    trial = study.ask()
    save_note(trial, "a" * (PIECE_LENGTH + 1))
    system_attrs = storage_of(study).get_study_system_attrs(study._study_id)
    assert read_note(system_attrs, trial._trial_id) == {"version": 1, "body": "a" * (PIECE_LENGTH + 1)}
    assert read_note(system_attrs, None) == {"version": 0, "body": ""}
