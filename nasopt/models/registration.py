"""Makes transformers' Auto classes know the model types that it lacks, without importing transformers itself.

These are the types of our own exported models, and of other packages' models. Such a package names, in the entry-point
group :data:`ENTRY_POINTS`, a module that defines `MODELS`: by configuration class, the encoder without a head and those
with one, for classes of texts and maybe of tokens, and for answers. The module's file is copied into exported folders,
so it imports torch and transformers only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

TRIGGER = "transformers.models.auto.modeling_auto"
"""The module that defines the Auto classes: once it is imported, registering costs nothing more."""

OWN_MODULES = ("nasopt.models.modeling_nasopt", "nasopt.models.modeling_adabert")

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""Ends of the names of classes of models: their heads."""

ENTRY_POINTS = "nasopt.models"
"""Entry points of other packages' modelling modules: the value is the module; the name is only shown to people."""


def modeling_modules() -> tuple[str, ...]:
    """The names of the modules with models that transformers lacks: ours, then those of other packages."""
    from importlib.metadata import entry_points  # slow to import, and needed with transformers only

    points = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    return tuple(dict.fromkeys((*OWN_MODULES, *(point.value for point in points))))


def register_models(module: Any) -> None:
    """Makes transformers' Auto classes know the `MODELS` of a module: they then load without `trust_remote_code`."""
    import transformers

    for config, classes in module.MODELS.items():
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        # `save_pretrained` copies the module's file beside the weights for classes that have an auto class.
        config.register_for_auto_class()
        for name, model in auto_classes(classes).items():
            getattr(transformers, name).register(config, model, exist_ok=True)
            model.register_for_auto_class(name)


def auto_classes(classes: Sequence[Any]) -> dict[str, Any]:
    """Some models by the names of the Auto classes that load them: by its head if a name has one of :data:`HEADS`."""
    return {auto_name(model.__name__): model for model in classes}


def auto_name(model: str) -> str:
    """The name of the Auto class that loads a class of models."""
    return next((f"AutoModel{head}" for head in HEADS if model.endswith(head)), "AutoModel")


def register_with_transformers() -> None:
    """Registers now if the Auto classes are loaded, else as soon as they are."""
    if TRIGGER in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _RegisterAfterImport())


def _register() -> None:
    for name in modeling_modules():
        # A module that is there imports the Auto classes right now, so it is not complete: `families` registers it.
        if name not in sys.modules:
            register_models(import_module(name))


class _RegisterAfterImport(MetaPathFinder):
    """A finder that finds the trigger the ordinary way, once, and wraps its loader."""

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
