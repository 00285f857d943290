"""A user's functions, named in a study file as ``package.module:function``.

A name is checked without importing anything. The module is imported when the function is called, or when `create` and
the start of a run make sure that it can be imported. The current folder is searched during the import only.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


def is_function_name(name: object) -> bool:
    """Whether a value is of the form ``package.module:function``. Imports nothing."""
    if not isinstance(name, str):
        return False
    module, separator, function = name.partition(":")
    return bool(separator) and all(part.isidentifier() for part in [*module.split("."), function])


def check_function_name(name: str) -> str:
    """The name, if it is of the form ``package.module:function``. Imports nothing.

    Raises:
        ValueError: it is not.
    """
    if not is_function_name(name):
        raise ValueError(f"{name!r} is not of the form package.module:function")
    return name


def load_function(name: str) -> Callable[..., Any]:
    """Imports the function called ``package.module:function``; the current folder is searched last.

    Raises:
        ValueError: it is not written that way, cannot be imported, or is not a function.
    """
    module_name, _, function_name = check_function_name(name).partition(":")
    try:
        with _current_folder_last():
            module = importlib.import_module(module_name)
        function = getattr(module, function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from None
    except Exception as error:  # a user's module can raise anything when it is imported
        raise ValueError(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise ValueError(f"{name!r} is not a function")
    return function  # type: ignore[no-any-return]


def deferred(name: str) -> Callable[..., Any]:
    """A function that calls the one of that name, which is imported at the first call.

    Raises:
        ValueError: it is not written as ``package.module:function``.
    """
    check_function_name(name)
    load = functools.cache(load_function)

    def call(*arguments: Any, **options: Any) -> Any:
        return load(name)(*arguments, **options)

    return call


def source_files(name: str) -> tuple[Path, ...]:
    """The files that an import of ``package.module:function`` runs: the module's, and those of the packages above it.

    Nothing is imported to find them. A module without a source file (one of the interpreter's, or one that does not
    exist) gives none.
    """
    places: list[str] | None = None
    files: list[Path] = []
    parts = check_function_name(name).partition(":")[0].split(".")
    with _current_folder_last():
        for count in range(1, len(parts) + 1):
            spec = _find_spec(".".join(parts[:count]), places)
            if spec is None:
                break
            if spec.has_location and spec.origin is not None and Path(spec.origin).is_file():
                files.append(Path(spec.origin))
            if spec.submodule_search_locations is None:
                break
            places = list(spec.submodule_search_locations)
    return tuple(files)


def _find_spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    """Does what `importlib.util.find_spec` does, but imports no package above the module."""
    try:
        for finder in sys.meta_path:
            spec = finder.find_spec(name, places)
            if spec is not None:
                return spec
    except KeyError:
        # NOTE: a namespace package inside another one asks for that one's module, which has not been imported.
        found = [str(folder) for place in places or () if (folder := Path(place, name.rpartition(".")[2])).is_dir()]
        nested = ModuleSpec(name, None, is_package=True)
        nested.submodule_search_locations = found
        return nested
    return None


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """Puts the current folder at the end of `sys.path`, so that installed packages go before files in it."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
