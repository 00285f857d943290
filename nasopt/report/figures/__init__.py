"""Figures of a study: functions that take an Optuna study and return a plotly figure.

They read what a study stores and write nothing. No torch here: notebooks and the command line draw without it. The
examples below go on from this one:

    >>> import optuna
    >>> from nasopt.report import figures
    >>> study = optuna.load_study(study_name="quickstart", storage="sqlite:///nasopt.db")

In a notebook a figure is shown by its name; elsewhere `figure.show()` opens a browser.
"""

from nasopt.report.figures.curves import curves
from nasopt.report.figures.front import front, front_3d
from nasopt.report.figures.genes import genes
from nasopt.report.figures.kinds import KINDS, draw
from nasopt.report.figures.progress import hypervolume
from nasopt.report.figures.sensitivity import sensitivity
from nasopt.report.figures.shapes import architecture

__all__ = [
    "KINDS",
    "architecture",
    "curves",
    "draw",
    "front",
    "front_3d",
    "genes",
    "hypervolume",
    "sensitivity",
]
