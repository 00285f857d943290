"""Makes transformers' Auto classes know our exported model types, without importing transformers for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

TRIGGER = "transformers.models.auto.modeling_auto"
"""The module that defines the Auto classes: once it is imported, registering costs nothing more."""

MODULES = ("nasopt.models.modeling_nasopt", "nasopt.models.modeling_adabert")


def register_with_transformers() -> None:
    """Registers now if the Auto classes are loaded, else as soon as they are."""
    if TRIGGER in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _RegisterAfterImport())


def _register() -> None:
    for name in MODULES:
        # One that is there is what imports the Auto classes just now, and is not complete: who imports it registers it.
        if name not in sys.modules:
            import_module(name).register()


class _RegisterAfterImport(MetaPathFinder):
    """Finds the trigger the ordinary way, once, and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TRIGGER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()
