"""The installed methods: ours, and those that other packages name in the entry-point group ``nasopt.methods``."""

from __future__ import annotations

from importlib.metadata import entry_points

from nasopt.config.study import StudyConfig, check_section
from nasopt.errors import StudyFileError, choices
from nasopt.methods.base import Method

ENTRY_POINTS = "nasopt.methods"


def available() -> dict[str, type[Method]]:
    """Every installed method by name."""
    return {point.name: point.load() for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: p.name)}


def find(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        StudyFileError: there is none.
    """
    methods = available()
    if name not in methods:
        raise StudyFileError(f"method: {name!r} is not a method; one of {choices(methods)}")
    return methods[name]


def make_method(config: StudyConfig) -> Method:
    """The study's method with its options.

    Raises:
        StudyFileError: there is no such method, it is not for the task, or an option is not allowed.
    """
    method = find(config.method)
    if config.task.type not in method.about.task_types:
        raise StudyFileError(
            f"task.type: {config.method} does not search models for {config.task.type}, only for "
            f"{choices(method.about.task_types)}"
        )
    options, errors = check_section(method.about.options, config.method_options, prefix="method_options.")
    if options is None:
        raise StudyFileError("; ".join(errors))
    return method(options)
