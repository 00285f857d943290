"""Notes as optuna-dashboard keeps them, in pieces among a study's system attributes; that package is not needed.

A note is stored under `dashboard:<trial id>:note_str:<piece>`, its version under `dashboard:<trial id>:note_ver`.
"""

from __future__ import annotations

from typing import Any

import optuna

from nasopt.storage.internals import note_id, set_study_system_attrs

PIECE_LENGTH = 2045
"""The length of one piece of a note in characters: optuna-dashboard's `SYSTEM_ATTR_MAX_LENGTH`."""


def save_note(trial: optuna.Trial, text: str) -> None:
    """Stores a trial's note as `optuna_dashboard.save_note` does; call it once for each trial.

    NOTE: that function reads every note of the study, twice, to find out how often this one has been saved.

    Args:
        text: Markdown.
    """
    prefix = _prefix(note_id(trial))
    pieces = [text[start : start + PIECE_LENGTH] for start in range(0, len(text), PIECE_LENGTH)]
    rows: dict[str, Any] = {f"{prefix}_str:{index}": piece for index, piece in enumerate(pieces)}
    # The version comes last: a reader sees the whole note or none.
    set_study_system_attrs(trial, {**rows, f"{prefix}_ver": 1})


def read_note(system_attrs: dict[str, Any], trial_id: int | None) -> dict[str, Any]:
    """The note of a trial, or of the study if `trial_id` is None, as optuna-dashboard's serializer wants it.

    Args:
        system_attrs: the study's.
        trial_id: the trial's number in the whole database.
    """
    prefix = _prefix(trial_id)
    if f"{prefix}_ver" not in system_attrs:
        return {"version": 0, "body": ""}
    pieces: list[str] = []
    while (piece := system_attrs.get(f"{prefix}_str:{len(pieces)}")) is not None:
        pieces.append(piece)
    return {"version": int(system_attrs[f"{prefix}_ver"]), "body": "".join(pieces)}


def _prefix(trial_id: int | None) -> str:
    return "dashboard:note" if trial_id is None else f"dashboard:{trial_id}:note"
