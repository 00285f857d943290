"""The installed methods: ours, and those that other packages name in the entry-point group ``nasopt.methods``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from nasopt.architecture.artifacts import precisions_of
from nasopt.config.functions import is_function_name, load_function
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
    given = {**_possible_precisions(method, config), **config.method_options}
    options, errors = check_section(method.about.options, given, prefix="method_options.")
    if options is None:
        raise StudyFileError("; ".join(errors))
    return method(options)


def _possible_precisions(method: type[Method], config: StudyConfig) -> dict[str, Any]:
    """The method's default `precisions`, without those that have no artifact in the study's runtimes."""
    field = method.about.options.model_fields.get("precisions")
    if field is None or not isinstance(field.default, tuple):
        return {}
    known = [set(precisions_of(latency.usual_runtime, latency.device)) for latency in config.latency]
    return {"precisions": tuple(name for name in field.default if all(name in one for one in known))}


def named_functions(method: type[Method], options: Mapping[str, Any]) -> dict[str, str]:
    """The functions ``package.module:function`` that a method's options name, by option. Imports nothing."""
    named = {option: options.get(option) for option in method.about.function_options}
    return {option: str(name) for option, name in named.items() if is_function_name(name)}


def function_errors(method: type[Method], options: Mapping[str, Any]) -> list[str]:
    """Imports the functions that a method's options name; returns a message for each that cannot be imported."""
    errors = []
    for option, name in named_functions(method, options).items():
        try:
            load_function(name)
        except ValueError as error:
            errors.append(f"method_options.{option}: {error}")
    return errors


def check_functions(config: StudyConfig) -> None:
    """Imports the functions that a study names, so that a missing one is noticed before anything is trained.

    Raises:
        StudyFileError: there is no such method, or a function cannot be imported.
    """
    errors = function_errors(find(config.method), config.method_options)
    if errors:
        raise StudyFileError("; ".join(errors))
