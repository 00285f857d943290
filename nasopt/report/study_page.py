"""What nasopt adds to a study's page in optuna-dashboard: two figures and the study's note."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import FigureError
from nasopt.records import names, queries
from nasopt.records.notes import table
from nasopt.records.study import StudyRecord, store_details
from nasopt.records.trial import TrialRecord
from nasopt.report.figures import architecture, hypervolume
from nasopt.report.figures.groups import axes_of
from nasopt.storage.internals import study_system_attrs
from nasopt.storage.notes import read_note

MOST_MEMBERS = 24
"""Members in a figure or a note: a page with more is slow, and nobody reads them."""

FIGURES: Mapping[str, Callable[[optuna.Study, Path | None], go.Figure]] = {
    "nasopt-hypervolume": lambda study, _: hypervolume(study),
    "nasopt-architecture": lambda study, folder: architecture(study, folder, most=MOST_MEMBERS),
}
"""(study, artifact folder or None) -> figure, by the name under which optuna-dashboard keeps it."""

ENDED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)


def renew_page(study: optuna.Study, folder: Path | None = None) -> bool:
    """Stores figures and note anew if trials have ended since they were stored. Needs optuna-dashboard.

    A note that somebody wrote, or changed in the dashboard, stays. A study that is not nasopt's is left alone.

    Args:
        study: the study.
        folder: its artifact folder; None for the one that the study names.

    Returns:
        Whether anything was stored.
    """
    if StudyRecord.of(study).configuration is None:
        return False
    ended = len(study.get_trials(deepcopy=False, states=ENDED))
    drawn = queries.study_detail(study, names.PAGE) or {"ended": 0, "note": 0}
    if ended == drawn["ended"]:
        return False
    from optuna_dashboard import save_note, save_plotly_graph_object

    for name, draw in FIGURES.items():
        try:
            figure = draw(study, folder)
        except FigureError:
            continue  # there is nothing to draw yet
        save_plotly_graph_object(study, figure, graph_object_id=name)
    version = read_note(study_system_attrs(study), None)["version"]
    if version == drawn["note"]:
        save_note(study, study_note(study))
        version += 1
        drawn = {**drawn, "note": version}
    store_details(study, {names.PAGE: {**drawn, "ended": ended}})
    return True


def study_note(study: optuna.Study) -> str:
    """The note of a study, in Markdown: what is searched, and the front."""
    configuration = StudyRecord.of(study).configuration or {}
    task = configuration.get("task") or {}
    front = sorted(queries.pareto_front(study), key=lambda trial: trial.values[0], reverse=True)
    base = queries.base_of(study)
    counts = f"{len(queries.complete_trials(study))} complete trials, {len(front)} on the front"
    parts = [
        f"Method {_code(configuration.get('method'))}, model {_code(task.get('model'))}, {_code(task.get('type'))} by "
        f"{_code(task.get('metric'))}. {counts}.",
        _front_table(study, front[:MOST_MEMBERS], base),
        f"`nasopt study report {_plain(study.study_name)} --to report.html` says which members beat their controls; "
        f"`nasopt study export {_plain(study.study_name)} --knee --to model` exports one.",
        "*Written by nasopt. A note that you change stays as it is.*",
    ]
    return "\n\n".join(parts)


def _front_table(study: optuna.Study, front: list[FrozenTrial], base: FrozenTrial | None) -> str:
    axes = axes_of(study)
    rows = []
    for trial in front:
        name = "base model" if base is not None and trial.number == base.number else f"trial {trial.number}"
        values = [f"{axis.value(trial):.{axis.digits}f}" for axis in axes]
        rows.append([name, *values, _plain(TrialRecord.of(trial).architecture or "")])
    return table(["", *(axis.label for axis in axes), "what stays"], rows)


def _code(text: object) -> str:
    """A text from the database, of which nothing is taken for Markdown."""
    return f"`{_plain(text)}`"


def _plain(text: object) -> str:
    return str(text).translate(str.maketrans("`|\n\r", "'/  "))
